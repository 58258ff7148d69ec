// Epilogue of the join: which pairs of a tile are over the threshold.
//
// A tile's bound says from which score on a pair is open, and from which on it is certainly over. Nearly all tiles are done
// when no score of a warp reaches the lower one: a maximum an element, and a vote. In the others every thread collects its
// hits in masks, and the warp then deals with one hit of each lane at a time: a certain pair is united, or joins the open ones
// in a list, where each warp reserves its places with one atomic. The list's counter runs on when the list is full, so that
// the host learns how long it would have been.
#pragma once

#include "cuda/bound.cuh"
#include "cuda/fragment.cuh"
#include "cuda/join_kernels.h"
#include "cuda/union_find.cuh"

namespace clipcid::cuda {

template <typename Fragment, typename Team>
class JoinEpilogue {
 public:
  using Params = JoinParams;
  static constexpr int kSharedBytes = 0;

  CLIPCID_DEVICE JoinEpilogue(const Params& params, char*, Team) : params_(params) {}

  CLIPCID_DEVICE void begin(const TileAt&) {}
  CLIPCID_DEVICE void start(Fragment& scores, const TileAt&) { scores.clear(); }
  CLIPCID_DEVICE void finish(const TileAt&) {}

  CLIPCID_DEVICE void visit(const Fragment& scores, const TileAt& at) {
    const RowBound query = largestBound(params_.queries, at.row, at.rows);
    const RowBound key = largestBound(params_.keys, at.column, at.columns);
    const float bound = scoreBound(query, key, params_.terms);
    const T open = limitBelow<T>(openFrom(params_.thresholdBelow, bound));
    T most = scores.at(0, 0);
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c) most = scores.at(r, c) > most ? scores.at(r, c) : most;
    }
    if (!__any_sync(kAllLanes, most >= open)) return;
    const bool decided = params_.oneSided || params_.decideAll;
    const T certain = limitAbove<T>(decided ? HUGE_VALF : certainAbove(params_.thresholdAbove, bound));
    // Sixty-four values at a time: as many as a mask holds.
    constexpr int kRowsAtOnce =
        64 / Fragment::kColumns < Fragment::kRows ? 64 / Fragment::kColumns : Fragment::kRows;
#pragma unroll
    for (int first = 0; first < Fragment::kRows; first += kRowsAtOnce) {
      uint64_t hits = 0, sure = 0;
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma unroll
        for (int c = 0; c < Fragment::kColumns; ++c) {
          const T score = scores.at(first + r, c);
          const uint64_t bit = uint64_t{1} << (r * Fragment::kColumns + c);
          if (score >= open) hits |= bit;
          if (score > certain) sure |= bit;
        }
      }
      deal(scores, at, first, hits, sure);
    }
  }

 private:
  using T = typename Fragment::T;

  // One hit of each lane at a time.
  CLIPCID_DEVICE void deal(const Fragment& scores, const TileAt& at, int firstRow, uint64_t hits,
                           uint64_t sure) {
    while (__any_sync(kAllLanes, hits != 0)) {
      const int bit = hits != 0 ? __ffsll(static_cast<long long>(hits)) - 1 : 0;
      const int row = scores.row(firstRow + bit / Fragment::kColumns),
                column = scores.column(bit % Fragment::kColumns);
      const int32_t i = params_.queryBegin + at.row + row, j = params_.keyBegin + at.column + column;
      bool wanted = hits != 0 && row < at.rows && column < at.columns && (!params_.self || i < j);
      wanted = wanted && (params_.excluded[0] == nullptr || params_.excluded[0][i] == 0) &&
               (params_.excluded[1] == nullptr || params_.excluded[1][j] == 0);
      const bool certain = wanted && (sure >> bit & 1) != 0;
      hits &= hits - 1;
      bool listed = wanted;
      if (params_.parents != nullptr) {
        if (certain) uniteSets(params_.parents, i, j);
        listed = wanted && !certain;
        const unsigned united = __ballot_sync(kAllLanes, certain);
        if (united != 0 && scores.lane == 0)
          atomicAdd(&params_.counters->certain, static_cast<unsigned long long>(__popc(united)));
      }
      const unsigned votes = __ballot_sync(kAllLanes, listed);
      if (votes == 0) continue;
      unsigned long long place = 0;
      if (scores.lane == 0)
        place = atomicAdd(&params_.counters->listed, static_cast<unsigned long long>(__popc(votes)));
      place =
          __shfl_sync(kAllLanes, place, 0) + static_cast<unsigned>(__popc(votes & ((1u << scores.lane) - 1)));
      if (listed && place < static_cast<unsigned long long>(params_.capacity))
        params_.list[place] = {certain ? i | kCertainBit : i, j};
    }
  }

  const Params& params_;
};

}  // namespace clipcid::cuda
