// Where there is more of the sources than of the weights, all weights are turned first, and a task is some tiles of 2 x 2
// targets: it turns the sources of a few, multiplies them point by point with panel after panel of the weights, and turns
// the products of each panel into targets, all within the second-level cache. Where there is more of the weights, all
// sources are turned first, and a task turns a panel of the weights and multiplies the sources by it.
#include "cpu/ops/winograd.h"

#include <algorithm>
#include <vector>

#include "cpu/ops/conv_kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kPoints = 16;
constexpr int64_t kTaps = 9;
// Between points, behind what they hold: a distance of a power of two would put all 16 into the same few sets of the caches.
constexpr int64_t kSkew = 80;
constexpr int64_t kLeastRows = 32;       // of the products of one point
constexpr int64_t kLeastWork = 1 << 18;  // multiply-adds that are worth handing over

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

struct Work {
  const ConvKernels& kernels;
  const Winograd& winograd;
  int64_t tilesAcross = 0, tiles = 0;
  int64_t panelWidth = 0, panels = 0;
  bool byPanels = false;
  int64_t together = 0;          // tiles that are multiplied at a time
  int64_t tasks = 0;             // by tiles
  const float* zeros = nullptr;  // a slab

  int64_t slab() const { return winograd.images * winograd.depth; }
  int64_t panelSize() const { return winograd.depth * panelWidth; }
  // Elements from point to point of turned sources of so many tiles, of their products, and of turned weights.
  int64_t sourceStride(int64_t count) const { return count * slab() + kSkew; }
  int64_t productStride(int64_t count) const { return count * winograd.images * panelWidth + kSkew; }
  int64_t weightStride() const { return panelSize() + kSkew; }
  // Floats of turned sources of so many tiles, of their products with a panel, and of turned weights.
  int64_t turned(int64_t count) const { return kPoints * sourceStride(count); }
  int64_t products(int64_t count) const { return kPoints * productStride(count); }
  int64_t weights(int64_t count) const { return count * kPoints * weightStride(); }
};

Work divide(const Winograd& winograd, int threads) {
  const ConvKernels& kernels = convKernels();
  Work work = {kernels, winograd};
  work.tilesAcross = divideUp(winograd.targetWidth, 2);
  work.tiles = divideUp(winograd.targetHeight, 2) * work.tilesAcross;
  work.panelWidth = int64_t{kernels.vectors} * kernels.width;
  work.panels = divideUp(winograd.columns, work.panelWidth);
  const int64_t rows = work.tiles * winograd.images;
  work.byPanels = rows < winograd.columns;
  work.together =
      work.byPanels ? work.tiles : std::clamp<int64_t>(kLeastRows / winograd.images, 1, work.tiles);
  const int64_t wanted =
      std::min<int64_t>(4 * threads, kPoints * rows * winograd.depth * winograd.columns / kLeastWork);
  work.tasks = std::clamp<int64_t>(wanted, 1, divideUp(work.tiles, work.together));
  return work;
}

int64_t columnsOf(const Work& work, int64_t panel) {
  return std::min(work.panelWidth, work.winograd.columns - panel * work.panelWidth);
}

int64_t strideOf(const Work& work, int64_t panel) {
  const int64_t width = work.kernels.width;
  return divideUp(columnsOf(work, panel), width) * width;
}

// A panel into `out`, [16, depth, stride]; `packed` holds it as it was.
void turnWeights(const Work& work, int64_t panel, float* out, float* packed) {
  const Winograd& winograd = work.winograd;
  const int64_t stride = strideOf(work, panel), columns = columnsOf(work, panel);
  const int64_t size = winograd.depth * stride;
  if (stride != columns) std::fill_n(packed, kTaps * size, 0.0f);
  winograd.pack(panel * work.panelWidth, columns, stride, packed);
  const float* taps[kTaps];
  for (int64_t tap = 0; tap < kTaps; ++tap)
    taps[tap] = packed + (winograd.flipped ? kTaps - 1 - tap : tap) * size;
  work.kernels.winogradWeights(taps, size, out, work.weightStride());
}

// The sources of one of `count` tiles, of which `out` holds [16, count, images, depth].
void turnSources(const Work& work, int64_t tile, int64_t place, int64_t count, float* out) {
  const Winograd& winograd = work.winograd;
  const int64_t slab = work.slab();
  const int64_t top = tile / work.tilesAcross * 2 - winograd.padTop;
  const int64_t left = tile % work.tilesAcross * 2 - winograd.padLeft;
  const float* sources[kPoints];
  for (int64_t i = 0; i < kPoints; ++i) {
    const int64_t y = top + i / 4, x = left + i % 4;
    const bool inside = y >= 0 && y < winograd.sourceHeight && x >= 0 && x < winograd.sourceWidth;
    sources[i] = inside ? winograd.source + (y * winograd.sourceWidth + x) * slab : work.zeros;
  }
  work.kernels.winogradInput(sources, slab, out + place * slab, work.sourceStride(count));
}

