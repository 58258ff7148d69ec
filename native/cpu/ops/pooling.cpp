// Pooling. Every pixel is a slab of all images and channels, which the windows take as a whole.
#include <algorithm>
#include <vector>

#include "cpu/ops/channel_kernels.h"
#include "cpu/ops/ops.h"
#include "cpu/ops/taps.h"

namespace clipcid {
namespace {

constexpr int64_t kTask = 16 << 10;  // elements read, about
constexpr int64_t kPiece = 1 << 10;  // elements of a slab at a time

Axis verticalAxis(const PoolShape& shape) {
  return {shape.height,       shape.outHeight,      shape.kernelHeight,
          shape.strideHeight, shape.dilationHeight, shape.padTop};
}

Axis horizontalAxis(const PoolShape& shape) {
  return {shape.width,       shape.outWidth,      shape.kernelWidth,
          shape.strideWidth, shape.dilationWidth, shape.padLeft};
}

// Calls each(target pixel, from, length, list) for pieces of all targets' slabs, where `list` belongs to a worker.
template <typename List, typename Each>
void forPieces(Team& team, int64_t pixels, int64_t slab, int64_t readOfEach, Each each) {
  const int64_t pieces = std::max<int64_t>(1, slab / kPiece);
  const int64_t units = pixels * pieces;
  const int64_t tasks = std::clamp<int64_t>(pixels * slab * readOfEach / kTask, 1, units);
  std::vector<List> lists(static_cast<size_t>(team.threads()));
  team.each(tasks, [&](int64_t index, int worker) {
    for (int64_t unit = units * index / tasks; unit < units * (index + 1) / tasks; ++unit) {
      const int64_t piece = unit % pieces;
      const int64_t from = slab * piece / pieces, to = slab * (piece + 1) / pieces;
      each(unit / pieces, from, to - from, lists[static_cast<size_t>(worker)]);
    }
  });
}

struct Sources {
  std::vector<const float*> values;
  std::vector<const uint16_t*> which;
  std::vector<uint16_t> taps;
  std::vector<float> factors;
};

// The numbers of inputs that count in the windows along an axis.
std::vector<int64_t> counts(const Axis& axis, bool padding) {
  const Taps taps = Taps::forward(axis);
  std::vector<int64_t> of(static_cast<size_t>(axis.outputs));
  for (int64_t i = 0; i < axis.outputs; ++i)
    of[static_cast<size_t>(i)] = padding ? axis.kernel : static_cast<int64_t>(taps.of(i).size());
  return of;
}

}  // namespace

Status run(Team& team, const MaxPoolArgs& args) {
  const PoolShape& shape = args.shape;
  const ChannelKernels& kernels = channelKernels();
  const Taps vertical = Taps::forward(verticalAxis(shape)), horizontal = Taps::forward(horizontalAxis(shape));
  const int64_t slab = shape.images * shape.channels;
  forPieces<Sources>(
      team, shape.outHeight * shape.outWidth, slab, shape.kernelHeight * shape.kernelWidth,
      [&](int64_t pixel, int64_t from, int64_t length, Sources& sources) {
        sources.values.clear();
        sources.taps.clear();
        for (const Tap& row : vertical.of(pixel / shape.outWidth)) {
          for (const Tap& column : horizontal.of(pixel % shape.outWidth)) {
            sources.values.push_back(args.x + (row.source * shape.width + column.source) * slab + from);
            sources.taps.push_back(static_cast<uint16_t>(row.kernel * shape.kernelWidth + column.kernel));
          }
        }
        kernels.largest(sources.values.data(), sources.taps.data(), static_cast<int64_t>(sources.taps.size()),
                        length, args.y + pixel * slab + from, args.taps + pixel * slab + from);
      });
  return {};
}

Status run(Team& team, const MaxPoolGradientArgs& args) {
  const PoolShape& shape = args.shape;
  const ChannelKernels& kernels = channelKernels();
  const Taps vertical = Taps::backward(verticalAxis(shape)),
             horizontal = Taps::backward(horizontalAxis(shape));
  const int64_t slab = shape.images * shape.channels;
  forPieces<Sources>(
      team, shape.height * shape.width, slab, 4,
      [&](int64_t pixel, int64_t from, int64_t length, Sources& sources) {
        sources.values.clear();
        sources.which.clear();
        sources.taps.clear();
        for (const Tap& row : vertical.of(pixel / shape.width)) {
          for (const Tap& column : horizontal.of(pixel % shape.width)) {
            const int64_t at = (row.source * shape.outWidth + column.source) * slab + from;
            sources.values.push_back(args.dy + at);
            sources.which.push_back(args.taps + at);
            sources.taps.push_back(static_cast<uint16_t>(row.kernel * shape.kernelWidth + column.kernel));
          }
        }
        kernels.largestGradient(sources.values.data(), sources.which.data(), sources.taps.data(),
                                static_cast<int64_t>(sources.taps.size()), length,
                                args.dx + pixel * slab + from);
      });
  return {};
}

Status run(Team& team, const AveragePoolArgs& args) {
  const PoolShape& shape = args.shape;
  const ChannelKernels& kernels = channelKernels();
  const Taps vertical = Taps::forward(verticalAxis(shape)), horizontal = Taps::forward(horizontalAxis(shape));
  const std::vector<int64_t> rows = counts(verticalAxis(shape), args.countPadding);
  const std::vector<int64_t> columns = counts(horizontalAxis(shape), args.countPadding);
  const int64_t slab = shape.images * shape.channels;
  forPieces<Sources>(
      team, shape.outHeight * shape.outWidth, slab, shape.kernelHeight * shape.kernelWidth,
      [&](int64_t pixel, int64_t from, int64_t length, Sources& sources) {
        const int64_t y = pixel / shape.outWidth, x = pixel % shape.outWidth;
        const int64_t count = rows[static_cast<size_t>(y)] * columns[static_cast<size_t>(x)];
        sources.values.clear();
        for (const Tap& row : vertical.of(y)) {
          for (const Tap& column : horizontal.of(x))
            sources.values.push_back(args.x + (row.source * shape.width + column.source) * slab + from);
        }
        sources.factors.assign(sources.values.size(), 1.0f / static_cast<float>(count));
        kernels.weighted(sources.values.data(), sources.factors.data(),
                         static_cast<int64_t>(sources.values.size()), length, args.y + pixel * slab + from);
      });
  return {};
}

Status run(Team& team, const AveragePoolGradientArgs& args) {
  const PoolShape& shape = args.shape;
  const ChannelKernels& kernels = channelKernels();
  const Taps vertical = Taps::backward(verticalAxis(shape)),
             horizontal = Taps::backward(horizontalAxis(shape));
  const std::vector<int64_t> rows = counts(verticalAxis(shape), args.countPadding);
  const std::vector<int64_t> columns = counts(horizontalAxis(shape), args.countPadding);
  const int64_t slab = shape.images * shape.channels;
  forPieces<Sources>(
      team, shape.height * shape.width, slab, 2,
      [&](int64_t pixel, int64_t from, int64_t length, Sources& sources) {
        sources.values.clear();
        sources.factors.clear();
        for (const Tap& row : vertical.of(pixel / shape.width)) {
          for (const Tap& column : horizontal.of(pixel % shape.width)) {
            const int64_t count =
                rows[static_cast<size_t>(row.source)] * columns[static_cast<size_t>(column.source)];
            sources.values.push_back(args.dy + (row.source * shape.outWidth + column.source) * slab + from);
            sources.factors.push_back(1.0f / static_cast<float>(count));
          }
        }
        kernels.weighted(sources.values.data(), sources.factors.data(),
                         static_cast<int64_t>(sources.values.size()), length, args.dx + pixel * slab + from);
      });
  return {};
}

}  // namespace clipcid
