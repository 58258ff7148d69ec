// TopK of products: the k keys for which the product of two canonical dots is highest, where one over the cutoff
// counts as 0.
//
// In: queries [Q, D] and [Q, E] (or a range of them), keys [K, D] and [K, E]. Out: indices and canonical scores [Q, k].
//
// The sweep goes over the first pair of matrices; the visitor computes the same tiles of the second, from panels of
// its own, and multiplies. For dots x, y and their filtered a, b with |x - a| <= s and |y - b| <= t,
// |x y - a b| <= |x| t + |b| s, where |x| and |b| are at most products of lengths: that rules keys out. A
// candidate's own interval comes from the corners of [a - s, a + s] x [b - t, b + t]; where a dot may be over the
// cutoff, it takes in 0.
//
// Best measured: 6,000 pairs of 512 and 512, k = 100, in 1.1 s of one thread beside other work, bfloat16; most of it goes into the
// 100 decisions of each query (Xeon with AMX, November 2026).
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/select_plan.h"
#include "cpu/top_k.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr int64_t kStride = kMostStrip + 16;  // as the mainloop pads its scores
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// products[j] = first[j] * second[j], and not below 0 where a factor reaches its cutoff.
CLIPCID_WIDE void multiply(const float* first, const float* second, float firstCutoff, float secondCutoff,
                           int64_t count, float* products) {
  for (int64_t at = 0; at < count; ++at) {
    const float product = first[at] * second[at];
    const float least = product < 0 ? 0 : product;
    const bool over = (first[at] >= firstCutoff) | (second[at] >= secondCutoff);
    products[at] = over ? least : product;
  }
}

// Bounds of one side of a strip, at the largest of its queries' errors and lengths.
struct SideBound {
  double most;   // above the absolute value of any dot
  double bound;  // infinite where nothing is known

  SideBound(const FilterPlan& plan, float queryError, float queryLength, float keyError, float keyLength) {
    const auto qe = static_cast<double>(queryError), ql = static_cast<double>(queryLength);
    const auto ke = static_cast<double>(keyError), kl = static_cast<double>(keyLength);
    most = (qe + ql) * (ke + kl);
    bound = plan.bound(qe, ql, ke, kl);
  }
};

class Products {
 public:
  Products(const Context& context, const TopKArgs& args)
      : context_(context),
        args_(args),
        queries_{&cpuPrepared(args.queries), &cpuPrepared(args.secondQueries)},
        keys_{&cpuPrepared(args.keys), &cpuPrepared(args.secondKeys)},
        pairs_(std::max(context.threads, 1), *queries_[0], *keys_[0], queries_[1], keys_[1], args.cutoff) {}

  Status run() {
    if (queries_[0]->rows != queries_[1]->rows || keys_[0]->rows != keys_[1]->rows ||
        queries_[1]->dim != keys_[1]->dim) {
      return {Code::kInternal, "A selection over rows of different shapes"};
    }
    CLIPCID_TRY(choosePlans());
    if (args_.plan != nullptr) *args_.plan = plans_[0].text() + "; " + plans_[1].text();
    for (int worker = 0; worker < std::max(context_.threads, 1); ++worker)
      scores_.emplace_back(kMostTileRows * kStride);
    // Half of the memory is for the second pair.
    Context half = context_;
    half.maxMemory = memoryBudget(context_) / 2;
    SelectSweep pass;
    pass.plan = &plans_[0];
    pass.queries = queries_[0];
    pass.keys = keys_[0];
    pass.begin = args_.begin;
    pass.count = args_.count;
    pass.stateBytes = Shortlists::bytes(args_.k);
    pass.open = [&](const QueryBlock& block) -> Status {
      block_ = block;
      lists_ = std::make_unique<Shortlists>(block.count, block.parts, args_.k, pairs_.judge(block));
      // The queries of a block follow one another.
      return queries_[1]->encode(half, plans_[1].queries, block.row(0), block.count, &secondQueries_);
    };
    pass.blocks = [&](const SweepBlocks& blocks) { return packKeys(half, blocks); };
    pass.visit = [&](const Strip& strip, int worker) { return visit(strip, worker); };
    std::vector<int64_t> again;
    pass.close = [&](const QueryBlock& block) { return writeBest(context_, args_, block, *lists_, &again); };
    CLIPCID_TRY(selectSweep(half, pass));
    // Floors are no guesses here.
    return again.empty() ? Status() : Status(Code::kInternal, "A floor that was over what it is a bound of");
  }

 private:
  // Both pairs with one microkernel, so that their tiles are the same.
  Status choosePlans() {
    Context chosen = context_;
    if (chosen.filter == Filter::kAuto) CLIPCID_TRY(chooseFilter(&chosen.filter));
    CLIPCID_TRY(plan(chosen));
    if (plans_[0].kernel == plans_[1].kernel) return {};
    chosen.filter = Filter::kFloat32;
    return plan(chosen);
  }

  Status plan(const Context& context) {
    for (int side = 0; side < 2; ++side)
      CLIPCID_TRY(planFilter(context, *queries_[side], *keys_[side], context.filter, false, &plans_[side]));
    return {};
  }

  // The more precise of what each pair would take by itself.
  Status chooseFilter(Filter* out) const {
    const int64_t count = args_.count < 0 ? queries_[0]->rows - args_.begin : args_.count;
    Filter filters[2];
    for (int side = 0; side < 2; ++side) {
      FilterPlan alone;
      CLIPCID_TRY(planSelect(
          context_, {.queries = queries_[side], .keys = keys_[side], .count = count, .k = args_.k}, &alone));
      filters[side] = alone.queries.filter;
    }
    // Filters are numbered from the most precise to the least.
    *out = std::min(filters[0], filters[1]);
    return {};
  }

