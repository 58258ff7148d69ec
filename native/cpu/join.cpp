// Join: all pairs of a query and a key whose canonical dot is over the threshold.
//
// The sweep's float32 dot rules a pair in or out where its bound allows; what is within the bound is decided
// on the canonical dot of the two rows, which are at hand in the blocks. Pairs are emitted in batches of
// bounded size, so that memory does not depend on how many there are.
#include <algorithm>
#include <mutex>

#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/sweep.h"

namespace clipcid {
namespace {

constexpr size_t kBatch = 4096;

class Sink {
 public:
  Sink(const JoinArgs& args, int workers) : args_(args), pairs_(static_cast<size_t>(workers)) {
    for (auto& buffer : pairs_) buffer.reserve(kBatch);
  }

  void add(int worker, int64_t first, int64_t second) {
    auto& buffer = pairs_[static_cast<size_t>(worker)];
    buffer.push_back({static_cast<int32_t>(first), static_cast<int32_t>(second)});
    if (buffer.size() == kBatch) flush(&buffer);
  }

  void flushAll() {
    for (auto& buffer : pairs_) flush(&buffer);
  }

 private:
  void flush(std::vector<Pair>* buffer) {
    if (buffer->empty()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    args_.sink(buffer->data(), buffer->size());
    buffer->clear();
  }

  const JoinArgs& args_;
  std::vector<std::vector<Pair>> pairs_;
  std::mutex mutex_;
};

Status join(const Context& context, const JoinArgs& args) {
  const CpuPrepared& queries = cpuPrepared(args.queries);
  const CpuPrepared& keys = cpuPrepared(args.keys);
  const bool self = args.queries == args.keys;
  const Kernels& kernel = kernels();
  Sink sink(args, std::max(context.threads, 1));

  Sweep pass;
  pass.queries = &queries;
  pass.keys = &keys;
  pass.triangle = self;
  pass.visit = [&](const Strip& strip, int worker) -> Status {
    int32_t positions[kMostStrip];
    const double keyNorm = keys.normBound(strip.key, strip.key + strip.columns);
    for (int r = 0; r < strip.rows; ++r) {
      const int64_t i = strip.query + r;
      if (queries.isFault(i)) continue;
      const double bound = dotBound(queries.dim, queries.normBound(i), keyNorm);
      const float low = roundDown(args.threshold - bound);
      const double high = args.threshold + bound;
      const float* scores = strip.scores + r * strip.stride;
      const int64_t from = self ? std::max<int64_t>(i + 1 - strip.key, 0) : 0;
      if (from >= strip.columns) continue;
      const int64_t found = kernel.notBelow(scores + from, strip.columns - from, low, positions);
      for (int64_t f = 0; f < found; ++f) {
        const int64_t j = strip.key + from + positions[f];
        if (keys.isFault(j)) continue;
        const double score = static_cast<double>(scores[from + positions[f]]);
        // A NaN is not above `high`.
        if (!(score > high)) {
          if (!(kernel.dot(strip.queries->row(i), strip.keys->row(j), queries.dim) > args.threshold))
            continue;
        }
        sink.add(worker, i, j);
      }
    }
    return {};
  };
  CLIPCID_TRY(sweep(context, pass));
  sink.flushAll();
  return {};
}

}  // namespace

Status CpuBackend::join(const Context& context, const JoinArgs& args) {
  return guarded([&] { return clipcid::join(context, args); });
}

}  // namespace clipcid
