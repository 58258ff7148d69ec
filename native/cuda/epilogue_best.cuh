// Epilogue of best: which key has a query's highest score, or which may have.
//
// A block goes through all keys of a tile of queries. Of each query it keeps, in shared memory, a floor: a number that the best
// canonical score is not below, the largest score so far less its bound; and a short list of the keys whose score and bound
// reach the floor. A tile costs a maximum an element and a comparison a row: only rows whose maximum reaches the floor are
// looked at again. The floor is raised before keys are listed, for the first tile by the whole block, so few keys are listed
// that do not stay. At the end what no longer reaches the floor is dropped: a query with one key left is settled, one with more
// is open, and one whose list was too short has overflowed; its floor makes a second pass easier.
//
// Keys that do not exist start from a score that no key has.
#pragma once

#include "cuda/best_kernels.h"
#include "cuda/bound.cuh"
#include "cuda/fragment.cuh"
#include "cuda/ordered.cuh"

namespace clipcid::cuda {

constexpr int kBestSlots = 16;

struct BestSlot {
  int32_t key;
  float high;  // the canonical score is not above this
};

template <typename Fragment, typename Team>
class BestEpilogue {
 public:
  using Params = BestParams;
  static constexpr int kMostRows = 128;
  struct alignas(8) RowState {
    int32_t floor;  // ordered
    float bound;    // of the query's scores with any key of its problem
  };
  struct Shared {
    RowState rows[kMostRows];
    int32_t counts[kMostRows];
    BestSlot slots[kMostRows][kBestSlots];
  };
  static constexpr int kSharedBytes = sizeof(Shared);

  CLIPCID_DEVICE BestEpilogue(const Params& params, char* shared, Team team)
      : params_(params), shared_(*reinterpret_cast<Shared*>(shared)), team_(team) {}

  CLIPCID_DEVICE void begin(const TileAt& at) {
    const RowBound key = params_.keyMaxima[at.problem];
    const float reach = key.length + key.error;
    const float ofBias =
        kBoundSafety * (params_.terms.relative + 0x1p-22f) * params_.biasRatio * reach * reach;
    for (int row = team_.rank(); row < at.rows; row += Team::kThreads) {
      const RowBound query =
          params_.queries.bounds[int64_t{at.problem} * params_.queriesOfProblem + at.row + row];
      shared_.rows[row] = {params_.floors[placeOf(at, row)], scoreBound(query, key, params_.terms) + ofBias};
      shared_.counts[row] = 0;
    }
    first_ = true;
    team_.synchronise();
  }

  CLIPCID_DEVICE void start(Fragment& scores, const TileAt& at) {
#pragma unroll
    for (int c = 0; c < Fragment::kColumns; ++c) {
      const int column = scores.column(c);
      T value = static_cast<T>(kNoScore);
      if (column < at.columns)
        value =
            params_.biases == nullptr
                ? T(0)
                : static_cast<T>(-params_.biases[static_cast<int64_t>(at.problem) * params_.keysOfProblem +
                                                 at.column + column]);
#pragma unroll
      for (int r = 0; r < Fragment::kRows; ++r) scores.at(r, c) = value;
    }
  }

