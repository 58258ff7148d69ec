// A task is some target channels, whose weights it packs into panels that stay in the second-level cache, by some target
// pixels. Targets whose windows lie alike make one matrix with their images; a tile is some of its rows by one panel, and
// its sum runs over the taps that are there, so padding costs nothing.
#include "cpu/ops/window_sums.h"

#include <algorithm>
#include <vector>

namespace clipcid {
namespace {

constexpr int64_t kPanelBytes = 400 << 10;  // of weights that a task holds
constexpr int64_t kLeastWork = 1 << 18;     // multiply-adds that are worth handing over

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

struct Work {
  const ConvKernels& kernels;
  const WindowSums& sums;
  int64_t panelWidth;
  int64_t panels;        // of a group of channels
  int64_t panelsAtOnce;  // of a task
  int64_t panelSize;     // floats
  int64_t blocks;        // of panels, in all groups
  int64_t parts;         // of the targets
  int64_t unit;          // rows that a part is a multiple of
};

Work divide(const ConvKernels& kernels, const WindowSums& sums, int threads) {
  const int64_t steps = sums.verticalTaps * sums.horizontalTaps * sums.depth;
  const int64_t panelWidth = int64_t{kernels.vectors} * kernels.width;
  const int64_t panels = divideUp(sums.columns, panelWidth);
  const int64_t panelSize = steps * panelWidth;
  const int64_t fitting = kPanelBytes / static_cast<int64_t>(sizeof(float)) / std::max<int64_t>(panelSize, 1);
  int64_t atOnce = std::clamp<int64_t>(fitting, 1, panels);
  const int64_t pixels = sums.vertical->targets() * sums.horizontal->targets();
  const int64_t rows = pixels * sums.images;
  const int64_t work = rows * steps * sums.columns * sums.groups;
  const int64_t wanted = std::min<int64_t>(4 * threads, work / kLeastWork);
  // Few targets: fewer channels a task.
  while (atOnce > 1 && sums.groups * divideUp(panels, atOnce) * divideUp(rows, 8 * kernels.rows) < wanted)
    atOnce = divideUp(atOnce, 2);
  const int64_t blocks = sums.groups * divideUp(panels, atOnce);
  const int64_t unit = pixels >= 4 * wanted ? sums.images : kernels.rows;
  const int64_t parts = std::clamp<int64_t>(divideUp(wanted, blocks), 1, divideUp(rows, unit));
  return {kernels, sums, panelWidth, panels, atOnce, panelSize, blocks, parts, unit};
}

struct Block {
  int64_t group, first, count;  // panels
};

Block blockOf(const Work& work, int64_t index) {
  const int64_t perGroup = divideUp(work.panels, work.panelsAtOnce);
  const int64_t first = index % perGroup * work.panelsAtOnce;
  return {index / perGroup, first, std::min(work.panelsAtOnce, work.panels - first)};
}

int64_t columnsOf(const Work& work, int64_t panel) {
  return std::min(work.panelWidth, work.sums.columns - panel * work.panelWidth);
}

void packPanels(const Work& work, const Block& block, float* packed) {
  const int64_t width = work.kernels.width;
  for (int64_t p = 0; p < block.count; ++p) {
    float* panel = packed + p * work.panelSize;
    const int64_t columns = columnsOf(work, block.first + p);
    const int64_t stride = divideUp(columns, width) * width;
    if (stride != columns) std::fill_n(panel, work.panelSize / work.panelWidth * stride, 0.0f);
    work.sums.pack(block.group, (block.first + p) * work.panelWidth, columns, stride, panel);
  }
}

// Rows [begin, end) of the targets, counted over pixels and images, by the panels of a block.
void multiply(const Work& work, const Block& block, const float* packed, int64_t begin, int64_t end,
              std::vector<Segment>& segments) {
  const WindowSums& sums = work.sums;
  const int64_t images = sums.images, width = sums.horizontal->targets();
  const int64_t channels = sums.groups * sums.columns;
  // Whether rows of targets beside each other are evenly apart.
  const int64_t step = sums.horizontal->step();
  const bool joins = images == 1 || (step == 1 && sums.sourceColumn == images * sums.sourceImage);
  const int64_t sourceStride = images == 1 ? step * sums.sourceColumn : sums.sourceImage;
  for (int64_t pixel = begin / images; pixel * images < end;) {
    const int64_t y = pixel / width, x = pixel % width;
    segments.clear();
    const std::span<const Tap> across = sums.horizontal->of(x);
    for (const Tap& down : sums.vertical->of(y)) {
      for (const Tap& tap : across) {
        segments.push_back({down.source * sums.sourceRow + tap.source * sums.sourceColumn,
                            (down.kernel * sums.horizontalTaps + tap.kernel) * sums.depth, sums.depth});
      }
    }
    const int64_t run = joins ? sums.horizontal->run(x) : 1;
    const int64_t from = std::max(begin - pixel * images, int64_t{0});
    const int64_t rows = std::min(run * images, end - pixel * images) - from;
    const int64_t tiles = divideUp(rows, work.kernels.rows);
    for (int64_t t = 0; t < tiles; ++t) {
      // Tiles of nearly the same height.
      const int64_t row = from + rows * t / tiles;
      const int64_t height = from + rows * (t + 1) / tiles - row;
      ConvTile tile;
      tile.a = sums.source + block.group * sums.sourceGroup + row * sourceStride;
      tile.strideA = sourceStride;
      tile.segments = segments.data();
      tile.count = static_cast<int64_t>(segments.size());
      tile.strideC = channels;
      tile.add = sums.add;
      for (int64_t p = 0; p < block.count; ++p) {
        const int64_t panel = block.first + p;
        const int64_t column = block.group * sums.columns + panel * work.panelWidth;
        tile.columns = columnsOf(work, panel);
        const int64_t vectors = divideUp(tile.columns, work.kernels.width);
        tile.b = packed + p * work.panelSize;
        tile.strideB = tile.unitB = vectors * work.kernels.width;
        tile.c = sums.target + (pixel * images + row) * channels + column;
        tile.bias = sums.bias == nullptr ? nullptr : sums.bias + column;
        work.kernels.across[height - 1][vectors - 1](tile);
      }
    }
    pixel += run;
  }
}

}  // namespace

void run(Team& team, const WindowSums& sums) {
  const Work work = divide(convKernels(), sums, team.threads());
  const int64_t rows = sums.vertical->targets() * sums.horizontal->targets() * sums.images;
  if (rows == 0 || work.blocks == 0) return;
  team.own(work.panelSize * work.panelsAtOnce);
  // A worker that goes on with the same block has it packed already.
  struct Own {
    int64_t packed = -1;
    std::vector<Segment> segments;
  };
  std::vector<Own> workers(static_cast<size_t>(team.threads()));
  for (Own& own : workers) own.segments.reserve(static_cast<size_t>(sums.verticalTaps * sums.horizontalTaps));
  const int64_t units = divideUp(rows, work.unit);
  team.each(work.blocks * work.parts, [&](int64_t index, int worker) {
    Own& own = workers[static_cast<size_t>(worker)];
    const int64_t part = index % work.parts;
    const Block block = blockOf(work, index / work.parts);
    float* packed = team.of(worker);
    if (own.packed != index / work.parts) packPanels(work, block, packed);
    own.packed = index / work.parts;
    multiply(work, block, packed, units * part / work.parts * work.unit,
             std::min(rows, units * (part + 1) / work.parts * work.unit), own.segments);
  });
}

}  // namespace clipcid
