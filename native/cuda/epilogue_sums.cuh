// Epilogue of products that are wanted as they are: a tile of scores, their scales undone, times a factor, written, added to
// what is there, or summed up from there on. Every element has one writer.
#pragma once

#include "cuda/fragment.cuh"
#include "cuda/mainloop.h"

namespace clipcid::cuda {

struct SumsParams {
  // sum = (score unscale) factor: the scales' product with a tiny factor may be one that float32 has not.
  float unscale = 1, factor = 1;
  // What is there is added to the sum, or is its first summand, unscaled.
  bool add = false, goOn = false;
  float* out = nullptr;  // [problems][rows, stride]
  int64_t stride = 0;    // elements, even
  int64_t problemStride = 0;
};

template <typename Fragment, typename Team>
class SumsEpilogue {
 public:
  using Params = SumsParams;
  static constexpr int kSharedBytes = 0;
  static_assert(Fragment::Layout::column(0, 0) + 1 == Fragment::Layout::column(0, 1), "written in pairs");

  CLIPCID_DEVICE SumsEpilogue(const Params& params, char*, Team) : params_(params) {}

  CLIPCID_DEVICE void begin(const TileAt&) {}
  CLIPCID_DEVICE void start(Fragment& scores, const TileAt& at) {
    scores.clear();
    if (!params_.goOn) return;
    const float scale = 1 / params_.unscale;
    const float* out = params_.out + at.problem * params_.problemStride;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row >= at.rows) continue;
      const float* from = out + (int64_t{at.row} + row) * params_.stride + at.column;
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; c += 2) {
        const int column = scores.column(c);
        if (column >= at.columns) continue;
        const Floats2 two = *reinterpret_cast<const Floats2*>(from + column);
        scores.at(r, c) = two.x * scale;
        scores.at(r, c + 1) = two.y * scale;
      }
    }
  }
  CLIPCID_DEVICE void finish(const TileAt&) {}

  CLIPCID_DEVICE void visit(const Fragment& scores, const TileAt& at) {
    float* out = params_.out + at.problem * params_.problemStride;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row >= at.rows) continue;
      float* to = out + (int64_t{at.row} + row) * params_.stride + at.column;
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; c += 2) {
        const int column = scores.column(c);
        if (column >= at.columns) continue;
        auto& two = *reinterpret_cast<Floats2*>(to + column);
        const Floats2 sums = {static_cast<float>(scores.at(r, c)) * params_.unscale * params_.factor,
                              static_cast<float>(scores.at(r, c + 1)) * params_.unscale * params_.factor};
        two = params_.add ? Floats2{two.x + sums.x, two.y + sums.y} : sums;
      }
    }
  }

 private:
  const Params& params_;
};

}  // namespace clipcid::cuda
