// What the softmax primitives have in common: rows on the device as halves, strips of queries with a chunk of keys, and the memory
// for them.
//
// Queries are encoded once a call, and stay; so are all keys, where they fit, and otherwise come in chunks. Queries then go by in
// strips: the logits of a strip with the keys that are there, [strip, keys], are made, their log-sum-exps merged, and, where sums
// over values are wanted, turned into weights in place and multiplied with the values. How many queries a strip has, and how many
// keys a chunk, is the plan's (softmax_plan.h), and is not seen in the results: whatever is summed up over queries or keys is summed
// up in the same steps.
//
// Everything is queued on one stream. The host waits for the strip before the last, to see whether it is to stop.
#pragma once

#include <functional>

#include "clipcid/backend.h"
#include "cuda/loss_kernels.h"
#include "cuda/softmax_kernels.h"
#include "cuda/softmax_plan.h"
#include "cuda/upload.h"

namespace clipcid::cuda {

// Where a pass does its work.
struct PassSite {
  Device& device;
  const Context& context;
  Stream stream = nullptr;
  // Bytes of device memory that it may hold, and that are taken of them already; 0: what the context says.
  int64_t budget = 0, held = 0;
};

// Rows that a pass takes: row i is that with index indices[i], or i, over its norm, or as it is.
struct PassRows {
  const float* host = nullptr;      // dense; or instead
  const float* resident = nullptr;  // on the device, as far apart as there
  int64_t count = 0;
  const int32_t* indices = nullptr;  // of the host, or null
  const int32_t* placed = nullptr;   // the same on the device, where they are there
  bool unit = false;                 // known to be of norm 1, or divided by their norms
  const double* norms = nullptr;     // of the host, or null
  bool measure = false;              // instead: over their canonical norms
  double* measured = nullptr;        // of the host, or null: receives these by the end
};
Status passRows(const SoftmaxSide& side, PassRows* out);

class SoftmaxSweep {
 public:
  SoftmaxSweep(const PassSite& site, const SoftmaxShape& shape)
      : device_(site.device),
        context_(site.context),
        stream_(site.stream),
        budget_(site.budget),
        held_(site.held),
        shape_(shape),
        uploader_(site.context, site.device) {}

  // kOutOfMemory when the matrices and the smallest strip are more than the call may hold.
  Status begin();
  Stream stream() const { return stream_; }
  const Device& device() const { return device_; }
  // Elements from row to row of sums on the device.
  int64_t outStride() const { return deviceStride(Dtype::kFloat32, shape_.dim); }
  LossRows shapeOf(int64_t count) const { return {count, shape_.dim, outStride()}; }
  // Keys at a time.
  int64_t chunkKeys() const { return plan_.chunkKeys; }

  // A matrix on the device, or a part of it.
  struct Side {
    int64_t first = 0, count = 0;
    float scale = 1;
    Halves rows, columns;
    Buffer<double> norms;  // of all its rows, where there are any
  };
  // Halves of the rows, or of the transpose with a depth of at least `depth`, or both.
  struct Wanted {
    bool rows = false, columns = false;
    int64_t depth = 0;
  };
  // All rows.
  Status bring(const PassRows& rows, const Wanted& wanted, Side* out);
  // Of some rows at a time: what all of them have in common, once; then rows [first, first + count) in the place of others. Norms are
  // measured where `measures`.
  Status prepare(const PassRows& rows, Side* out);
  Status bringPart(const PassRows& rows, int64_t first, int64_t count, const Wanted& wanted, bool measures,
                   Side* out);
  // Calls body(rows on the device, which is the first, how many) for one piece of [first, first + count) after the other.
  Status eachPiece(const PassRows& rows, int64_t first, int64_t count,
                   const std::function<Status(const float* piece, int64_t begin, int64_t count)>& body);

  // Calls body(first query, how many) for one strip of `queries` after the other.
  Status eachStrip(int64_t queries, const std::function<Status(int64_t begin, int64_t count)>& body);
  // How many strips there are.
  int64_t strips() const { return divideUp(shape_.queries, plan_.stripRows); }

  // Log-sum-exps by query or by key, on the device.
  struct Sums {
    Buffer<float> maxima, factors;
    Buffer<double> sums;

    Status allocate(int64_t count, Stream stream);
    SoftmaxSums at(int64_t first) const {
      return {maxima.get() + first, sums.get() + first, factors.get() + first};
    }
  };
  // Logits of a strip of `queries` with the keys that are there as side 0 or 1, and what is wanted of them.
  struct LogitsOf {
    const Side* queries = nullptr;
    const Side* keys = nullptr;
    double scale = 1;
    bool stored = false;
    const Sums* byQuery = nullptr;  // [queries], over the keys so far
    double queryWeight = 0;
    const Sums* byKey = nullptr;  // [keys], over the strips so far
    double keyWeight = 0;
    const int32_t* targets = nullptr;  // [queries] on the device
    float* targetLogits = nullptr;     // [queries] on the device
  };
  Status logits(int which, int64_t begin, int64_t count, const LogitsOf& what);

  // Weights of a strip from its stored logits with these keys; see WeighParams, whose sizes, logits and places are filled in. The
  // weights are at most `most`.
  struct Weights {
    WeighParams params;
    double most = 1;
    double* querySums = nullptr;  // [queries] on the device, over the keys so far; or null
  };
  Status weigh(int64_t begin, int64_t count, const Side& keys, const Weights& what);
  // out[i] = factor sum_j g[i, j] values[j] of the strip's queries; behind what is there for keys other than the first, or where it
  // is to be added. `out` [queries, outStride()].
  Status sumOverKeys(int64_t begin, int64_t count, const Side& values, double factor, bool add, float* out);
  // out[j] = factor sum_i g[i, j] values[i] of the keys that are there, when the last strip is done. `out` [keys, outStride()].
  Status sumOverQueries(int64_t begin, int64_t count, const Side& keys, const Side& values, double factor,
                        float* out);

  // Host memory from the device, in the stream's order.
  template <typename T>
  Status download(const T* from, int64_t count, std::vector<T>* to) {
    to->resize(static_cast<size_t>(count));
    return copyToHost(to->data(), from, static_cast<size_t>(count) * sizeof(T), stream());
  }
  // Sums [count, outStride()] to dense rows of the host: in order, or row i to row indices[i]; or added to them.
  Status downloadRows(const float* from, int64_t count, const int32_t* indices, bool add, float* to);
  // Waits for all of it.
  Status finish();

 private:
  Status bringPiece(const PassRows& rows, int64_t begin, int64_t count, int64_t most, const float** out);

  Device& device_;
  const Context& context_;
  const Stream stream_;
  const int64_t budget_, held_;
  const SoftmaxShape shape_;
  Uploader uploader_;
  SoftmaxPlan plan_;
  float weightScale_ = 1;
  Buffer<float> logits_[2];
  Buffer<SoftmaxPart> queryParts_, keyParts_;
  Halves weightColumns_;
  Buffer<float> querySums_, partial_;
  // Of `bring`.
  Buffer<float> piece_;
  Buffer<int32_t> indices_;
  std::vector<std::pair<const Side*, double*>> measured_;
  OwnedEvent done_[2];
};

// Values of the host on the device.
template <typename T>
Status bringValues(const std::vector<T>& values, Stream stream, Buffer<T>* out) {
  CLIPCID_TRY(out->allocate(static_cast<int64_t>(values.size()), stream));
  return copyToDevice(out->get(), values.data(), values.size() * sizeof(T), stream);
}

}  // namespace clipcid::cuda
