// Fixed-point sums of rows by segment.
//
// In: rows [N, D] as compared, or those that `indices` lists; their segments and weights. Out: sums [segments, D],
// int64.
//
// A batch of rows at a time is made ready, by ranges of rows, and ordered by segment; then each thread adds up the rows of
// a range of segments, so no two write to one place and nothing is atomic, and a segment's sums stay in the cache while its
// rows come. Rows that lie in memory as they are compared are not copied, and make one batch. Bound by memory.
//
// Best measured: see kmeans_means.h.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/prepared.h"

namespace clipcid {
namespace {

constexpr int64_t kBatchBytes = int64_t{4} << 20;
// Rows are anywhere: they are asked for so many before they are needed.
constexpr int64_t kAhead = 6;

class SegmentSum {
 public:
  SegmentSum(const Context& context, const SegmentSumArgs& args)
      : context_(context), args_(args), rows_(cpuPrepared(args.rows)), dim_(rows_.dim) {}

  Status run() {
    const int64_t count = args_.indices != nullptr ? args_.count : rows_.rows;
    if (args_.mode == SegmentSumArgs::Mode::kOverwrite) CLIPCID_TRY(clear());
    if (count == 0) return {};
    const int64_t limit = std::min(kBatchBytes, memoryBudget(context_) / 8);
    const bool inPlace = !rows_.unit && rows_.faults.empty() && rows_.placeOf(0) != nullptr;
    const int64_t batch =
        inPlace ? count : std::clamp<int64_t>(limit / (4 * std::max<int64_t>(dim_, 1)), 1, count);
    AlignedArray<float> scratch(inPlace ? 0 : batch * dim_);
    pointers_.resize(inPlace ? 0 : static_cast<size_t>(batch));
    for (int64_t at = 0; at < count; at += batch) {
      const int64_t here = std::min(batch, count - at);
      if (!inPlace) CLIPCID_TRY(makeReady(at, here, scratch.get()));
      order(at, here);
      CLIPCID_TRY(add(at));
    }
    return {};
  }

 private:
  Status clear() const {
    constexpr int64_t kRange = 1024;
    const int64_t count = args_.segmentCount;
    return parallelTry(context_, (count + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      const int64_t end = std::min((range + 1) * kRange, count);
      std::fill(args_.sums + range * kRange * dim_, args_.sums + end * dim_, int64_t{0});
      return {};
    });
  }

  // Pointers to the rows [at, at + here) as compared, in scratch memory where they are not so in place.
  Status makeReady(int64_t at, int64_t here, float* scratch) {
    if (args_.indices == nullptr) {
      return rows_.eachRange(
          context_, at, here,
          [&](int64_t begin, int64_t number, const float* stored, int64_t stride, int) -> Status {
            for (int64_t i = begin; i < begin + number; ++i, stored += stride) {
              float* place = scratch + (i - at) * dim_;
              const float*& pointer = pointers_[static_cast<size_t>(i - at)];
              pointer = place;
              if (rows_.inPlace(i)) {
                pointer = stored;
              } else {
                rows_.compared(i, stored, place);
              }
            }
            return {};
          });
    }
    constexpr int64_t kRange = 64;
    return parallelTry(context_, (here + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      const int64_t end = std::min((range + 1) * kRange, here);
      for (int64_t i = range * kRange; i < end; ++i) {
        if (i + kAhead < end) rows_.prefetch(args_.indices[at + i + kAhead]);
        CLIPCID_TRY(rows_.row(args_.indices[at + i], scratch + i * dim_, &pointers_[static_cast<size_t>(i)]));
      }
      return {};
    });
  }

  // Places of the batch by segment, and where each segment's begin.
  void order(int64_t at, int64_t here) {
    begins_.assign(static_cast<size_t>(args_.segmentCount) + 1, 0);
    for (int64_t i = at; i < at + here; ++i) ++begins_[static_cast<size_t>(args_.segments[i]) + 1];
    for (size_t segment = 1; segment < begins_.size(); ++segment) begins_[segment] += begins_[segment - 1];
    places_.resize(static_cast<size_t>(here));
    std::vector<int64_t> next(begins_.begin(), begins_.end() - 1);
    for (int64_t i = at; i < at + here; ++i)
      places_[static_cast<size_t>(next[static_cast<size_t>(args_.segments[i])]++)] = i;
  }

  const float* row(int64_t at, int64_t place) const {
    if (!pointers_.empty()) return pointers_[static_cast<size_t>(place - at)];
    return rows_.placeOf(args_.indices != nullptr ? args_.indices[place] : place);
  }

  Status add(int64_t at) {
    const int64_t sign = args_.mode == SegmentSumArgs::Mode::kSubtract ? -1 : 1;
    const auto here = static_cast<int64_t>(places_.size());
    // Ranges of segments of about as many rows.
    const int64_t parts = std::min<int64_t>(16 * std::max(context_.threads, 1), args_.segmentCount);
    const auto segmentAt = [&](int64_t part) {
      const auto from = std::lower_bound(begins_.begin(), begins_.end(), here * part / parts);
      return std::min<int64_t>(from - begins_.begin(), args_.segmentCount);
    };
    // Of few segments, whole cache lines of sums for each thread.
    const int64_t lines = (dim_ + 7) / 8, threads = std::max(context_.threads, 1);
    const int64_t slices = args_.segmentCount < 8 * threads ? std::min(threads, lines) : 1;
    return parallelTry(context_, parts * slices, [&](int64_t task, int) -> Status {
      const int64_t part = task / slices, slice = task % slices;
      const int64_t from = lines * slice / slices * 8, to = std::min(lines * (slice + 1) / slices * 8, dim_);
      const int64_t last = part + 1 == parts ? args_.segmentCount : segmentAt(part + 1);
      for (int64_t segment = part == 0 ? 0 : segmentAt(part); segment < last; ++segment) {
        int64_t* sums = args_.sums + segment * dim_;
        const int64_t end = begins_[static_cast<size_t>(segment) + 1];
        for (int64_t n = begins_[static_cast<size_t>(segment)]; n < end; ++n) {
          if (n + kAhead < here)
            prefetchRow(row(at, places_[static_cast<size_t>(n + kAhead)]) + from, to - from);
          const int64_t place = places_[static_cast<size_t>(n)];
          const double weight = args_.weights != nullptr ? static_cast<double>(args_.weights[place]) : 1;
          kernels().addFixed(row(at, place) + from, to - from, weight, args_.scale, sign, sums + from);
        }
      }
      return {};
    });
  }

  const Context& context_;
  const SegmentSumArgs& args_;
  const CpuPrepared& rows_;
  const int64_t dim_;
  std::vector<const float*> pointers_;  // [batch], or none where rows lie in place
  std::vector<int64_t> begins_;         // [segments + 1]
  std::vector<int64_t> places_;         // [batch]
};

}  // namespace

Status CpuBackend::segmentSum(const Context& context, const SegmentSumArgs& args) {
  return guarded([&] { return SegmentSum(context, args).run(); });
}

}  // namespace clipcid
