// Best: the key of highest canonical score for each chosen query.
//
// In: queries [Q, D] (all, or `rows` of them), keys [K, D]. Out: an index for each, and where asked for its score
// and bounds on it and on all others'.
//
// Of a strip, the largest float32 score raises the query's floor before any key is looked at, so only keys
// within twice the bound of the best so far become candidates. A query with one candidate at the end is settled:
// its canonical score is computed only where the caller wants it. Others are decided canonically.
//
// Bounds: what is not a candidate lies below the floor; for a lone candidate the second largest upper end of all
// keys is a bound on the others', and a far better one.
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

struct Two {
  float first = -kInfinity;
  float second = -kInfinity;

  void add(float value) {
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
};

// The two largest elements; none is a NaN.
CLIPCID_WIDE Two largestTwo(const float* values, int64_t count) {
  constexpr int kWidth = 16;
  float first[kWidth], second[kWidth];
  for (int lane = 0; lane < kWidth; ++lane) first[lane] = second[lane] = -kInfinity;
  int64_t at = 0;
  for (; at + kWidth <= count; at += kWidth) {
    for (int lane = 0; lane < kWidth; ++lane) {
      const float value = values[at + lane];
      const float lesser = value < first[lane] ? value : first[lane];
      first[lane] = value < first[lane] ? first[lane] : value;
      second[lane] = second[lane] < lesser ? lesser : second[lane];
    }
  }
  Two two;
  for (int lane = 0; lane < kWidth; ++lane) {
    two.add(first[lane]);
    two.add(second[lane]);
  }
  for (; at < count; ++at) two.add(values[at]);
  return two;
}

CLIPCID_WIDE void subtract(float* values, const float* from, int64_t count) {
  for (int64_t at = 0; at < count; ++at) values[at] -= from[at];
}

class Best {
 public:
  Best(const BestArgs& args, int workers)
      : args_(args),
        queries_(cpuPrepared(args.queries)),
        keys_(cpuPrepared(args.keys)),
        bounds_(args.bestBelow != nullptr) {
    for (int worker = 0; worker < workers; ++worker) scratch_.emplace_back(2 * queries_.dim);
    if (!args.euclidean) return;
    halfSquares_.resize(keys_.squares.size());
    for (size_t j = 0; j < halfSquares_.size(); ++j)
      halfSquares_[j] = static_cast<float>(keys_.squares[j] / 2);
  }

  Status run(const Context& context) {
    SelectSweep pass;
    pass.queries[0] = &queries_;
    pass.keys[0] = &keys_;
    pass.rows = args_.rows;
    pass.count = args_.rows == nullptr ? -1 : args_.count;
    pass.stateBytes = Shortlists::bytes(1) + static_cast<int64_t>(sizeof(Two));
    pass.open = [&](const QueryBlock& block, int64_t parts) -> Status {
      lists_ = std::make_unique<Shortlists>(
          block.count, parts, 1, [this, block](int64_t place, int32_t key, int worker, double* score) {
            return decide(block.row(place), key, worker, score);
          });
      tops_.assign(bounds_ ? static_cast<size_t>(block.count * parts) : 0, Two{});
      parts_ = parts;
      return {};
    };
    pass.visit = [&](const SelectStrip& strip, int worker) -> Status {
      for (int r = 0; r < strip.rows; ++r) CLIPCID_TRY(visitRow(strip, r, worker));
      return {};
    };
    pass.close = [&](const QueryBlock& block) -> Status {
      constexpr int64_t kRange = 256;
      return parallelTry(context, (block.count + kRange - 1) / kRange, [&](int64_t range, int worker) {
        Shortlists::Rest rest;
        for (int64_t place = range * kRange; place < std::min((range + 1) * kRange, block.count); ++place)
          CLIPCID_TRY(finish(block, place, worker, &rest));
        return Status();
      });
    };
    return selectSweep(context, pass);
  }

 private:
  Status decide(int64_t query, int64_t key, int worker, double* score) {
    float* scratch = scratch_[static_cast<size_t>(worker)].get();
    const float *x, *y;
    CLIPCID_TRY(queries_.row(query, scratch, &x));
    CLIPCID_TRY(keys_.row(key, scratch + queries_.dim, &y));
    *score = kernels().dot(x, y, queries_.dim);
    if (args_.euclidean) *score -= keys_.squares[static_cast<size_t>(key)] / 2;
    return {};
  }

