// TopK: the k keys of highest score for each query, where the score is one canonical dot or the product of two.
//
// In: queries [Q, D] and keys [K, D], and for products a second pair of as many rows. Out: indices and canonical
// scores [Q, k].
//
// Of a strip, only keys that the filter's bound lets reach the query's floor become candidates (shortlist.h); what
// is left at the end is decided canonically, which gives the scores too.
//
// Products: for dots x, y and their filtered a, b with |x - a| <= s and |y - b| <= t, |x y - a b| <= |x| t + |b| s,
// |x| and |y| being at most the products of norms. That bound rules keys out; a candidate's own interval comes from
// the corners of [a - s, a + s] x [b - t, b + t]. Where a dot may be over the cutoff, the interval takes in 0.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/select_sweep.h"
#include "cpu/shortlist.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// products[j] = first[j] * second[j], and not below 0 where a factor reaches its cutoff. May be done in place.
CLIPCID_WIDE void multiply(const float* first, const float* second, float firstCutoff, float secondCutoff,
                           int64_t count, float* products) {
  for (int64_t at = 0; at < count; ++at) {
    const float product = first[at] * second[at];
    const float least = product < 0 ? 0 : product;
    const bool over = (first[at] >= firstCutoff) | (second[at] >= secondCutoff);
    products[at] = over ? least : product;
  }
}

class TopK {
 public:
  TopK(const TopKArgs& args, int workers)
      : args_(args),
        sides_(args.secondQueries == nullptr ? 1 : 2),
        queries_{&cpuPrepared(args.queries), sides_ == 2 ? &cpuPrepared(args.secondQueries) : nullptr},
        keys_{&cpuPrepared(args.keys), sides_ == 2 ? &cpuPrepared(args.secondKeys) : nullptr} {
    const int64_t widest = std::max(queries_[0]->dim, sides_ == 2 ? queries_[1]->dim : 0);
    for (int worker = 0; worker < workers; ++worker) scratch_.emplace_back(2 * widest);
  }

  Status run(const Context& context) {
    SelectSweep pass;
    pass.sides = sides_;
    for (int side = 0; side < sides_; ++side) {
      pass.queries[side] = queries_[side];
      pass.keys[side] = keys_[side];
    }
    pass.begin = args_.begin;
    pass.count = args_.count;
    pass.stateBytes = Shortlists::bytes(args_.k);
    pass.open = [&](const QueryBlock& block, int64_t parts) -> Status {
      lists_ = std::make_unique<Shortlists>(
          block.count, parts, args_.k, [this, block](int64_t place, int32_t key, int worker, double* score) {
            return decide(block.row(place), key, worker, score);
          });
      return {};
    };
    pass.visit = [&](const SelectStrip& strip, int worker) -> Status {
      for (int r = 0; r < strip.rows; ++r) {
        CLIPCID_TRY(sides_ == 1 ? visitRow(strip, r, worker) : visitProducts(strip, r, worker));
      }
      return {};
    };
    pass.close = [&](const QueryBlock& block) -> Status {
      constexpr int64_t kRange = 64;
      return parallelTry(context, (block.count + kRange - 1) / kRange, [&](int64_t range, int worker) {
        std::vector<Decided> best;
        for (int64_t place = range * kRange; place < std::min((range + 1) * kRange, block.count); ++place) {
          CLIPCID_TRY(lists_->finish(place, worker, &best));
          const int64_t out = (block.out + place) * args_.k;
          for (int64_t rank = 0; rank < args_.k; ++rank) {
            args_.indices[out + rank] = best[static_cast<size_t>(rank)].index;
            args_.scores[out + rank] = best[static_cast<size_t>(rank)].score;
          }
        }
        return Status();
      });
    };
    return selectSweep(context, pass);
  }

 private:
  Status decide(int64_t query, int64_t key, int worker, double* score) {
    float* scratch = scratch_[static_cast<size_t>(worker)].get();
    double dots[2] = {};
    for (int side = 0; side < sides_; ++side) {
      const int64_t dim = queries_[side]->dim;
      const float *x, *y;
      CLIPCID_TRY(queries_[side]->row(query, scratch, &x));
      CLIPCID_TRY(keys_[side]->row(key, scratch + dim, &y));
      dots[side] = kernels().dot(x, y, dim);
    }
    if (sides_ == 1) {
      *score = dots[0];
    } else {
      *score = dots[0] > args_.cutoff || dots[1] > args_.cutoff ? 0 : dots[0] * dots[1];
    }
    return {};
  }

