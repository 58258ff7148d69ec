// TopK: the k keys of highest canonical dot for each query.
//
// In: queries [Q, D] (or a range of them) and keys [K, D]. Out: indices and canonical scores [Q, k].
//
// Only keys that their own bounds let reach the query's floor become candidates (shortlist.h); what is left at the end is
// decided canonically, which gives the scores too. Selection by the product of two dots is in
// top_k_products.cpp.
//
// The floor is a guess: that of the k best scores so far none is off by more than a part of its bound. At the end it is
// compared with the canonical scores. A query for which it was wrong is done again with floors that are proved.
//
// Best measured, 10,000 x 100,000, D = 512, k = 10, two threads: 0.73 s where the spectrum decays, 0.70 s where it is
// flat, both behind int8 (AMD Zen 5, November 2026).
#include "cpu/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/select_plan.h"
#include "cpu/select_sweep.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kGroups = 64;
// A bound takes all roundings of two rows for the worst. Where they point anywhere, a score is off by about 1 / sqrt(2 D) of
// it, and by six times that in one case of 10^9.
constexpr double kLikely = 4.25;

// Scores of different keys of a row over the row's own step, the largest `rank` among them or nearly so: the largest of each
// of some groups, or all where that would be too few. Returns how many.
CLIPCID_WIDE int64_t largestScores(const Strip& strip, int row, int64_t rank, float* out) {
  const float* scores = strip.scores + row * strip.stride;
  const float* steps = strip.terms.steps;
  if (4 * rank > kGroups || strip.columns < kGroups) {
    for (int64_t j = 0; j < strip.columns; ++j) out[j] = scores[j] * steps[j];
    return strip.columns;
  }
  for (int64_t g = 0; g < kGroups; ++g) out[g] = scores[g] * steps[g];
  for (int64_t from = kGroups; from < strip.columns; from += kGroups) {
    const int64_t count = std::min(kGroups, strip.columns - from);
    for (int64_t g = 0; g < count; ++g) {
      const float score = scores[from + g] * steps[from + g];
      out[g] = score > out[g] ? score : out[g];
    }
  }
  return kGroups;
}

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
    likely_ = static_cast<float>(std::min(1.0, kLikely / std::sqrt(static_cast<double>(queries_.dim))));
    CLIPCID_TRY(select(context_, nullptr, args_.count));
    if (again_.empty()) return {};
    likely_ = 1;
    const std::vector<int64_t> rows = std::exchange(again_, {});
    Context silent = context_;
    silent.progress = nullptr;
    CLIPCID_TRY(select(silent, rows.data(), static_cast<int64_t>(rows.size())));
    return again_.empty() ? Status() : Status(Code::kInternal, "A floor that was over what it is a bound of");
  }

 private:
  Status select(const Context& context, const int64_t* rows, int64_t count) {
    SelectSweep pass;
    pass.plan = &plan_;
    pass.queries = &queries_;
    pass.keys = &keys_;
    pass.rows = rows;
    pass.begin = args_.begin;
    pass.count = count;
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
    pass.close = [&](const QueryBlock& block) { return writeBest(context, args_, block, *lists_, &again_); };
    return selectSweep(context, pass);
  }

  Status visitRow(const Strip& strip, int r, int worker) {
    const int64_t place = strip.query + r - block_.first, self = block_.row(place);
    if (strip.known && !plan_.oneSided && lists_->floor(place, strip.part) == -kInfinity) {
      raiseFirstFloor(strip, r, place);
      markAgain(strip, r, lists_->floor(place, strip.part));
    }
    const float *scores = strip.scores + r * strip.stride, step = strip.stepOf(r);
    const float error = strip.errorOf(r), length = strip.lengthOf(r);
    Status status;
    eachHit(strip, r, [&](int64_t column) {
      const int64_t key = strip.key + column;
      if ((args_.skipSelf && key == self) || !status.ok()) return;
      Candidate candidate = {-kInfinity, kInfinity, static_cast<int32_t>(key)};
      if (strip.known) {
        // writeTerms counts these roundings.
        const float score = scores[column] * (step * strip.terms.steps[column]);
        const float bound = error * strip.terms.ofError[column] +
                            (length * strip.terms.ofLength[column] + strip.terms.base[column]);
        candidate.high = score + bound;
        if (!plan_.oneSided) candidate.low = score - likely_ * bound;
      }
      // The floor may have risen since the bits were set, and is looked at again.
      status = lists_->add(place, strip.part, candidate, worker);
    });
    return status;
  }

  // From the first scores of a query: k keys reach the k-th largest less what it may be off. One more, if it may be the query.
  void raiseFirstFloor(const Strip& strip, int r, int64_t place) {
    const int64_t rank = args_.k + (args_.skipSelf ? 1 : 0);
    if (rank > strip.columns) return;
    float best[kMostStrip];
    const int64_t count = largestScores(strip, r, rank, best);
    std::nth_element(best, best + (rank - 1), best + count, std::greater<float>());
    const double kth = static_cast<double>(best[rank - 1]) * static_cast<double>(strip.stepOf(r));
    const double bound =
        plan_.bound(static_cast<double>(strip.errorOf(r)), static_cast<double>(strip.lengthOf(r)),
                    static_cast<double>(strip.keyError), static_cast<double>(strip.keyLength));
    // Scores with their keys' steps are rounded to float32.
    const double rounding = 0x1p-22 * std::fabs(kth);
    lists_->raiseFloor(place, strip.part, roundDown(kth - rounding - static_cast<double>(likely_) * bound));
  }

  const Context& context_;
  const TopKArgs& args_;
  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  FilterPlan plan_;
  PairScores pairs_;
  QueryBlock block_;
  std::unique_ptr<Shortlists> lists_;
  float likely_ = 1;            // of a bound, how far scores are off at most, probably
  std::vector<int64_t> again_;  // queries for which that was wrong
};

}  // namespace

Status writeBest(const Context& context, const TopKArgs& args, const QueryBlock& block,
                 const Shortlists& lists, std::vector<int64_t>* again) {
  constexpr int64_t kRange = 64;
  std::mutex mutex;
  CLIPCID_TRY(
      parallelTry(context, (block.count + kRange - 1) / kRange, [&](int64_t range, int worker) -> Status {
        Shortlists::Rest rest;
        std::vector<Decided> best;
        for (int64_t place = range * kRange; place < std::min((range + 1) * kRange, block.count); ++place) {
          bool right;
          CLIPCID_TRY(lists.finish(place, worker, &rest, &best, &right));
          if (!right) {
            const std::lock_guard<std::mutex> lock(mutex);
            again->push_back(block.row(place));
            continue;
          }
          const int64_t out = (block.row(place) - args.begin) * args.k;
          for (int64_t rank = 0; rank < args.k; ++rank) {
            args.indices[out + rank] = best[static_cast<size_t>(rank)].index;
            args.scores[out + rank] = best[static_cast<size_t>(rank)].score;
          }
        }
        return {};
      }));
  std::sort(again->begin(), again->end());
  return {};
}

Status CpuBackend::topK(const Context& context, const TopKArgs& args) {
  return guarded([&]() -> Status {
    if (args.k < 1 || args.k > args.keys->rows - (args.skipSelf ? 1 : 0))
      return {Code::kInvalidArgument, "k is not in the number of keys"};
    return args.secondQueries == nullptr ? TopK(context, args).run() : topKProducts(context, args);
  });
}

}  // namespace clipcid
