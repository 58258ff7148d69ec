// What a device implements. Algorithms (native/core) are written once over these primitives and run on every
// back end.
//
// Every primitive takes a plain argument struct. Pointers are to host memory, lengths are in the comments,
// and an output pointer may be null only where it says so. Decisions (join, best, topK, pairDots, segmentSum)
// are those of canonical.h, bit for bit, on every device and for every number of threads; `matmul`,
// `softmax`, `softmaxGradient`, `contrast`, `distil` and `adamw` are floating point, equal for one device and build.
#pragma once

#include "program.h"
#include "types.h"

namespace clipcid {

// Rows made ready for a back end's engine. It may read them again at any time: the rows must outlive it.
class Prepared {
 public:
  virtual ~Prepared() = default;

  int64_t rows = 0;
  int64_t dim = 0;
  // Rows are compared as their canonical rows rather than as stored.
  bool unit = false;
  // Largest |element| of the rows as compared: 1 for unit rows.
  double largest = 0;
  // Ascending: rows with a NaN or an infinity, and, of unit rows, rows whose canonical norm is zero. They are
  // compared as rows of zeros, so that they neither disturb a neighbour nor are chosen for any reason but a
  // tie.
  std::vector<int64_t> faults;
  // [rows] canonical dot of a row, as compared, with itself; 0 for a fault. Empty where PrepareArgs left it out.
  std::vector<double> squares;
};

struct PrepareArgs {
  Rows rows;
  // The rows [begin, begin + count) of them; to the end when count is negative.
  int64_t begin = 0;
  int64_t count = -1;
  bool unit = false;
  // Whether unit rows get `squares` too, which costs a pass over them; others always do.
  bool squares = true;
};

struct Pair {
  int32_t first;
  int32_t second;
};

// All pairs whose canonical dot is over the threshold, strictly.
struct JoinArgs {
  const Prepared* queries = nullptr;
  // The same object as `queries` for a self-join, which visits first < second only.
  const Prepared* keys = nullptr;
  double threshold = 0;
  // Whether the sink also gets canonical dots; then every pair is decided canonically.
  bool dots = false;
  // Asked, where it is given, before a pair is decided: whether the pair is of use to the caller if its dot is not over
  // `above`, which it isn't. A pair refused may be left out. From several threads; `worker` is that of parallelFor.
  std::function<bool(int worker, int32_t first, int32_t second, double above)> wanted = {};
  // Whether the sink may be called by several threads at the same time; otherwise one call at a time.
  bool concurrent = false;
  // Receives every pair once, in no order, from any thread, at most some thousands a call. Faults are in no
  // pair. `dots` is null unless asked for. It may wait; a failure ends the join.
  std::function<Status(const Pair* pairs, const double* dots, size_t count)> sink;
  // Receives what filter was chosen and why, in a few words: "int8, 512 of 512 dimensions, amx". Or null.
  std::string* plan = nullptr;
};

// The sets that the pairs over a threshold make of unit or other rows: connected components, strictly over.
struct ComponentsArgs {
  const Prepared* rows = nullptr;
  double threshold = 0;
  const uint8_t* skip = nullptr;  // [rows] not 0: in no pair; or null
  int32_t* labels = nullptr;      // [rows] smallest member of a row's set; faults are alone
  int64_t* edges = nullptr;       // how many pairs there are
  std::string* plan = nullptr;    // as JoinArgs::plan
};

// The key of highest score for each query; ties go to the smaller key.
struct BestArgs {
  const Prepared* queries = nullptr;
  const Prepared* keys = nullptr;
  // score = dot - square(key) / 2, which orders keys by Euclidean distance; otherwise score = dot. In
  // float64, of canonical dots.
  bool euclidean = false;
  // The queries that are asked for, ascending, and how many; all when null. Outputs are by place in this list.
  const int64_t* rows = nullptr;
  int64_t count = 0;
  int32_t* indices = nullptr;  // [count]
  double* scores = nullptr;    // [count] canonical score of the best, or null: it need not be computed then
  // [count], or null: only keys whose canonical score is over it count. A query without any gets index -1 and no
  // score.
  const double* above = nullptr;
  std::string* plan = nullptr;  // as JoinArgs::plan
};

// What a back end keeps from one assignment to the next of the same rows, to compare less.
class AssignMemory {
 public:
  virtual ~AssignMemory() = default;
};

// One assignment of k-means: the key of highest score for each row, as BestArgs has it, from a guess.
struct AssignArgs {
  const Prepared* rows = nullptr;
  const Prepared* centres = nullptr;
  bool euclidean = false;
  // [rows] in: the labels of before, or others that are likely; or -1. Out: those of the centres.
  int32_t* labels = nullptr;
  // Null, or where the back end may keep what it likes; made by the first call, for these rows and as many centres.
  std::unique_ptr<AssignMemory>* memory = nullptr;
  // [centres] not less than how far each moved, as a vector of float32, since the call before with this memory.
  // Null: anywhere.
  const double* drift = nullptr;
};

// The iterations of k-means, from starting centres to labels that do not change any more: the rules, and the words, are those of
// core/kmeans.h. `batch` problems of as many rows each, side by side.
struct IterateArgs {
  const Prepared* rows = nullptr;  // [batch N], unit rows when spherical, none at fault
  int64_t batch = 1;
  int64_t clusters = 1;
  bool spherical = true;
  const float* weights = nullptr;  // [batch N], or null for 1
  // [batch] scales of the fixed-point sums of rows and of weights.
  const double* sumScales = nullptr;
  const double* weightScales = nullptr;
  int64_t maxIterations = 0;
  double tolerance = 0;
  double movement = 0;
  const double* variances = nullptr;  // [batch], when movement is over 0
  float* centroids = nullptr;         // [batch, K, D] in: the starting centres; out: those of the labels
  int32_t* labels = nullptr;          // [batch N] out
  int32_t* iterations = nullptr;      // [batch] out
  // Moves rows of a problem to centres without any, as "Reseed" has it; labels [N], centroids [K, D].
  std::function<Status(int64_t problem, int32_t* labels, const float* centroids)> reseed = {};
  // Told how many iterations are done, of all problems together. Or null.
  std::function<void(int64_t iterations)> progress = {};
};

// The k keys of highest score for each query, best first; ties go to the smaller key. 1 <= k <= keys, less one
// with `skipSelf`. The score is the canonical dot; or, with a second pair of matrices of as many rows each, the
// product in float64 of both canonical dots, and 0 where either is over `cutoff`.
struct TopKArgs {
  const Prepared* queries = nullptr;
  const Prepared* keys = nullptr;
  const Prepared* secondQueries = nullptr;  // [queries], or null
  const Prepared* secondKeys = nullptr;     // [keys]
  double cutoff = 2;                        // of the two-matrix form; nothing is over 2
  bool skipSelf = false;                    // leave out key i for query i
  // The queries [begin, begin + count) of them; to the end when count is negative.
  int64_t begin = 0;
  int64_t count = -1;
  int64_t k = 1;
  int32_t* indices = nullptr;   // [count, k]
  double* scores = nullptr;     // [count, k]
  std::string* plan = nullptr;  // as JoinArgs::plan
};

// Canonical dots of listed pairs: (queries[first], keys[second]).
struct PairDotsArgs {
  const Prepared* queries = nullptr;
  const Prepared* keys = nullptr;
  const Pair* pairs = nullptr;
  int64_t count = 0;
  double* dots = nullptr;  // [count]
};

// Listed rows, as compared.
struct GatherArgs {
  const Prepared* rows = nullptr;
  const int64_t* indices = nullptr;
  int64_t count = 0;
  float* out = nullptr;  // [count, dim]
};

// Fixed-point sums of rows, as compared, by segment: toFixed(element * weight, scale), the product of the two
// in float64, which is exact.
struct SegmentSumArgs {
  const Prepared* rows = nullptr;
  // The rows that count, ascending, and how many; all rows when null.
  const int64_t* indices = nullptr;
  int64_t count = 0;
  const int32_t* segments = nullptr;  // [count or rows] segment of each, below segmentCount
  int64_t segmentCount = 0;
  const float* weights = nullptr;  // [count or rows], or null for 1
  double scale = 1;
  // What is done with `sums`: overwritten, added to, or subtracted from. As integers, so that a row which is
  // taken out leaves no trace.
  enum class Mode : uint8_t { kOverwrite, kAdd, kSubtract } mode = Mode::kOverwrite;
  int64_t* sums = nullptr;  // [segmentCount, dim]
};

// C = alpha op(A) op(B) + beta C, float32, row-major. op(A) is [m, k], op(B) is [k, n]. C is not read when
// beta is 0.
struct MatmulArgs {
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  // Elements from one stored row to the next.
  int64_t strideA = 0, strideB = 0, strideC = 0;
  bool transposeA = false;  // A is stored as [k, m]
  bool transposeB = false;  // B is stored as [n, k]
  float alpha = 1;
  float beta = 0;
};

// Canonical norms of rows, dense float32: sqrt of the canonical dot of a row with itself.
struct RowNormsArgs {
  const float* data = nullptr;  // [count, dim]
  int64_t count = 0, dim = 0;
  double* norms = nullptr;  // [count]
};

// One side of a matrix of logits: row i is that of `data` with index indices[i], or i, over norms[i], or 1. Instead of `data` a
// matrix of float32 on a device, for its back end; the host's memory is `data`.
struct SoftmaxSide {
  const float* data = nullptr;  // [., dim]
  int64_t count = 0;
  const int32_t* indices = nullptr;  // [count]
  const double* norms = nullptr;     // [count]
  // [count] instead of norms, or null: receives the rows' canonical norms, which they are taken over. If one is 0 or not
  // finite, the pass's other results mean nothing.
  double* measured = nullptr;
  const DeviceMatrix* device = nullptr;  // [., dim]
};

// Softmaxes over the keys, streaming: logits z[i, j] = scale * q[i] . k[j], tile by tile, never stored. Several sets of
// queries may share the pass over the keys. For each query the log-sum-exp of its logits and, where asked for, its
// target's logit and the expectation of the keys under the softmax (as in attention).
struct SoftmaxArgs {
  struct Queries {
    SoftmaxSide rows;
    double scale = 1;
    const int32_t* targets = nullptr;  // [rows], or null
    double* lse = nullptr;             // [rows]
    double* targetLogit = nullptr;     // [rows], or null
    float* values = nullptr;           // [rows, dim], or null; all sets or none
  };
  std::vector<Queries> queries;
  SoftmaxSide keys;
  int64_t dim = 0;
  // Log-sum-exps over the queries, [keys], or null; with one set of queries and without values.
  double* columnLse = nullptr;
};

// Weighted sums of values, with the weights of a softmax's gradient:
//   g[i, j] = rowWeight    (exp(z[i, j] - rowLse[i])    - [j == targets[i]])
//           + columnWeight (exp(z[i, j] - columnLse[j]) - [j == targets[i]])
// with an absent side left out. The log-sum-exps are those of a SoftmaxArgs pass over the same logits: no exponential
// is over 1, up to rounding.
struct SoftmaxGradientArgs {
  SoftmaxSide queries, keys;
  SoftmaxSide values;  // [keys]; `data` null: the keys
  int64_t dim = 0;
  double scale = 1;
  // The pass that gave the log-sum-exps had these keys as its queries. Then logits are summed up as they were there, and
  // equal to the bit on a CPU.
  bool mirrored = false;
  const int32_t* targets = nullptr;   // [queries], or null
  const double* rowLse = nullptr;     // [queries], or null
  const double* columnLse = nullptr;  // [keys], or null
  double rowWeight = 0, columnWeight = 0;
  // [., dim] sum_j g[i, j] values[j], unscaled; row i at queries.indices[i]. Overwritten, or added to.
  float* sums = nullptr;
  bool add = false;
  double* logitGradient = nullptr;  // sum_ij g[i, j] z[i, j], or null
};

// InfoNCE of the rows of x and y, each row of x with that of y: the mean over the rows of lse_i - z_ii with z = scale x y^T,
// and with `columns` the mean of that and of the same over the columns.
struct ContrastArgs {
  const float* x = nullptr;  // [rows, dim]
  const float* y = nullptr;  // [rows, dim]
  int64_t rows = 0;
  int64_t dim = 0;
  double scale = 1;
  bool columns = true;
  // Of the gradients, not of the value.
  double weight = 1;
  float* dx = nullptr;  // [rows, dim], added to
  float* dy = nullptr;  // [rows, dim], added to, or null; only with `columns`
  double* value = nullptr;
  double* logScaleGradient = nullptr;
};

// A student's softmax Q over keys and, where there is one, its teacher's P: logits z = scale student keys^T, forward and
// backward.
struct DistilArgs {
  const float* student = nullptr;  // [rows, dim] unit rows
  const float* teacher = nullptr;  // [rows, dim] unit rows, or null
  int64_t rows = 0;
  int64_t dim = 0;
  SoftmaxSide keys;
  double scale = 1;
  double teacherScale = 1;
  // Whether the results are used many times, as soft targets are: float32 is what they are worth.
  bool keeps = false;
  const int32_t* targets = nullptr;  // [rows] keys, or null
  double* lse = nullptr;             // [rows] of the student's logits
  double* targetLogit = nullptr;     // [rows], with targets
  double* divergence = nullptr;      // [rows] sum_j P_ij (log P_ij - log Q_ij), with a teacher
  // g_ij = studentWeight Q_ij - teacherWeight P_ij
  double studentWeight = 1;
  double teacherWeight = 0;
  float* sums = nullptr;  // [rows, dim] sum_j g_ij keys[j]
  float* keySums =
      nullptr;  // [., dim] sum_i g_ij student[i], at keys.indices[j], the others untouched; or null
};

struct AdamwGroup {
  int64_t length = 0;
  double rate = 1;
  double decay = 1;
};

// One AdamW step in place over flat float32 buffers; the gradients are zeroed.
struct AdamwArgs {
  float* parameters = nullptr;
  float* gradients = nullptr;
  float* first = nullptr;
  float* second = nullptr;
  float* ema = nullptr;  // or null
  int64_t length = 0;
  int64_t step = 1;
  double rate = 0, decay = 0, beta1 = 0.9, beta2 = 0.98, epsilon = 1e-6, clip = 0, emaDecay = 0;
  std::vector<AdamwGroup> groups;
  double* gradientNorm = nullptr;  // one number, before clipping
};

// What a device reaches at most, measured, in billions of operations a second, two to a multiply-add. Where there are no
// instructions for a precision it is done in the next more precise one, and so is its figure.
struct Peak {
  double float32 = 0;
  double bfloat16 = 0;
  double int8 = 0;
  // Billions of bytes a second that a copy reads and writes in the device's own memory; 0 on the CPU.
  double bandwidth = 0;
};

struct DeviceMemory {
  size_t total = 0;
  size_t free = 0;
};

class LossSteps;  // core/loss_steps.h

// One object a device. Calls may come from several threads at once; no exception leaves it.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual Status upload(const Context& context, const Rows& rows, std::shared_ptr<DeviceMatrix>* out) = 0;
  // `out` has DeviceMatrix::bytes() bytes.
  virtual Status download(const Context& context, const DeviceMatrix& matrix, void* out) = 0;
  // Gives the memory back as soon as the work queued on it is done.
  virtual void release(std::shared_ptr<DeviceMatrix> matrix) = 0;
  virtual DeviceMemory memory() = 0;
  virtual Status synchronise(const Context& context) = 0;
  // Takes well below a second.
  virtual Status peak(const Context& context, Peak* out) = 0;

