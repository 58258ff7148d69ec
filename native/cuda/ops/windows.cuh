// Windows over images that lie pixel by pixel: where they lie, for all; and walks for kernels whose threads have an element of one pixel,
// image and channel each, of pooling and of depthwise convolutions, whose shapes have the same names.
#pragma once

#include "cuda/ops/chain.cuh"
#include "cuda/platform.cuh"

namespace clipcid::cuda {

// Where a coordinate's source lies under a tap; or, going backward, which window has it under that tap. -1: nowhere.
template <typename Int>
CLIPCID_DEVICE Int sourceUnder(Int at, Int tap, Int stride, Int dilation, Int pad, Int size) {
  const Int place = at * stride - pad + tap * dilation;
  return place >= 0 && place < size ? place : -1;
}
template <typename Int>
CLIPCID_DEVICE Int windowOver(Int at, Int tap, Int stride, Int dilation, Int pad, Int size) {
  const Int place = at + pad - tap * dilation;
  if (place < 0) return -1;
  const Int window = quotient(place, stride);
  return window * stride == place && window < size ? window : -1;
}

// An element of [height, width, slab], and where its slab begins.
struct Element {
  int64_t row, column, inside;
};
CLIPCID_DEVICE Element elementAt(int64_t index, int64_t width, int64_t slab) {
  const int64_t pixel = quotient(index, slab), row = quotient(pixel, width);
  return {row, pixel - row * width, index - pixel * slab};
}

// Calls each(place, tap) for the elements of the window of element `at` of the output, row by row.
template <typename Shape, typename Each>
CLIPCID_DEVICE void overWindow(const Shape& shape, const Element& at, Each each) {
  const int64_t slab = shape.images * shape.channels;
  for (int64_t y = 0; y < shape.kernelHeight; ++y) {
    const int64_t row =
        sourceUnder(at.row, y, shape.strideHeight, shape.dilationHeight, shape.padTop, shape.height);
    if (row < 0) continue;
    for (int64_t x = 0; x < shape.kernelWidth; ++x) {
      const int64_t column =
          sourceUnder(at.column, x, shape.strideWidth, shape.dilationWidth, shape.padLeft, shape.width);
      if (column >= 0) each((row * shape.width + column) * slab + at.inside, y * shape.kernelWidth + x);
    }
  }
}

// Calls each(row, column, tap) for the windows that element `at` of the input is in.
template <typename Shape, typename Each>
CLIPCID_DEVICE void overWindowsOf(const Shape& shape, const Element& at, Each each) {
  for (int64_t y = 0; y < shape.kernelHeight; ++y) {
    const int64_t row =
        windowOver(at.row, y, shape.strideHeight, shape.dilationHeight, shape.padTop, shape.outHeight);
    if (row < 0) continue;
    for (int64_t x = 0; x < shape.kernelWidth; ++x) {
      const int64_t column =
          windowOver(at.column, x, shape.strideWidth, shape.dilationWidth, shape.padLeft, shape.outWidth);
      if (column >= 0) each(row, column, y * shape.kernelWidth + x);
    }
  }
}

}  // namespace clipcid::cuda
