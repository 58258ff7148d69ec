// TopK: the k keys of highest canonical dot for each query.
//
// In: queries [Q, D] (or a range of them) and keys [K, D]. Out: indices and canonical scores [Q, k].
//
// Of a strip, only keys that the filter's bound lets reach the query's floor become candidates (shortlist.h); what
// is left at the end is decided canonically, which gives the scores too. Selection by the product of two dots is in
// top_k_products.cpp.
//
// Best measured, Gop/s of brute force by CPU time of one thread beside other work, 2,000 x 50,000, D = 512, k = 10:
// int8 475, bfloat16 418, float32 135 (Xeon with AMX, November 2026).
#include "cpu/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/select_plan.h"
#include "cpu/select_sweep.h"

namespace clipcid {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class TopK {
 public:
  TopK(const Context& context, const TopKArgs& args)
      : context_(context), args_(args), queries_(cpuPrepared(args.queries)), keys_(cpuPrepared(args.keys)) {
    pairs_.queries[0] = &queries_;
    pairs_.keys[0] = &keys_;
    pairs_.start(std::max(context.threads, 1));
  }

  Status run() {
    const int64_t count = args_.count < 0 ? queries_.rows - args_.begin : args_.count;
    CLIPCID_TRY(
        planSelect(context_, {.queries = &queries_, .keys = &keys_, .count = count, .k = args_.k}, &plan_));
    alike_ = keys_.unit && plan_.keys.filter != Filter::kInt8;
    if (args_.plan != nullptr) *args_.plan = plan_.text();
    SelectSweep pass;
    pass.plan = &plan_;
    pass.queries = &queries_;
    pass.keys = &keys_;
    pass.begin = args_.begin;
    pass.count = args_.count;
    pass.stateBytes = Shortlists::bytes(args_.k);
    pass.open = [&](const QueryBlock& block) -> Status {
      block_ = block;
      lists_ = std::make_unique<Shortlists>(block.count, block.parts, args_.k, pairs_.judge(block));
      return {};
    };
    pass.limit = [&](const Strip& strip, int) {
      const float floor = lists_->leastFloor(strip.query - block_.first, strip.rows, strip.part);
      if (floor == -kInfinity) return floor;
      const double bound = StripBound(plan_, strip, false).at(strip.queryError, strip.queryLength);
      return roundDown(static_cast<double>(floor) - bound);
    };
    pass.visit = [&](const Strip& strip, int worker) -> Status {
      const StripBound bound(plan_, strip, false);
      return eachRun(strip, [&](int64_t from, int64_t columns) -> Status {
        for (int r = 0; r < strip.rows; ++r) {
          CLIPCID_TRY(
              visitRow(strip, bound.at(strip.errorOf(r), strip.lengthOf(r)), r, from, columns, worker));
        }
        return {};
      });
    };
    pass.close = [&](const QueryBlock& block) { return writeBest(context_, args_, block, *lists_); };
    return selectSweep(context_, pass);
  }

 private:
  Status visitRow(const Strip& strip, double bound, int r, int64_t from, int64_t columns, int worker) {
    const int64_t place = strip.query + r - block_.first, self = block_.row(place);
    const float* scores = strip.scores + r * strip.stride + from;
    const bool known = std::isfinite(bound);
    if (known && !plan_.oneSided && lists_->floor(place, strip.part) == -kInfinity)
      raiseFirstFloor(scores, columns, bound, place, strip.part);
    float floor = lists_->floor(place, strip.part);
    float limit = roundDown(static_cast<double>(floor) - bound);
    int32_t positions[kMostStrip];
    const int64_t found = kernels().notBelow(scores, columns, limit, positions);
    for (int64_t f = 0; f < found; ++f) {
      const float score = scores[positions[f]];
      const int64_t column = from + positions[f], key = strip.key + column;
      // The floor may have risen since.
      if (score < limit || (args_.skipSelf && key == self)) continue;
      Candidate candidate = {-kInfinity, kInfinity, static_cast<int32_t>(key)};
      if (known) {
        // Float rounding is much the same for all unit rows; elsewhere a key's own bound may be far better.
        const double own = alike_ ? bound : pairBound(plan_, strip, r, column);
        candidate.high = upper(static_cast<double>(score) + own);
        if (!plan_.oneSided) candidate.low = lower(static_cast<double>(score) - own);
      }
      CLIPCID_TRY(lists_->add(place, strip.part, candidate, worker));
      if (lists_->floor(place, strip.part) > floor) {
        floor = lists_->floor(place, strip.part);
        limit = roundDown(static_cast<double>(floor) - bound);
      }
    }
    return {};
  }

  // From the first scores of a query: k keys reach the k-th largest less the bound. One more, if it may be the query.
  void raiseFirstFloor(const float* scores, int64_t columns, double bound, int64_t place, int64_t part) {
    const int64_t rank = args_.k + (args_.skipSelf ? 1 : 0);
    if (rank > columns) return;
    float sorted[kMostStrip];
    std::copy(scores, scores + columns, sorted);
    std::nth_element(sorted, sorted + (rank - 1), sorted + columns, std::greater<float>());
    lists_->raiseFloor(place, part, lower(static_cast<double>(sorted[rank - 1]) - bound));
  }

  const Context& context_;
  const TopKArgs& args_;
  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  FilterPlan plan_;
  bool alike_ = false;
  PairScores pairs_;
  QueryBlock block_;
  std::unique_ptr<Shortlists> lists_;
};

}  // namespace

Status writeBest(const Context& context, const TopKArgs& args, const QueryBlock& block,
                 const Shortlists& lists) {
  constexpr int64_t kRange = 64;
  return parallelTry(context, (block.count + kRange - 1) / kRange, [&](int64_t range, int worker) -> Status {
    Shortlists::Rest rest;
    std::vector<Decided> best;
    for (int64_t place = range * kRange; place < std::min((range + 1) * kRange, block.count); ++place) {
      CLIPCID_TRY(lists.finish(place, worker, &rest, &best));
      const int64_t out = (block.out + place) * args.k;
      for (int64_t rank = 0; rank < args.k; ++rank) {
        args.indices[out + rank] = best[static_cast<size_t>(rank)].index;
        args.scores[out + rank] = best[static_cast<size_t>(rank)].score;
      }
    }
    return {};
  });
}

Status CpuBackend::topK(const Context& context, const TopKArgs& args) {
  return guarded([&]() -> Status {
    if (args.k < 1 || args.k > args.keys->rows - (args.skipSelf ? 1 : 0))
      return {Code::kInvalidArgument, "k is not in the number of keys"};
    return args.secondQueries == nullptr ? TopK(context, args).run() : topKProducts(context, args);
  });
}

}  // namespace clipcid