  virtual Status prepare(const Context& context, const PrepareArgs& args, std::unique_ptr<Prepared>* out) = 0;
  virtual Status join(const Context& context, const JoinArgs& args) = 0;
  // What join and a union-find give; a back end need not hand out the pairs for it.
  virtual Status components(const Context& context, const ComponentsArgs& args) = 0;
  virtual Status best(const Context& context, const BestArgs& args) = 0;
  // By `best`, where a back end does not know how to spare comparisons.
  virtual Status assign(const Context& context, const AssignArgs& args) {
    return best(
        context,
        {.queries = args.rows, .keys = args.centres, .euclidean = args.euclidean, .indices = args.labels});
  }
  // Whether there is an `iterate`, and room for it. `rows` and `clusters` are those of a problem.
  virtual bool iterates(const Context&, int64_t /*batch*/, int64_t /*rows*/, int64_t /*dim*/,
                        int64_t /*clusters*/) {
    return false;
  }
  virtual Status iterate(const Context&, const IterateArgs&) {
    return {Code::kInternal, "This back end does not iterate by itself"};
  }
  virtual Status topK(const Context& context, const TopKArgs& args) = 0;
  virtual Status pairDots(const Context& context, const PairDotsArgs& args) = 0;
  virtual Status gather(const Context& context, const GatherArgs& args) = 0;
  virtual Status segmentSum(const Context& context, const SegmentSumArgs& args) = 0;
  virtual Status matmul(const Context& context, const MatmulArgs& args) = 0;
  virtual Status rowNorms(const Context& context, const RowNormsArgs& args) = 0;
  virtual Status softmax(const Context& context, const SoftmaxArgs& args) = 0;
  virtual Status softmaxGradient(const Context& context, const SoftmaxGradientArgs& args) = 0;
  // Unless a back end knows better, of passes of the two above (core/loss_passes.cpp).
  virtual Status contrast(const Context& context, const ContrastArgs& args);
  virtual Status distil(const Context& context, const DistilArgs& args);
  // Of the loss of a batch, on memory of the device; on the host's, of the primitives above, where a back end does not know
  // better. They go before the context does.
  virtual Status lossSteps(const Context& context, std::unique_ptr<LossSteps>* out);
  virtual Status adamw(const Context& context, const AdamwArgs& args) = 0;
  // What runs programs, within the context's threads or memory of a GPU.
  virtual Status runner(const Context& context, std::unique_ptr<Runner>* out) = 0;
};

// The CPU's back end, one a process.
Backend& cpuBackend();

}  // namespace clipcid
