// Join: all pairs of a query and a key whose canonical dot is over the threshold.
//
// In: prepared queries [Q, D] and keys [K, D]. Out: pairs, to a sink, in batches of bounded size, so that memory does
// not depend on how many there are.
//
// A plan's score rules a pair in or out where its bound allows; what is within the bound is decided one by one from the
// stored rows, and where a strip holds too much of that, all at once in float32 on canonical rows (dense.h).
//
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/dense.h"
#include "cpu/kernels.h"
#include "cpu/planner.h"
#include "cpu/sweep.h"

namespace clipcid {
namespace {

constexpr size_t kBatch = 4096;
// Pairs of a strip that are decided one by one.
constexpr size_t kMostOpen = 512;

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
    for (int worker = 0; worker < std::max(context.threads, 1); ++worker) {
      scratch_.emplace_back(4 * queries_.dim);
      open_.emplace_back();
      dense_.emplace_back(queries_, keys_, memoryBudget(context) / 8 / std::max(context.threads, 1));
    }
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

  struct Open {
    int r;
    int64_t column;
  };

  // Calls body(r, column, isIn) for the pairs of a strip that its filter does not rule out and the caller wants.
  template <typename Body>
  Status eachLeft(const Strip& strip, int worker, Body&& body) {
    const double infinity = std::numeric_limits<double>::infinity();
    const bool decideAll = args_.dots || plan_.oneSided;
    const float limit = roundDown(args_.threshold - boundOf(strip));
    int32_t positions[kMostPanel];
    for (uint64_t hits = strip.hits; hits != 0; hits &= hits - 1) {
      const int64_t from = __builtin_ctzll(hits) * strip.panel;
      const int64_t columns = std::min<int64_t>(strip.panel, strip.columns - from);
      for (int r = 0; r < strip.rows; ++r) {
        const int64_t i = strip.query + r;
        const float* scores = strip.scores + r * strip.stride + from;
        // Only keys behind the query, in a self-join.
        const int64_t skip = self_ ? std::clamp<int64_t>(i + 1 - strip.key - from, 0, columns) : 0;
        const int64_t found = kernels().notBelow(scores + skip, columns - skip, limit, positions);
        if (found == 0 || queries_.isFault(i)) continue;
        const double bound =
            plan_.bound(static_cast<double>(strip.errorOf(r)), static_cast<double>(strip.lengthOf(r)),
                        static_cast<double>(strip.keyError), static_cast<double>(strip.keyLength));
        const double high = decideAll ? infinity : args_.threshold + bound, low = args_.threshold - bound;
        for (int64_t f = 0; f < found; ++f) {
          const int64_t at = skip + positions[f];
          const double score = static_cast<double>(scores[at]);
          const int64_t j = strip.key + from + at;
          if (score < low || keys_.isFault(j)) continue;
          if (args_.wanted &&
              !args_.wanted(worker, static_cast<int32_t>(i), static_cast<int32_t>(j), score + bound))
            continue;
          CLIPCID_TRY(body(r, from + at, score > high));  // a NaN is over nothing
        }
      }
    }
    return {};
  }

  Status visit(const Strip& strip, int worker) {
    std::vector<Open>& open = open_[static_cast<size_t>(worker)];
    open.clear();
    bool dense = false;
    CLIPCID_TRY(eachLeft(strip, worker, [&](int r, int64_t column, bool isIn) -> Status {
      if (isIn) return sink_.add(worker, strip.query + r, strip.key + column, 0);
      if (open.size() < kMostOpen) {
        open.push_back({r, column});
      } else {
        dense = true;
      }
      return {};
    }));
    if (dense) return visitDense(strip, worker);
    // Their rows are anywhere: they are asked for before they are needed.
    constexpr size_t kAhead = 3;
    for (size_t at = 0; at < std::min(kAhead, open.size()); ++at) prefetch(strip, open[at]);
    for (size_t at = 0; at < open.size(); ++at) {
      if (at + kAhead < open.size()) prefetch(strip, open[at + kAhead]);
      const Open pair = open[at];
      const int64_t i = strip.query + pair.r, j = strip.key + pair.column;
      // The strip's bound may be far from the pair's.
      const double bound =
          plan_.bound(static_cast<double>(strip.errorOf(pair.r)), static_cast<double>(strip.lengthOf(pair.r)),
                      static_cast<double>(strip.keyErrorOf(pair.column)),
                      static_cast<double>(strip.keyLengthOf(pair.column)));
      if (static_cast<double>(strip.scores[pair.r * strip.stride + pair.column]) < args_.threshold - bound)
        continue;
      bool over = false;
      double dot = 0;
      CLIPCID_TRY(isOver(i, j, worker, &over, &dot));
      if (over) CLIPCID_TRY(sink_.add(worker, i, j, dot));
    }
    return {};
  }

  void prefetch(const Strip& strip, const Open& pair) const {
    queries_.prefetch(strip.query + pair.r);
    keys_.prefetch(strip.key + pair.column);
  }

  // The pairs that the filter leaves open, by float32 scores and, of what these leave, by canonical dots.
  Status visitDense(const Strip& strip, int worker) {
    DenseStrip& again = dense_[static_cast<size_t>(worker)];
    CLIPCID_TRY(again.run(strip));
    double keyNorm = 0;
    for (int64_t j = 0; j < strip.columns; ++j) keyNorm = std::max(keyNorm, keys_.normBound(strip.key + j));
    // Pairs of one query that need their dots.
    int64_t waiting[kMostPanel];
    double dots[kMostPanel];
    int row = 0;
    int64_t count = 0;
    const auto decide = [&]() -> Status {
      again.dots(row, waiting, count, dots);
      const int64_t decided = std::exchange(count, 0);
      for (int64_t at = 0; at < decided; ++at) {
        if (!(dots[at] > args_.threshold)) continue;
        CLIPCID_TRY(sink_.add(worker, strip.query + row, strip.key + waiting[at], dots[at]));
      }
      return {};
    };
    CLIPCID_TRY(eachLeft(strip, worker, [&](int r, int64_t column, bool isIn) -> Status {
      if (isIn) return {};  // visit() has passed it on
      const int64_t i = strip.query + r;
      const double bound = again.bound(queries_.normBound(i), keyNorm);
      const double over = static_cast<double>(again.score(r, column)) - args_.threshold;
      if (over < -bound) return {};
      if (!args_.dots && over > bound) return sink_.add(worker, i, strip.key + column, 0);
      if (r != row || count == kMostPanel) CLIPCID_TRY(decide());
      row = r;
      waiting[count++] = column;
      return {};
    }));
    return decide();
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
  // One a worker.
  std::vector<AlignedArray<float>> scratch_;  // two rows as stored, two as compared
  std::vector<std::vector<Open>> open_;
  std::vector<DenseStrip> dense_;
};

}  // namespace

Status CpuBackend::join(const Context& context, const JoinArgs& args) {
  return guarded([&] { return Join(context, args).run(); });
}

}  // namespace clipcid