// Tiles [begin, end) by a panel, into targets.
void multiply(const Work& work, int64_t begin, int64_t end, const float* turned, int64_t panel,
              const float* weights, float* products) {
  const Winograd& winograd = work.winograd;
  const int64_t rows = (end - begin) * winograd.images, depth = winograd.depth;
  const int64_t stride = strideOf(work, panel);
  const int64_t vectors = stride / work.kernels.width;
  const Segment all = {0, 0, depth};
  ConvTile tile;
  tile.strideA = depth;
  tile.strideB = tile.unitB = stride;
  tile.segments = &all;
  tile.count = 1;
  tile.strideC = stride;
  tile.columns = stride;
  const int64_t tiles = divideUp(rows, work.kernels.rows);
  for (int64_t point = 0; point < kPoints; ++point) {
    tile.b = weights + point * work.weightStride();
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
      tile.a = turned + point * work.sourceStride(end - begin) + row * depth;
      tile.c = products + point * work.productStride(end - begin) + row * stride;
      work.kernels.across[height - 1][vectors - 1](tile);
    }
  }
  WinogradOutput output;
  output.stride = work.productStride(end - begin);
  output.strideRow = stride;
  output.rows = winograd.images;
  output.columns = columnsOf(work, panel);
  output.bias = winograd.bias == nullptr ? nullptr : winograd.bias + panel * work.panelWidth;
  output.add = winograd.add;
  output.strideY = winograd.columns;
  for (int64_t t = begin; t < end; ++t) {
    output.products = products + (t - begin) * winograd.images * stride;
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t y = t / work.tilesAcross * 2 + i / 2, x = t % work.tilesAcross * 2 + i % 2;
      const bool inside = y < winograd.targetHeight && x < winograd.targetWidth;
      const int64_t pixel = (y * winograd.targetWidth + x) * winograd.images;
      output.y[i] = inside ? winograd.target + pixel * winograd.columns + panel * work.panelWidth : nullptr;
    }
    work.kernels.winogradOutput(output);
  }
}

// Pairs of a target and a tap along an axis that do not lie in the padding.
int64_t reached(int64_t targets, int64_t sources, int64_t pad) {
  int64_t count = 0;
  for (int64_t target = 0; target < targets; ++target) {
    for (int64_t tap = 0; tap < 3; ++tap) count += target - pad + tap >= 0 && target - pad + tap < sources;
  }
  return count;
}

}  // namespace

bool pays(const Winograd& winograd) {
  // Multiply-adds of either way for each image and pair of channels, and the additions' cost in such, as measured.
  constexpr double kAround = 10;
  const double tiles =
      static_cast<double>(divideUp(winograd.targetHeight, 2) * divideUp(winograd.targetWidth, 2));
  const double direct =
      static_cast<double>(reached(winograd.targetHeight, winograd.sourceHeight, winograd.padTop) *
                          reached(winograd.targetWidth, winograd.sourceWidth, winograd.padLeft));
  const double around =
      kAround * (1 / static_cast<double>(winograd.depth) + 1 / static_cast<double>(winograd.columns));
  return tiles * kPoints * (1.1 + around) < direct;
}

void run(Team& team, const Winograd& winograd) {
  Work work = divide(winograd, team.threads());
  if (work.tiles == 0 || winograd.images == 0) return;
  const int64_t weights = work.weights(1), turned = work.turned(work.together);
  float* zeros = team.shared(work.slab() + (work.byPanels ? turned : work.panels * weights));
  float* shared = zeros + work.slab();
  std::fill_n(zeros, work.slab(), 0.0f);
  work.zeros = zeros;
  if (work.byPanels) {
    team.own(weights + std::max(kTaps * work.panelSize(), work.products(work.tiles)));
    team.each(work.tiles, [&](int64_t tile, int) { turnSources(work, tile, tile, work.tiles, shared); });
    team.each(work.panels, [&](int64_t panel, int worker) {
      float* own = team.of(worker);
      turnWeights(work, panel, own, own + weights);
      multiply(work, 0, work.tiles, shared, panel, own, own + weights);
    });
    return;
  }
  team.own(std::max(kTaps * work.panelSize(), turned + work.products(work.together)));
  team.each(work.panels, [&](int64_t panel, int worker) {
    turnWeights(work, panel, shared + panel * weights, team.of(worker));
  });
  team.each(work.tasks, [&](int64_t index, int worker) {
    float* own = team.of(worker);
    const int64_t last = work.tiles * (index + 1) / work.tasks;
    for (int64_t tile = work.tiles * index / work.tasks; tile < last; tile += work.together) {
      const int64_t count = std::min(work.together, last - tile);
      for (int64_t i = 0; i < count; ++i) turnSources(work, tile + i, i, count, own);
      for (int64_t panel = 0; panel < work.panels; ++panel)
        multiply(work, tile, tile + count, own, panel, shared + panel * weights, own + turned);
    }
  });
}

}  // namespace clipcid
