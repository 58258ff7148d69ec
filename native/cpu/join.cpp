// Join: all pairs of a query and a key whose canonical dot is over the threshold.
//
// The sweep's float32 dot rules a pair in or out where its bound allows; what is within the bound is decided
// on the canonical dot of the two rows, which are at hand in the blocks. Pairs are emitted in batches of
// bounded size, so that memory does not depend on how many there are.
#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/planner.h"
#include "cpu/sweep.h"

namespace clipcid {
namespace {

constexpr size_t kBatch = 4096;

class Sink {
 public:
  Sink(const JoinArgs& args, int workers) : args_(args), buffers_(static_cast<size_t>(workers)) {}

  Status add(int worker, int64_t first, int64_t second, double dot) {
    Buffer& buffer = buffers_[static_cast<size_t>(worker)];
    buffer.pairs.push_back({static_cast<int32_t>(first), static_cast<int32_t>(second)});
    if (args_.dots) buffer.dots.push_back(dot);
    return buffer.pairs.size() == kBatch ? flush(&buffer) : Status();
  }

  Status flushAll() {
    for (Buffer& buffer : buffers_) CLIPCID_TRY(flush(&buffer));
    return {};
  }

 private:
  struct Buffer {
    std::vector<Pair> pairs;
    std::vector<double> dots;
  };

  Status flush(Buffer* buffer) {
    if (buffer->pairs.empty()) return {};
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (!args_.concurrent) lock.lock();
    Status status =
        args_.sink(buffer->pairs.data(), args_.dots ? buffer->dots.data() : nullptr, buffer->pairs.size());
    buffer->pairs.clear();
    buffer->dots.clear();
    return status;
  }

  const JoinArgs& args_;
  std::vector<Buffer> buffers_;
  std::mutex mutex_;
};

class Join {
 public:
  Join(const Context& context, const JoinArgs& args)
      : context_(context),
        args_(args),
        queries_(cpuPrepared(args.queries)),
        keys_(cpuPrepared(args.keys)),
        self_(args.queries == args.keys),
        sink_(args, std::max(context.threads, 1)) {
    for (int worker = 0; worker < std::max(context.threads, 1); ++worker)
      scratch_.emplace_back(4 * queries_.dim);
  }

  Status run() {
    CLIPCID_TRY(planJoin(context_, queries_, keys_, args_.threshold, args_.dots, &plan_));
    if (args_.plan != nullptr) *args_.plan = plan_.text();
    Sweep pass;
    pass.plan = &plan_;
    pass.queries = &queries_;
    pass.keys = &keys_;
    pass.triangle = self_;
    pass.limit = [&](const Strip& strip, int) { return roundDown(args_.threshold - boundOf(strip)); };
    pass.visit = [&](const Strip& strip, int worker) { return visit(strip, worker); };
    CLIPCID_TRY(sweep(context_, pass));
    return sink_.flushAll();
  }

 private:
  double boundOf(const Strip& strip) const {
    return plan_.bound(static_cast<double>(strip.queryError), static_cast<double>(strip.queryLength),
                       static_cast<double>(strip.keyError), static_cast<double>(strip.keyLength));
  }

  Status visit(const Strip& strip, int worker) {
    int32_t positions[kMostPanel];
    const float limit = roundDown(args_.threshold - boundOf(strip));
    for (uint64_t hits = strip.hits; hits != 0; hits &= hits - 1) {
      const int64_t from = __builtin_ctzll(hits) * strip.panel;
      const int64_t columns = std::min<int64_t>(strip.panel, strip.columns - from);
      for (int r = 0; r < strip.rows; ++r) {
        const int64_t i = strip.query + r;
        const float* scores = strip.scores + r * strip.stride + from;
        // Only keys behind the query, in a self-join.
        const int64_t skip = self_ ? std::clamp<int64_t>(i + 1 - strip.key - from, 0, columns) : 0;
        const int64_t found = kernels().notBelow(scores + skip, columns - skip, limit, positions);
        for (int64_t f = 0; f < found; ++f) {
          const int64_t at = skip + positions[f];
          CLIPCID_TRY(decide(strip, r, from + at, static_cast<double>(scores[at]), worker));
        }
      }
    }
    return {};
  }

  Status decide(const Strip& strip, int r, int64_t column, double score, int worker) {
    const int64_t i = strip.query + r, j = strip.key + column;
    if (queries_.isFault(i) || keys_.isFault(j)) return {};
    const double bound = plan_.bound(
        static_cast<double>(strip.errorOf(r)), static_cast<double>(strip.lengthOf(r)),
        static_cast<double>(strip.keyErrorOf(column)), static_cast<double>(strip.keyLengthOf(column)));
    if (score < args_.threshold - bound) return {};
    double dot = 0;
    // A NaN is over nothing.
    if (args_.dots || plan_.oneSided || !(score > args_.threshold + bound)) {
      bool over = false;
      CLIPCID_TRY(isOver(i, j, worker, &over, &dot));
      if (!over) return {};
    }
    return sink_.add(worker, i, j, dot);
  }

  // Decides on the canonical dot, which is only worked out when it is asked for or the stored rows leave it open.
  Status isOver(int64_t i, int64_t j, int worker, bool* over, double* dot) {
    const int64_t dim = queries_.dim;
    float* scratch = scratch_[static_cast<size_t>(worker)].get();
    const float *x, *y;
    CLIPCID_TRY(queries_.stored(i, scratch, &x));
    CLIPCID_TRY(keys_.stored(j, scratch + dim, &y));
    if (queries_.unit && keys_.unit && !args_.dots) {
      // The canonical rows' elements are off by 2^-24 of themselves, or 2^-150; |x^| |y^| <= 1 + 2^-23.
      const double near = kernels().dot(x, y, dim) / queries_.storedNorm(i) / keys_.storedNorm(j);
      if (std::fabs(near - args_.threshold) > 0x1.01p-23 + 0x1p-40) {
        *over = near > args_.threshold;
        return {};
      }
    }
    queries_.compared(i, x, scratch + 2 * dim);
    keys_.compared(j, y, scratch + 3 * dim);
    *dot = kernels().dot(scratch + 2 * dim, scratch + 3 * dim, dim);
    *over = *dot > args_.threshold;
    return {};
  }

  const Context& context_;
  const JoinArgs& args_;
  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  const bool self_;
  FilterPlan plan_;
  Sink sink_;
  std::vector<AlignedArray<float>> scratch_;  // one a worker: two rows as stored, two as compared
};

}  // namespace

Status CpuBackend::join(const Context& context, const JoinArgs& args) {
  return guarded([&] { return Join(context, args).run(); });
}

}  // namespace clipcid