  CLIPCID_DEVICE void visit(const Fragment& scores, const TileAt& at) {
    if (first_) {
#pragma unroll
      for (int r = 0; r < Fragment::kRows; ++r) {
        float most = largestOf(scores, r);
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
        RowState& state = shared_.rows[scores.row(r)];
        if (scores.lane % Fragment::Layout::kLanesOfRow == 0 && scores.row(r) < at.rows)
          atomicMax(&state.floor, orderedOf(below(most - state.bound)));
      }
      first_ = false;
      team_.synchronise();
    }
    bool any = false;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r)
      any |= scores.row(r) < at.rows && largestOf(scores, r) >= limitOf(shared_.rows[scores.row(r)]);
    if (!__any_sync(kAllLanes, any)) return;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row >= at.rows) continue;
      RowState state = shared_.rows[row];
      const float most = largestOf(scores, r);
      if (!(most >= limitOf(state))) continue;
      const int32_t own = orderedOf(below(most - state.bound));
      if (own > state.floor) {
        atomicMax(&shared_.rows[row].floor, own);
        state.floor = own;
      }
      const float limit = limitOf(state);
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c) {
        const auto score = static_cast<float>(scores.at(r, c));
        if (score >= limit) list(row, at.column + scores.column(c), above(score + state.bound));
      }
    }
  }

  CLIPCID_DEVICE void finish(const TileAt& at) {
    team_.synchronise();
    // All lanes of a warp, whether or not they have a row.
    for (int first = 0; first < at.rows; first += Team::kThreads) {
      const int row = first + team_.rank();
      if (first + team_.rank() / kWarp * kWarp < at.rows) settle(at, row, row < at.rows);
    }
    team_.synchronise();
  }

 private:
  using T = typename Fragment::T;
  // Of keys that do not exist, whose words are zeros; half as much again as any other score.
  static constexpr float kNoScore = T(0.5f) == T(0) ? -2147483520.0f : -1e30f;

  CLIPCID_DEVICE static float below(float value) { return value - fabsf(value) * 0x1p-22f - 0x1p-140f; }
  CLIPCID_DEVICE static float above(float value) { return value + fabsf(value) * 0x1p-22f + 0x1p-140f; }

  CLIPCID_DEVICE int32_t placeOf(const TileAt& at, int row) const {
    const int32_t index = at.problem * params_.queriesOfProblem + at.row + row;
    return params_.places == nullptr ? index : params_.places[index];
  }
  CLIPCID_DEVICE static float largestOf(const Fragment& scores, int r) {
    T most = scores.at(r, 0);
#pragma unroll
    for (int c = 1; c < Fragment::kColumns; ++c) most = scores.at(r, c) > most ? scores.at(r, c) : most;
    return static_cast<float>(most);
  }
  // Scores below this do not reach a floor.
  CLIPCID_DEVICE static float limitOf(const RowState& state) {
    const float limit = below(ofOrdered(state.floor) - state.bound);
    // Where nothing is known of a key, it exists at least.
    return limit > 0.75f * kNoScore ? limit : 0.75f * kNoScore;
  }

  CLIPCID_DEVICE void list(int row, int32_t key, float high) {
    const int place = atomicAdd(&shared_.counts[row], 1);
    if (place < kBestSlots) shared_.slots[row][place] = {key, high};
  }

  CLIPCID_DEVICE void settle(const TileAt& at, int row, bool some) {
    const int lane = team_.rank() % kWarp;
    const int32_t floor = some ? shared_.rows[row].floor : 0;
    const int listed = some ? shared_.counts[row] : 0;
    const int32_t query = some ? placeOf(at, row) : 0;
    int left = 0;
    bool overflow = listed > kBestSlots;
    const int kept = listed < kBestSlots ? listed : kBestSlots;
    for (int slot = 0; slot < kept; ++slot) left += orderedOf(shared_.slots[row][slot].high) >= floor;
    overflow |= left > kMostCandidates;
    if (some) {
      params_.floors[query] = floor;
      if (!overflow && left < 2) params_.labels[query] = -1;
    }
    // One place in a list for each lane that needs one.
    const bool isOpen = some && !overflow && left > 1;
    const unsigned votes = __ballot_sync(kAllLanes, isOpen);
    int32_t place = 0;
    if (votes != 0 && lane == 0) place = atomicAdd(&params_.counters->open, __popc(votes));
    place = __shfl_sync(kAllLanes, place, 0) + __popc(votes & ((1u << lane) - 1));
    overflow |= isOpen && place >= params_.openCapacity;
    const unsigned late = __ballot_sync(kAllLanes, some && overflow);
    int32_t latePlace = 0;
    if (late != 0 && lane == 0) latePlace = atomicAdd(&params_.counters->overflow, __popc(late));
    latePlace = __shfl_sync(kAllLanes, latePlace, 0) + __popc(late & ((1u << lane) - 1));
    if (some && overflow) params_.overflow[latePlace] = query;
    if (!some || overflow || left == 0) return;
    OpenQuery* to = isOpen ? params_.open + place : nullptr;
    if (isOpen) {
      to->place = query;
      to->count = left;
    }
    for (int slot = 0, next = 0; slot < kept; ++slot) {
      const BestSlot& one = shared_.slots[row][slot];
      if (orderedOf(one.high) < floor) continue;
      if (isOpen) {
        to->keys[next++] = one.key;
      } else {
        params_.labels[query] = one.key;
      }
    }
  }

  const Params& params_;
  Shared& shared_;
  Team team_;
  bool first_ = false;
};

}  // namespace clipcid::cuda
