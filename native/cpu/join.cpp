// Join: all pairs of a query and a key whose canonical dot is over the threshold.
//
// The sweep's float32 dot rules a pair in or out where its bound allows; what is within the bound is decided
// on the canonical dot of the two rows, which are at hand in the blocks. Pairs are emitted in batches of
// bounded size, so that memory does not depend on how many there are.
#include <algorithm>
#include <mutex>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
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
    std::lock_guard<std::mutex> lock(mutex_);
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
        double dot = 0;
        // A NaN is not above `high`.
        if (args.dots || !(score > high)) {
          dot = kernel.dot(strip.queries->row(i), strip.keys->row(j), queries.dim);
          if (!(dot > args.threshold)) continue;
        }
        CLIPCID_TRY(sink.add(worker, i, j, dot));
      }
    }
    return {};
  };
  CLIPCID_TRY(sweep(context, pass));
  return sink.flushAll();
}

}  // namespace

Status CpuBackend::join(const Context& context, const JoinArgs& args) {
  return guarded([&] { return clipcid::join(context, args); });
}

}  // namespace clipcid
