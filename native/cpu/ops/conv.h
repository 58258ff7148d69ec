// What the convolution's operations share.
#pragma once

#include <cstdint>

#include "clipcid/ops.h"
#include "cpu/ops/taps.h"
#include "cpu/ops/team.h"

namespace clipcid {

inline Axis verticalAxis(const ConvShape& shape) {
  return {shape.height,       shape.outHeight,      shape.kernelHeight,
          shape.strideHeight, shape.dilationHeight, shape.padTop};
}

inline Axis horizontalAxis(const ConvShape& shape) {
  return {shape.width,       shape.outWidth,      shape.kernelWidth,
          shape.strideWidth, shape.dilationWidth, shape.padLeft};
}

// Every channel for itself.
inline bool isDepthwise(const ConvShape& shape) {
  return shape.groups > 1 && shape.groups == shape.channels && shape.groups == shape.outChannels &&
         !shape.planar;
}

// At every pixel a window of 3 x 3 in one group, as Winograd's algorithm takes it.
inline bool isThreeByThree(const ConvShape& shape) {
  return shape.kernelHeight == 3 && shape.kernelWidth == 3 && shape.strideHeight == 1 &&
         shape.strideWidth == 1 && shape.dilationHeight == 1 && shape.dilationWidth == 1 &&
         shape.groups == 1 && !shape.planar;
}

// A planar input in rows: [height, images, paddedWidth, channels], with the zeros that windows reach beside the image.
// Then a row of a window is one run of kernelWidth * channels elements.
struct InputRows {
  explicit InputRows(const ConvShape& shape);
  int64_t floats() const { return shape.height * row(); }
  int64_t row() const { return shape.images * image(); }
  int64_t image() const { return paddedWidth * shape.channels; }
  // Of x as `shape` has it.
  void fill(Team& team, const float* x, float* out) const;

  const ConvShape shape;
  int64_t paddedWidth;
};

void depthwise(Team& team, const ConvArgs& args);
void depthwise(Team& team, const ConvInputGradientArgs& args);
void depthwise(Team& team, const ConvWeightGradientArgs& args);

// Whether the gradient of these weights is found faster by Winograd's algorithm, and what finds it.
bool winogradPays(const ConvShape& shape);
void winogradWeights(Team& team, const ConvWeightGradientArgs& args);

// sums[c] += the sum of column c of x, [rows, channels].
void addColumnSums(Team& team, const float* x, int64_t rows, int64_t channels, float* sums);

}  // namespace clipcid
