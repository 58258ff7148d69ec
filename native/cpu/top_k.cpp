// TopK: the k keys of highest canonical dot for each query.
//
// In: queries [Q, D] (or a range of them) and keys [K, D]. Out: indices and canonical scores [Q, k].
//
// Only keys that their own bounds let reach the query's floor become candidates (shortlist.h); what is left at the end is
// decided canonically, which gives the scores too. Selection by the product of two dots is in
// top_k_products.cpp.
//
// Best measured, 10,000 x 100,000, D = 512, k = 10, two threads: 0.79 s where the spectrum decays, 0.88 s where it is flat,
// both behind int8 (AMD Zen 5, November 2026).
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
      : context_(context),
        args_(args),
        queries_(cpuPrepared(args.queries)),
        keys_(cpuPrepared(args.keys)),
        pairs_(std::max(context.threads, 1), queries_, keys_) {}

  Status run() {
    const int64_t count = args_.count < 0 ? queries_.rows - args_.begin : args_.count;
    CLIPCID_TRY(
        planSelect(context_, {.queries = &queries_, .keys = &keys_, .count = count, .k = args_.k}, &plan_));
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
    pass.floors = [&](const Strip& strip, int) -> Sweep::Floors {
      return {lists_->floors(strip.query - block_.first, strip.part)};
    };
    pass.visit = [&](const Strip& strip, int worker) -> Status {
      for (int r = 0; r < strip.rows; ++r) CLIPCID_TRY(visitRow(strip, r, worker));
      return {};
    };
    pass.close = [&](const QueryBlock& block) { return writeBest(context_, args_, block, *lists_); };
    return selectSweep(context_, pass);
  }

 private:
  Status visitRow(const Strip& strip, int r, int worker) {
    const int64_t place = strip.query + r - block_.first, self = block_.row(place);
    if (strip.known && !plan_.oneSided && lists_->floor(place, strip.part) == -kInfinity) {
      raiseFirstFloor(strip, r, place);
      markAgain(strip, r, lists_->floor(place, strip.part));
    }
    Status status;
    eachHit(strip, r, [&](int64_t column) {
      const int64_t key = strip.key + column;
      if ((args_.skipSelf && key == self) || !status.ok()) return;
      Candidate candidate = {-kInfinity, kInfinity, static_cast<int32_t>(key)};
      if (strip.known) {
        const double score = scoreOf(strip, r, column), bound = pairBound(plan_, strip, r, column);
        candidate.high = upper(score + bound);
        if (!plan_.oneSided) candidate.low = lower(score - bound);
      }
      // The floor may have risen since the bits were set, and is looked at again.
      status = lists_->add(place, strip.part, candidate, worker);
    });
    return status;
  }

  // From the first scores of a query: k keys reach the k-th largest less the bound. One more, if it may be the query.
  void raiseFirstFloor(const Strip& strip, int r, int64_t place) {
    const int64_t rank = args_.k + (args_.skipSelf ? 1 : 0);
    if (rank > strip.columns) return;
    float sorted[kMostStrip];
    for (int64_t column = 0; column < strip.columns; ++column)
      sorted[column] = static_cast<float>(scoreOf(strip, r, column));
    std::nth_element(sorted, sorted + (rank - 1), sorted + strip.columns, std::greater<float>());
    const double bound =
        plan_.bound(static_cast<double>(strip.errorOf(r)), static_cast<double>(strip.lengthOf(r)),
                    static_cast<double>(strip.keyError), static_cast<double>(strip.keyLength));
    // Twice, for the scores' rounding to float32.
    lists_->raiseFloor(place, strip.part,
                       lower(static_cast<double>(lower(static_cast<double>(sorted[rank - 1]))) - bound));
  }

  const Context& context_;
  const TopKArgs& args_;
  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  FilterPlan plan_;
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