  Status packKeys(const Context& context, const SweepBlocks& blocks) {
    const int panel = plans_[1].kernel->panel;
    const int64_t words = plans_[1].keys.words, panels = (blocks.keys + panel - 1) / panel;
    CLIPCID_TRY(keys_[1]->encode(context, plans_[1].keys, blocks.key, blocks.keys, &secondKeys_));
    if (panels * panel * words > panelWords_) {
      panelWords_ = panels * panel * words;
      panels_ = AlignedArray<uint32_t>(panelWords_);
    }
    return parallelTry(context, panels, [&](int64_t at, int) -> Status {
      packPanel(*plans_[1].kernel, secondKeys_, words, blocks.key + at * panel,
                std::min<int64_t>(panel, blocks.keys - at * panel), panels_.get() + at * panel * words);
      return {};
    });
  }

  // The strip's tile of the second pair.
  void secondScores(const Strip& strip, int64_t place, float* scores) const {
    const FilterPlan& plan = plans_[1];
    const int panel = plan.kernel->panel;
    const int64_t words = plan.keys.words;
    const auto scale =
        static_cast<float>(static_cast<double>(plan.queries.step) * static_cast<double>(plan.keys.step));
    const uint32_t* rows = secondQueries_.words.get() + place * secondQueries_.stride;
    const uint32_t* panels = panels_.get() + (strip.key - secondKeys_.begin) * words;
    for (int64_t from = 0; from < strip.columns; from += panel) {
      plan.kernel->tile(rows, secondQueries_.stride, secondQueries_.sums.get() + place, panels + from * words,
                        words, scale, -kInfinity, scores + from, kStride);
    }
  }

  Status visit(const Strip& strip, int worker) {
    const int64_t place = strip.query - block_.first;
    float* second = scores_[static_cast<size_t>(worker)].get();
    secondScores(strip, place, second);
    float keyError = 0, keyLength = 0;
    const int64_t key = strip.key - secondKeys_.begin;
    for (int64_t j = key; j < key + strip.columns; ++j) {
      keyError = std::max(keyError, secondKeys_.errors.get()[j]);
      keyLength = std::max(keyLength, secondKeys_.lengths.get()[j]);
    }
    for (int r = 0; r < strip.rows; ++r) {
      const SideBound first(plans_[0], strip.errorOf(r), strip.lengthOf(r), strip.keyError, strip.keyLength);
      const SideBound other(plans_[1], secondQueries_.errors.get()[place + r],
                            secondQueries_.lengths.get()[place + r], keyError, keyLength);
      CLIPCID_TRY(
          visitRow(strip, r, strip.scores + r * strip.stride, second + r * kStride, first, other, worker));
    }
    return {};
  }

  Status visitRow(const Strip& strip, int r, const float* first, const float* second, const SideBound& x,
                  const SideBound& y, int worker) {
    const int64_t place = strip.query + r - block_.first, self = block_.row(place);
    double bound = x.most * y.bound + (y.most + y.bound) * x.bound;
    // Rounding of the product to float32.
    bound += std::ldexp((x.most + x.bound) * (y.most + y.bound), -23) + std::ldexp(1.0, -148);
    // A bound of a side is finite where its sums are below 1e37; their product may still leave float32's range.
    const bool known = bound < 1e37 && x.most * y.most < 1e37;
    if (!known) bound = std::numeric_limits<double>::infinity();
    float products[kMostStrip];
    multiply(first, second, roundDown(args_.cutoff - x.bound), roundDown(args_.cutoff - y.bound),
             strip.columns, products);
    float floor = lists_->floor(place, strip.part);
    float limit = roundDown(static_cast<double>(floor) - bound);
    int32_t positions[kMostStrip];
    const int64_t found = kernels().notBelow(products, strip.columns, limit, positions);
    for (int64_t f = 0; f < found; ++f) {
      const int32_t column = positions[f];
      const int64_t key = strip.key + column;
      // The floor may have risen since.
      if (products[column] < limit || (args_.skipSelf && key == self)) continue;
      Candidate candidate = {-kInfinity, kInfinity, 0};
      if (known) {
        candidate = productInterval(static_cast<double>(first[column]), x.bound,
                                    static_cast<double>(second[column]), y.bound, args_.cutoff);
      }
      candidate.index = static_cast<int32_t>(key);
      CLIPCID_TRY(lists_->add(place, strip.part, candidate, worker));
      if (lists_->floor(place, strip.part) > floor) {
        floor = lists_->floor(place, strip.part);
        limit = roundDown(static_cast<double>(floor) - bound);
      }
    }
    return {};
  }

  const Context& context_;
  const TopKArgs& args_;
  const CpuPrepared* queries_[2];
  const CpuPrepared* keys_[2];
  FilterPlan plans_[2];
  PairScores pairs_;
  QueryBlock block_;
  std::unique_ptr<Shortlists> lists_;
  EncodedRows secondQueries_, secondKeys_;  // of the blocks at hand
  AlignedArray<uint32_t> panels_;
  int64_t panelWords_ = 0;
  std::vector<AlignedArray<float>> scores_;  // one a worker
};

}  // namespace

Status topKProducts(const Context& context, const TopKArgs& args) { return Products(context, args).run(); }

}  // namespace clipcid
