// The inner loops of convolutions, compiled once for each instruction set and chosen once at run time.
#pragma once

#include <cstdint>

namespace clipcid {

// Steps of a sum that follow one another evenly in both operands of a tile.
struct Segment {
  int64_t a;      // of the first step: elements from the tile's `a`
  int64_t b;      // of the first step: units of `unitB` from the tile's `b`
  int64_t depth;  // how many steps
};

// c[r, j] = bias[j] + sum over all steps of a[r, step] b[step, j]; or the sum added to c. Every element is one chain of
// multiply-adds over the segments in their order, whatever tile it lies in.
struct ConvTile {
  const float* a = nullptr;
  int64_t strideA = 0;  // elements from row to row, or from step to step: see ConvKernels
  const float* b = nullptr;
  int64_t strideB = 0;  // elements from step to step
  int64_t unitB = 0;    // elements
  const Segment* segments = nullptr;
  int64_t count = 0;
  float* c = nullptr;
  int64_t strideC = 0;
  int64_t columns = 0;          // more than (vectors - 1) * width, at most vectors * width
  const float* bias = nullptr;  // [columns], or null
  bool add = false;
};

// Of Winograd's F(2 x 2, 3 x 3): turns the products of one tile into its 2 x 2 targets.
struct WinogradOutput {
  const float* products = nullptr;  // of each of the 16 points: [rows, whole vectors of columns]
  int64_t stride = 0;               // elements from point to point
  int64_t strideRow = 0;
  int64_t rows = 0, columns = 0;
  const float* bias = nullptr;  // [columns], or null
  bool add = false;             // to the targets
  float* y[4] = {};             // the targets of the tile row by row; null where there is none
  int64_t strideY = 0;
};

// Sums of the gradient of some weights: tap by tap, `rows` by `columns` of output and input channels.
struct TapSums {
  const float* data;
  int64_t taps, strideTap, strideRow;
  int64_t rows, columns;
};

constexpr int kMostConvRows = 12;
constexpr int kMostConvVectors = 4;

using ConvTileFunction = void (*)(const ConvTile& tile);

struct ConvKernels {
  int width;    // floats of a vector
  int rows;     // of the largest tile
  int vectors;  // of the largest tile

  // [rows - 1][vectors - 1]. In `across` the steps of a row of A are adjacent, and its rows strideA apart; whole vectors
  // of B are read. In `along` the rows of a step of A are adjacent, and its steps strideA apart; `columns` of B are read.
  ConvTileFunction across[kMostConvRows][kMostConvVectors];
  ConvTileFunction along[kMostConvRows][kMostConvVectors];

  // out[j, i] = in[i, j] for i < rows and j < columns, both at most `width`.
  void (*transpose)(const float* in, int64_t strideIn, int rows, int columns, float* out, int64_t strideOut);

  // Weights [count, inputs, taps] as [taps, inputs, stride], and of [outputs, channels, taps] the first `count` channels as
  // [taps, outputs, stride]; `stride` is whole vectors. Whole vectors are written.
  void (*packForward)(const float* weights, int64_t inputs, int64_t taps, int64_t count, int64_t stride,
                      float* panel);
  void (*packBackward)(const float* weights, int64_t outputs, int64_t channels, int64_t taps, int64_t count,
                       int64_t stride, float* panel);
  // weights[row, column, tap] += the sums, rows `stride` apart. `line` holds columns * taps floats, and a vector more.
  void (*addTaps)(const TapSums& sums, float* line, float* weights, int64_t stride);
  // to[i] += from[i], i < length.
  void (*add)(const float* from, int64_t length, float* to);

  // Winograd's F(2 x 2, 3 x 3): a tile of 4 x 4 slabs of `length` becomes its 16 points, and so do 3 x 3 taps. Points lie
  // `stride` apart.
  void (*winogradInput)(const float* const* sources, int64_t length, float* out, int64_t stride);
  void (*winogradWeights)(const float* const* taps, int64_t length, float* out, int64_t stride);
  void (*winogradOutput)(const WinogradOutput& args);
  // For the gradient of the weights, four points at a time: those of a row of the 16. Of `sources`, 4 x 4 of x or 2 x 2
  // of dy, `rows` by `columns` are read, rows `strideSource` apart; `out` is dense, with points `stride` apart.
  void (*winogradInputRow)(int row, const float* const* sources, int64_t rows, int64_t columns,
                           int64_t strideSource, float* out, int64_t stride);
  void (*winogradTargetRow)(int row, const float* const* sources, int64_t rows, int64_t columns,
                            int64_t strideSource, float* out, int64_t stride);
  // 16 points of `length`, `stride` apart, into 3 x 3 taps, `strideTap` apart.
  void (*winogradTaps)(const float* points, int64_t length, int64_t stride, float* taps, int64_t strideTap);

  // Depthwise. Slabs are [images, channels] of one pixel; what is by channel is repeated up to `period` elements, a
  // multiple of both channels and width.
  //
  // y[i] = bias[i] + sum over taps of weights[tap][i mod period] sources[tap][i], i < length; or the sum added to y.
  void (*depthwise)(const float* const* sources, const float* const* weights, int64_t taps, const float* bias,
                    int64_t length, int64_t period, bool add, float* y);
  // sums[j] += sum over slabs and over i = j mod period, i < length, of a[slab][i] b[slab][i].
  void (*productSums)(const float* const* a, const float* const* b, int64_t slabs, int64_t length,
                      int64_t period, float* sums);
};

const ConvKernels& convKernels();

// Those of one instruction set, by file.
const ConvKernels& plainConvKernels();
const ConvKernels& avx2ConvKernels();
const ConvKernels& avx512ConvKernels();
const ConvKernels& neonConvKernels();

}  // namespace clipcid