  // Hands the keys whose score is not below the floor less `bound` to the list, each with its interval.
  template <typename Interval>
  Status collect(const SelectStrip& strip, int r, const float* scores, double bound, int worker,
                 Interval&& interval) {
    const int64_t place = strip.place + r, self = strip.queries->row(place);
    float floor = lists_->floor(place, strip.part);
    float limit = roundDown(static_cast<double>(floor) - bound);
    int32_t positions[kMostStrip];
    const int64_t found = kernels().notBelow(scores, strip.columns, limit, positions);
    for (int64_t f = 0; f < found; ++f) {
      const int64_t key = strip.key + positions[f];
      // The floor may have risen since.
      if (scores[positions[f]] < limit || (args_.skipSelf && key == self)) continue;
      Candidate candidate = interval(positions[f]);
      candidate.index = static_cast<int32_t>(key);
      CLIPCID_TRY(lists_->add(place, strip.part, candidate, worker));
      if (lists_->floor(place, strip.part) > floor) {
        floor = lists_->floor(place, strip.part);
        limit = roundDown(static_cast<double>(floor) - bound);
      }
    }
    return {};
  }

  double boundOf(const SelectStrip& strip, int r, int side) const {
    return dotBound(queries_[side]->dim, queries_[side]->normBound(strip.queries->row(strip.place + r)),
                    strip.keyNorms[side]);
  }

  Status visitRow(const SelectStrip& strip, int r, int worker) {
    const float* scores = strip.scores[0] + r * strip.stride;
    const double bound = boundOf(strip, r, 0);
    if (!std::isfinite(bound)) {
      return collect(strip, r, scores, bound, worker, [](int32_t) {
        return Candidate{-kInfinity, kInfinity, 0};
      });
    }
    return collect(strip, r, scores, bound, worker, [&](int32_t j) {
      const double score = static_cast<double>(scores[j]);
      return Candidate{roundDown(score - bound), roundUp(score + bound), 0};
    });
  }

  Status visitProducts(const SelectStrip& strip, int r, int worker) {
    const float* first = strip.scores[0] + r * strip.stride;
    const float* second = strip.scores[1] + r * strip.stride;
    const double s = boundOf(strip, r, 0), t = boundOf(strip, r, 1);
    const int64_t query = strip.queries->row(strip.place + r);
    const double mostFirst = queries_[0]->normBound(query) * strip.keyNorms[0];
    const double mostSecond = queries_[1]->normBound(query) * strip.keyNorms[1];
    double bound = mostFirst * t + (mostSecond + t) * s;
    // Rounding of the product to float32.
    bound += std::ldexp((mostFirst + s) * (mostSecond + t), -23) + std::ldexp(1.0, -148);
    float products[kMostStrip];
    multiply(first, second, roundDown(args_.cutoff - s), roundDown(args_.cutoff - t), strip.columns,
             products);
    // Sums of 1e37 are safe from overflow, but not their products.
    if (!(bound < 1e37) || !(mostFirst * mostSecond < 1e37)) {
      return collect(strip, r, products, std::numeric_limits<double>::infinity(), worker, [](int32_t) {
        return Candidate{-kInfinity, kInfinity, 0};
      });
    }
    return collect(strip, r, products, bound, worker, [&](int32_t j) {
      const double a = static_cast<double>(first[j]), b = static_cast<double>(second[j]);
      if (a - s > args_.cutoff || b - t > args_.cutoff) return Candidate{0, 0, 0};
      const double corners[] = {(a - s) * (b - t), (a - s) * (b + t), (a + s) * (b - t), (a + s) * (b + t)};
      double low = *std::min_element(corners, corners + 4), high = *std::max_element(corners, corners + 4);
      if (a + s > args_.cutoff || b + t > args_.cutoff) {
        low = std::min(low, 0.0);
        high = std::max(high, 0.0);
      }
      return Candidate{roundDown(low), roundUp(high), 0};
    });
  }

  const TopKArgs& args_;
  const int sides_;
  const CpuPrepared* queries_[2];
  const CpuPrepared* keys_[2];
  std::vector<AlignedArray<float>> scratch_;  // [workers][2, widest]
  std::unique_ptr<Shortlists> lists_;
};

}  // namespace

Status CpuBackend::topK(const Context& context, const TopKArgs& args) {
  return guarded([&]() -> Status {
    if (args.k < 1 || args.k > args.keys->rows - (args.skipSelf ? 1 : 0))
      return {Code::kInvalidArgument, "k is not in the number of keys"};
    if (args.plan != nullptr) *args.plan = "float32, all dimensions, " + std::string(isaName());
    TopK selection(args, std::max(context.threads, 1));
    return selection.run(context);
  });
}

}  // namespace clipcid
