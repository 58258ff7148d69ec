// The gradient of the weights of a convolution of 3 x 3 at every pixel, by Winograd's F(3 x 3, 2 x 2): of every tile of 2 x 2
// targets the 16 points of dy by the 16 of its 4 x 4 sources, summed up over tiles and images, are the 3 x 3 taps.
//
// A task is some output by some input channels, and a part of the tiles. It goes through the points row by row, four at a
// time, and through its tiles in chunks whose points stay in the second-level cache. Parts' sums are added in order; how
// there are parts depends on the shape alone.
#include <algorithm>
#include <vector>

#include "cpu/ops/conv.h"
#include "cpu/ops/conv_kernels.h"
#include "cpu/ops/winograd.h"

namespace clipcid {
namespace {

constexpr int64_t kPoints = 16;
constexpr int64_t kAtOnce = 4;  // points
constexpr int64_t kTaps = 9;
constexpr int64_t kSkew = 80;      // as in winograd.cpp
constexpr int64_t kChannels = 72;  // of a block, about
constexpr int64_t kChunk = 256;    // rows of a point that are multiplied at a time, about
constexpr int64_t kMostParts = 16;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

struct Work {
  const ConvKernels& kernels;
  const ConvShape& shape;
  int64_t tilesAcross = 0, tiles = 0;
  int64_t together = 0;                   // tiles of a chunk
  int64_t outputs = 0, outputBlocks = 0;  // output channels of a block
  int64_t panelWidth = 0, panels = 0;     // of input channels
  int64_t panelsAtOnce = 0, inputBlocks = 0;
  int64_t parts = 0;

  int64_t inputs() const { return panelsAtOnce * panelWidth; }
  int64_t rows() const { return together * shape.images; }
  // Elements from point to point.
  int64_t inputStride() const { return rows() * inputs() + kSkew; }
  int64_t outputStride() const { return rows() * outputs + kSkew; }
  int64_t sumStride() const { return outputs * inputs() + kSkew; }
  int64_t sums() const { return kPoints * sumStride(); }
  int64_t tasks() const { return outputBlocks * inputBlocks; }
};

Work divide(const ConvShape& shape) {
  const ConvKernels& kernels = convKernels();
  Work work = {kernels, shape};
  work.tilesAcross = divideUp(shape.outWidth, 2);
  work.tiles = divideUp(shape.outHeight, 2) * work.tilesAcross;
  work.together = std::clamp<int64_t>(kChunk / shape.images, 1, work.tiles);
  work.outputBlocks = divideUp(shape.outChannels, kChannels);
  work.outputs = divideUp(shape.outChannels, work.outputBlocks);
  work.outputBlocks = divideUp(shape.outChannels, work.outputs);
  work.panelWidth = int64_t{kernels.vectors} * kernels.width;
  work.panels = divideUp(shape.channels, work.panelWidth);
  work.panelsAtOnce = std::clamp<int64_t>(kChannels / work.panelWidth, 1, work.panels);
  work.inputBlocks = divideUp(work.panels, work.panelsAtOnce);
  const int64_t chunks = divideUp(work.tiles, work.together);
  work.parts = std::clamp<int64_t>(kMostParts / work.tasks(), 1, chunks);
  return work;
}

struct Task {
  int64_t firstOutput, outputs, firstInput, inputs;
};

Task taskOf(const Work& work, int64_t index) {
  const int64_t output = index / work.inputBlocks * work.outputs;
  const int64_t input = index % work.inputBlocks * work.inputs();
  return {output, std::min(work.outputs, work.shape.outChannels - output), input,
          std::min(work.inputs(), work.shape.channels - input)};
}

// The points of a row of a chunk's tiles, of x and of dy.
struct Points {
  float* inputs;
  float* outputs;
};

void turn(const Work& work, const Task& task, const ConvWeightGradientArgs& args, const float* zeros, int row,
          int64_t first, int64_t count, const Points& points) {
  const ConvShape& shape = work.shape;
  const int64_t images = shape.images;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t y = (first + t) / work.tilesAcross * 2, x = (first + t) % work.tilesAcross * 2;
    const float* sources[kPoints];
    for (int64_t i = 0; i < kPoints; ++i) {
      const int64_t sy = y - shape.padTop + i / 4, sx = x - shape.padLeft + i % 4;
      const bool inside = sy >= 0 && sy < shape.height && sx >= 0 && sx < shape.width;
      sources[i] =
          inside ? args.x + (sy * shape.width + sx) * images * shape.channels + task.firstInput : zeros;
    }
    work.kernels.winogradInputRow(row, sources, images, task.inputs, shape.channels,
                                  points.inputs + t * images * task.inputs, work.inputStride());
    const float* targets[4];
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t ty = y + i / 2, tx = x + i % 2;
      const bool inside = ty < shape.outHeight && tx < shape.outWidth;
      targets[i] = inside
                       ? args.dy + (ty * shape.outWidth + tx) * images * shape.outChannels + task.firstOutput
                       : zeros;
    }
    work.kernels.winogradTargetRow(row, targets, images, task.outputs, shape.outChannels,
                                   points.outputs + t * images * task.outputs, work.outputStride());
  }
}

