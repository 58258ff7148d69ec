// Rows in halves: each element as the sum of two float16, for products on tensor cores that are as good as float32's.
//
// x s = high + low + rest, with s a power of two that brings the largest element of the matrix to about 2^14, high the float16
// next to x s, low the one next to x s - high: 22 bits of x, and never less than 2^-24 / s = 2^-38 of the largest element, so
// |rest| <= max(2^-22 |x s|, 2^-25). A product is made of three, high high + high low + low high, what is left out being
// below 2^-22 of it: 3 times the operations of float16 for the accuracy of float32. In bfloat16 the three would be right to 2^-16
// to 2^-18, and TF32's one to 2^-11; neither is enough for losses whose logits are a hundred times a cosine.
//
// Sums: tensor cores cut off below what a float32 holds, always towards zero. So only kPromotedStages, 64 elements, are added up
// there; such sums of few go over into sums that are rounded to nearest.
//
// A stage of 64 bytes has 16 elements: chunks 0 and 1 the high halves of the first eight and the others, 2 and 3 the low ones.
// The depth is filled up with zeros to a multiple of kHalvesDepth.
#pragma once

#include "cuda/memory.h"
#include "cuda/tiles.h"

namespace clipcid::cuda {

constexpr int64_t kHalvesDepth = kPromotedStages * kDepthBytes / 4;  // elements

constexpr int64_t halvesDepth(int64_t elements) {
  return (elements + kHalvesDepth - 1) / kHalvesDepth * kHalvesDepth;
}

// The scale of a matrix whose elements are at most `largest`.
float halvesScale(double largest);

// On the device: rows of `depth` elements, a multiple of kHalvesDepth.
struct HalvesView {
  char* words = nullptr;
  int64_t depth = 0;

  CLIPCID_ANYWHERE int64_t stride() const { return 4 * depth; }  // bytes
  CLIPCID_ANYWHERE char* row(int64_t index) const { return words + index * stride(); }
};

struct Halves {
  Buffer<char> words;
  int64_t depth = 0;

  // For `rows` rows of so many elements; not filled.
  Status allocate(int64_t rows, int64_t elements, Stream stream) {
    depth = halvesDepth(elements);
    return words.atLeast(rows * 4 * depth, stream);
  }
  HalvesView view() const { return {words.get(), depth}; }
};

// Dense rows [count, dim] of float32 on the device, `stride` elements apart, a multiple of 4, with zeros behind each.
struct EncodeHalvesArgs {
  const float* data = nullptr;
  int64_t stride = 0, dim = 0, count = 0;
  // [count]: rows are taken over these, rounded to float32; or null.
  const double* norms = nullptr;
  float scale = 1;
  // Where the first of the rows goes; or nothing. Rows are filled up with zeros.
  HalvesView rows;
  // The transpose, [dim, .]: the first of the rows is at element `from` of the depth, a multiple of kHalvesDepth. Filled up with
  // zeros to the next multiple; or nothing.
  HalvesView columns;
  int64_t from = 0;
};
Status encodeHalves(const Device& device, Stream stream, const EncodeHalvesArgs& args);

// out [count, stride] = rows of `from` by their indices; the stride is a multiple of 4.
Status gatherFloats(const Device& device, Stream stream, const float* from, int64_t stride,
                    const int32_t* indices, int64_t count, float* out);

}  // namespace clipcid::cuda
