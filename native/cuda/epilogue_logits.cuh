// Epilogue of softmaxes: a tile of scores becomes logits, which are stored where somebody wants them, and parts of log-sum-exps.
//
// By query a warp reduces 32 of its keys to their largest logit and the sum of exponentials over that, four lanes by shuffles; by
// key 16 of its queries, eight lanes. Every such part has a place of its own in memory, so nothing is added in an order
// that depends on blocks; parts are merged afterwards, in order (softmax_kernels.cu). A quarter of a byte a logit; with
// both, three quarters. Not yet measured.
//
// An element costs a maximum and an exponential for each of the two.
#pragma once

#include "cuda/fragment.cuh"
#include "cuda/softmax_kernels.h"

namespace clipcid::cuda {

template <typename Fragment, typename Team>
class LogitsEpilogue {
 public:
  using Params = LogitsParams;
  static constexpr int kSharedBytes = 0;
  static_assert(Fragment::Layout::column(0, 0) + 1 == Fragment::Layout::column(0, 1), "written in pairs");

  CLIPCID_DEVICE LogitsEpilogue(const Params& params, char*, Team) : params_(params) {}

  CLIPCID_DEVICE void begin(const TileAt&) {}
  CLIPCID_DEVICE void start(Fragment& scores, const TileAt&) { scores.clear(); }
  CLIPCID_DEVICE void finish(const TileAt&) {}

  CLIPCID_DEVICE void visit(Fragment& scores, const TileAt& at) {
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c)
        scores.at(r, c) = scores.at(r, c) * params_.unscale * params_.scale;
    }
    if (params_.logits != nullptr) store(scores, at);
    if (params_.targets != nullptr) findTargets(scores, at);
    if (params_.queryParts != nullptr) byQuery(scores, at);
    if (params_.keyParts != nullptr) byKey(scores, at);
  }

 private:
  CLIPCID_DEVICE void store(const Fragment& scores, const TileAt& at) {
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row >= at.rows) continue;
      float* to = params_.logits + (int64_t{at.row} + row) * params_.logitsStride + at.column;
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; c += 2) {
        const int column = scores.column(c);
        if (column < at.columns)
          *reinterpret_cast<Floats2*>(to + column) = {scores.at(r, c), scores.at(r, c + 1)};
      }
    }
  }

  CLIPCID_DEVICE void findTargets(const Fragment& scores, const TileAt& at) {
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row >= at.rows) continue;
      const int32_t target = params_.targets[at.row + row] - params_.firstKey - at.column;
      if (target < 0 || target >= at.columns) continue;
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c) {
        if (scores.column(c) == target) params_.targetLogits[at.row + row] = scores.at(r, c);
      }
    }
  }

  // A thread has eight of the keys of a part, next to each other among its own.
  CLIPCID_DEVICE void byQuery(const Fragment& scores, const TileAt& at) {
    constexpr int kOwn = kPartKeys / Fragment::Layout::kLanesOfRow;
    const int32_t parts = (params_.keys + kPartKeys - 1) / kPartKeys;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
#pragma unroll
      for (int first = 0; first < Fragment::kColumns; first += kOwn) {
        float most = -HUGE_VALF;
#pragma unroll
        for (int c = first; c < first + kOwn; ++c)
          most = fmaxf(most, scores.column(c) < at.columns ? scores.at(r, c) : -HUGE_VALF);
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
        float sum = 0;
#pragma unroll
        for (int c = first; c < first + kOwn; ++c)
          sum += scores.column(c) < at.columns ? exp2f(scores.at(r, c) - most) : 0;
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        const int32_t part = (at.column + scores.warpColumn) / kPartKeys + first / kOwn;
        if (scores.lane % Fragment::Layout::kLanesOfRow == 0 && row < at.rows && part < parts)
          params_.queryParts[(int64_t{at.row} + row) * parts + part] = {most, sum};
      }
    }
  }

  // A thread has two of the queries of a part.
  CLIPCID_DEVICE void byKey(const Fragment& scores, const TileAt& at) {
#pragma unroll
    for (int r = 0; r < Fragment::kRows; r += 2) {
      const bool one = scores.row(r) < at.rows, other = scores.row(r + 1) < at.rows;
      const int tileRow = scores.row(r) / kPartQueries * kPartQueries;
      SoftmaxPart* to =
          params_.keyParts + int64_t{(at.row + tileRow) / kPartQueries} * params_.keys + at.column;
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c) {
        float most = fmaxf(one ? scores.at(r, c) : -HUGE_VALF, other ? scores.at(r + 1, c) : -HUGE_VALF);
#pragma unroll
        for (int by = Fragment::Layout::kLanesOfRow; by < kWarp; by *= 2)
          most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, by));
        float sum =
            (one ? exp2f(scores.at(r, c) - most) : 0) + (other ? exp2f(scores.at(r + 1, c) - most) : 0);
#pragma unroll
        for (int by = Fragment::Layout::kLanesOfRow; by < kWarp; by *= 2)
          sum += __shfl_xor_sync(kAllLanes, sum, by);
        const int column = scores.column(c);
        if (scores.lane < Fragment::Layout::kLanesOfRow && column < at.columns && tileRow < at.rows)
          to[column] = {most, sum};
      }
    }
  }

  const Params& params_;
};

}  // namespace clipcid::cuda