// sums[point] += or = the points of dy by those of x, [outputs, inputs].
void multiply(const Work& work, const Task& task, int64_t rows, const Points& points, bool add, float* sums) {
  const Segment all = {0, 0, rows};
  ConvTile tile;
  tile.strideA = task.outputs;
  tile.strideB = task.inputs;
  tile.unitB = 1;
  tile.segments = &all;
  tile.count = 1;
  tile.strideC = task.inputs;
  tile.add = add;
  const int64_t tiles = divideUp(task.outputs, work.kernels.rows);
  for (int64_t point = 0; point < kAtOnce; ++point) {
    for (int64_t column = 0; column < task.inputs; column += work.panelWidth) {
      tile.b = points.inputs + point * work.inputStride() + column;
      tile.columns = std::min(work.panelWidth, task.inputs - column);
      const int64_t vectors = divideUp(tile.columns, work.kernels.width);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = task.outputs * t / tiles, height = task.outputs * (t + 1) / tiles - row;
        tile.a = points.outputs + point * work.outputStride() + row;
        tile.c = sums + point * work.sumStride() + row * task.inputs + column;
        work.kernels.along[height - 1][vectors - 1](tile);
      }
    }
  }
}

}  // namespace

bool winogradPays(const ConvShape& shape) { return isThreeByThree(shape) && pays(winogradOf(shape, false)); }

void winogradWeights(Team& team, const ConvWeightGradientArgs& args) {
  const ConvShape& shape = args.shape;
  const Work work = divide(shape);
  const int64_t slab = shape.images * std::max(shape.channels, shape.outChannels);
  float* zeros = team.shared(slab + (work.parts == 1 ? 0 : work.tasks() * work.parts * work.sums()));
  float* partial = zeros + slab;
  std::fill_n(zeros, slab, 0.0f);
  const int64_t inputs = kAtOnce * work.inputStride(), outputs = kAtOnce * work.outputStride();
  // Taps and a line of them take the place of the points.
  const int64_t taps = kTaps * work.outputs * work.inputs();
  team.own(work.sums() + std::max(inputs + outputs, taps + kTaps * work.inputs() + kMostConvRows * kTaps));
  const auto finish = [&](const Task& task, const float* sums, float* rest) {
    const int64_t length = task.outputs * task.inputs;
    work.kernels.winogradTaps(sums, length, work.sumStride(), rest, length);
    work.kernels.addTaps({rest, kTaps, length, task.inputs, task.outputs, task.inputs}, rest + taps,
                         args.dWeights + (task.firstOutput * shape.channels + task.firstInput) * kTaps,
                         shape.channels * kTaps);
  };
  team.each(work.tasks() * work.parts, [&](int64_t index, int worker) {
    const Task task = taskOf(work, index / work.parts);
    const int64_t part = index % work.parts;
    float* own = team.of(worker);
    float* sums = work.parts == 1 ? own : partial + index * work.sums();
    float* rest = own + work.sums();
    const Points points = {rest, rest + inputs};
    const int64_t begin = work.tiles * part / work.parts, end = work.tiles * (part + 1) / work.parts;
    for (int row = 0; row < 4; ++row) {
      for (int64_t tile = begin; tile < end; tile += work.together) {
        const int64_t count = std::min(work.together, end - tile);
        turn(work, task, args, zeros, row, tile, count, points);
        multiply(work, task, count * shape.images, points, tile > begin,
                 sums + row * kAtOnce * work.sumStride());
      }
    }
    if (work.parts == 1) finish(task, sums, rest);
  });
  if (work.parts == 1) return;
  team.each(work.tasks(), [&](int64_t index, int worker) {
    const Task task = taskOf(work, index);
    float* sums = partial + index * work.parts * work.sums();
    for (int64_t part = 1; part < work.parts; ++part)
      work.kernels.add(sums + part * work.sums(), work.sums(), sums);
    finish(task, sums, team.of(worker) + work.sums());
  });
}

}  // namespace clipcid
