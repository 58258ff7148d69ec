// Windows over images that lie pixel by pixel: a thread has an element of one pixel, image and channel.
#pragma once

#include "cuda/ops/chain.cuh"
#include "cuda/platform.cuh"

namespace clipcid::cuda {

// Where a coordinate's source lies under a tap; or, going backward, which window has it under that tap. -1: nowhere.
CLIPCID_DEVICE int64_t sourceUnder(int64_t at, int64_t tap, int64_t stride, int64_t dilation, int64_t pad,
                                   int64_t size) {
  const int64_t place = at * stride - pad + tap * dilation;
  return place >= 0 && place < size ? place : -1;
}
CLIPCID_DEVICE int64_t windowOver(int64_t at, int64_t tap, int64_t stride, int64_t dilation, int64_t pad,
                                  int64_t size) {
  const int64_t place = at + pad - tap * dilation;
  if (place < 0) return -1;
  const int64_t window = quotient(place, stride);
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

}  // namespace clipcid::cuda