  Status visitRow(const SelectStrip& strip, int r, int worker) {
    const Kernels& kernel = kernels();
    const int64_t place = strip.place + r;
    float* scores = strip.scores[0] + r * strip.stride;
    const double queryNorm = queries_.normBound(strip.queries->row(place)), keyNorm = strip.keyNorms[0];
    double bound = dotBound(queries_.dim, queryNorm, keyNorm);
    if (args_.euclidean) {
      subtract(scores, halfSquares_.data() + strip.key, strip.columns);
      // Rounding of the halved square to float32 and of the subtraction.
      bound += std::ldexp(queryNorm * keyNorm + 2 * keyNorm * keyNorm, -23);
      if (!(keyNorm * keyNorm < 1e37)) bound = std::numeric_limits<double>::infinity();
    }
    Two* top = bounds_ ? &tops_[static_cast<size_t>(strip.part * strip.queries->count + place)] : nullptr;
    if (std::isfinite(bound)) {
      float most;
      if (top == nullptr) {
        most = kernel.largest(scores, strip.columns);
      } else {
        const Two two = largestTwo(scores, strip.columns);
        most = two.first;
        top->add(roundUp(static_cast<double>(two.first) + bound));
        top->add(roundUp(static_cast<double>(two.second) + bound));
      }
      lists_->raiseFloor(place, strip.part, roundDown(static_cast<double>(most) - bound));
      // Everything in the strip is below the floor.
      if (static_cast<double>(most) + bound < static_cast<double>(lists_->floor(place, strip.part)))
        return {};
    } else if (top != nullptr) {
      *top = {kInfinity, kInfinity};
    }
    const double floor = static_cast<double>(lists_->floor(place, strip.part));
    int32_t positions[kMostStrip];
    const int64_t found = kernel.notBelow(scores, strip.columns, roundDown(floor - bound), positions);
    for (int64_t f = 0; f < found; ++f) {
      const double score = static_cast<double>(scores[positions[f]]);
      const Candidate candidate = std::isfinite(bound)
                                      ? Candidate{roundDown(score - bound), roundUp(score + bound), 0}
                                      : Candidate{-kInfinity, kInfinity, 0};
      CLIPCID_TRY(lists_->add(place, strip.part,
                              {candidate.low, candidate.high, static_cast<int32_t>(strip.key + positions[f])},
                              worker));
    }
    return {};
  }

  Status finish(const QueryBlock& block, int64_t place, int worker, Shortlists::Rest* rest) {
    lists_->rest(place, rest);
    const int64_t out = block.out + place;
    const bool alone = rest->decided.empty() && rest->pending.size() == 1;
    if (alone) {
      const Candidate& one = rest->pending[0];
      args_.indices[out] = one.index;
      double low = static_cast<double>(one.low);
      if (args_.scores != nullptr) {
        CLIPCID_TRY(decide(block.row(place), one.index, worker, &low));
        args_.scores[out] = low;
      }
      if (bounds_) {
        Two two;
        for (int64_t part = 0; part < parts_; ++part) {
          const Two& top = tops_[static_cast<size_t>(part * block.count + place)];
          two.add(top.first);
          two.add(top.second);
        }
        // No other key reaches the floor, so the largest upper end is this key's own.
        args_.bestBelow[out] = low;
        args_.othersAbove[out] = static_cast<double>(two.second);
      }
      return {};
    }
    // All that were decided on the way are beaten or tied by the one that was kept.
    double others =
        keys_.rows > 1 ? static_cast<double>(rest->floor) : -std::numeric_limits<double>::infinity();
    Decided best{-std::numeric_limits<double>::infinity(), std::numeric_limits<int32_t>::max()};
    const auto add = [&](const Decided& one) {
      others = std::max(others, one.before(best) ? best.score : one.score);
      if (one.before(best)) best = one;
    };
    for (const Decided& one : rest->decided) add(one);
    for (const Candidate& one : rest->pending) {
      double score;
      CLIPCID_TRY(decide(block.row(place), one.index, worker, &score));
      add({score, one.index});
    }
    args_.indices[out] = best.index;
    if (args_.scores != nullptr) args_.scores[out] = best.score;
    if (bounds_) {
      args_.bestBelow[out] = best.score;
      args_.othersAbove[out] = rest->decided.empty() ? others : std::max(others, best.score);
    }
    return {};
  }

  const BestArgs& args_;
  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  const bool bounds_;
  int64_t parts_ = 1;
  std::vector<AlignedArray<float>> scratch_;  // [workers][2, dim]
  std::vector<float> halfSquares_;            // [keys], Euclidean only
  std::unique_ptr<Shortlists> lists_;
  std::vector<Two> tops_;  // [parts, queries]: the two largest upper ends of all keys
};

}  // namespace

Status CpuBackend::best(const Context& context, const BestArgs& args) {
  return guarded([&]() -> Status {
    if (args.keys->rows < 1) return {Code::kInvalidArgument, "A selection among no keys"};
    if (args.plan != nullptr) *args.plan = "float32, all dimensions, " + std::string(isaName());
    Best best(args, std::max(context.threads, 1));
    return best.run(context);
  });
}

}  // namespace clipcid
