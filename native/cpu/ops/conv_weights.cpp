// The gradient of a convolution's weights.
//
// For every tap, acc[row, column] = sum over target pixels and images of A[row] B[column]: rows are output channels and
// columns input channels, both read where they lie. Of a planar input, whose rows of a window are short, the operands
// change places: rows are the window's elements, columns the output channels.
//
// A task is some rows by one panel of columns, for all taps, over a part of the pixels, which it goes through in chunks
// that stay in the second-level cache; it turns its sums into ONNX's layout while they are near. Where there are few
// such tasks, the pixels are parted, and the parts' sums are added in order: how depends on the shape alone.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/ops/conv.h"
#include "cpu/ops/conv_kernels.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

constexpr int64_t kChunk = 1024;         // steps of a sum
constexpr int64_t kHeld = 16 << 10;      // floats of sums that a task holds, about
constexpr int64_t kTasks = 24;           // wanted
constexpr int64_t kLeastWork = 1 << 19;  // multiply-adds of a part
constexpr int64_t kMostParts = 16;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Targets beside each other along a row that one tap reaches, with sources beside each other.
struct Run {
  int64_t target, source, count;
};

struct Work {
  const ConvKernels& kernels;
  const ConvShape& shape;
  const float *a = nullptr, *b = nullptr;
  bool planar = false;
  Taps vertical = {};
  std::vector<std::vector<Run>> runs = {};  // by horizontal tap
  int64_t step = 1;                         // of sources, from target to target of a run
  // Elements of what is read at sources: from pixel to pixel, and from step to step of a sum.
  int64_t sourceRow = 0, sourceColumn = 0, sourceStep = 0;
  int64_t rows = 0, columns = 0;  // of a group
  int64_t groupA = 0, groupB = 0;
  int64_t targetStep = 0;  // elements of what is read at targets, from step to step
  int64_t taps = 0;

  int64_t panelWidth = 0, panels = 0;
  int64_t tiles = 0, tilesAtOnce = 0, blocks = 0;       // of rows
  int64_t chunkHeight = 0, chunkWidth = 0, chunks = 0;  // target pixels
  int64_t parts = 1;

  int64_t tileHeight() const { return divideUp(rows, tiles); }
  int64_t held() const { return taps * tilesAtOnce * tileHeight() * panelWidth; }
  int64_t tasks() const { return shape.groups * panels * blocks; }
  int64_t partial() const { return parts == 1 ? 0 : tasks() * parts * held(); }
};

std::vector<std::vector<Run>> runsOf(const Taps& taps, int64_t kernel, bool joins) {
  std::vector<std::vector<Run>> runs(static_cast<size_t>(kernel));
  for (int64_t target = 0; target < taps.targets(); ++target) {
    for (const Tap& tap : taps.of(target)) {
      std::vector<Run>& of = runs[static_cast<size_t>(tap.kernel)];
      if (joins && !of.empty() && of.back().target + of.back().count == target) {
        ++of.back().count;
      } else {
        of.push_back({target, tap.source, 1});
      }
    }
  }
  return runs;
}

void divide(Work& work) {
  const ConvShape& shape = work.shape;
  work.panelWidth = int64_t{work.kernels.vectors} * work.kernels.width;
  work.panels = divideUp(work.columns, work.panelWidth);
  work.tiles = divideUp(work.rows, work.kernels.rows);
  const int64_t tile = work.taps * work.tileHeight() * std::min(work.panelWidth, work.columns);
  work.blocks = divideUp(work.tiles, std::clamp<int64_t>(kHeld / tile, 1, work.tiles));
  work.tilesAtOnce = divideUp(work.tiles, work.blocks);
  work.blocks = divideUp(work.tiles, work.tilesAtOnce);
  const int64_t pixel = shape.images;
  work.chunkWidth = std::clamp<int64_t>(kChunk / pixel, 1, shape.outWidth);
  work.chunkHeight = work.chunkWidth < shape.outWidth
                         ? 1
                         : std::clamp<int64_t>(kChunk / (pixel * shape.outWidth), 1, shape.outHeight);
  work.chunks = divideUp(shape.outHeight, work.chunkHeight) * divideUp(shape.outWidth, work.chunkWidth);
  const int64_t total =
      work.taps * work.rows * work.columns * shape.groups * shape.outHeight * shape.outWidth * shape.images;
  const int64_t wanted = std::min(kTasks, total / kLeastWork);
  work.parts = std::clamp<int64_t>(divideUp(wanted, work.tasks()), 1, std::min(work.chunks, kMostParts));
}

struct Task {
  int64_t group, panel, block;
};

Task taskOf(const Work& work, int64_t index) {
  return {index / (work.panels * work.blocks), index / work.blocks % work.panels, index % work.blocks};
}

int64_t columnsOf(const Work& work, const Task& task) {
  return std::min(work.panelWidth, work.columns - task.panel * work.panelWidth);
}

// The rows [first, end) of a block.
struct Rows {
  int64_t first, end;
};

Rows rowsOf(const Work& work, const Task& task) {
  const int64_t height = work.tilesAtOnce * work.tileHeight();
  return {task.block * height, std::min(work.rows, (task.block + 1) * height)};
}

// Where a row of a task begins in the gradient.
int64_t placeOf(const Work& work, const Task& task, int64_t row) {
  return ((task.group * work.rows + row) * work.columns + task.panel * work.panelWidth) * work.taps;
}

// sums [taps, rows of the block, panelWidth] = over the target pixels of some chunks. `gradient`, unless null, is what
// they will be added to: it is asked for a little at a time, so that it is there by then.
void multiply(const Work& work, const Task& task, int64_t firstChunk, int64_t endChunk, float* sums,
              const float* gradient, std::vector<Segment>& segments) {
  const ConvShape& shape = work.shape;
  const Rows rows = rowsOf(work, task);
  const int64_t across = divideUp(shape.outWidth, work.chunkWidth);
  const int64_t columns = columnsOf(work, task);
  const int64_t vectors = divideUp(columns, work.kernels.width);
  const int64_t horizontalTaps = static_cast<int64_t>(work.runs.size());
  const int64_t tapSize = (rows.end - rows.first) * work.panelWidth;
  const int64_t rowsAhead = divideUp(rows.end - rows.first, work.taps * work.tilesAtOnce);
  int64_t next = rows.first;
  bool add = false;
  for (int64_t chunk = firstChunk; chunk < endChunk; ++chunk, add = true) {
    const int64_t top = chunk / across * work.chunkHeight;
    const int64_t bottom = std::min(shape.outHeight, top + work.chunkHeight);
    const int64_t left = chunk % across * work.chunkWidth;
    const int64_t right = std::min(shape.outWidth, left + work.chunkWidth);
    for (int64_t tap = 0; tap < work.taps; ++tap) {
      ConvTile tile;
      tile.strideA = work.planar ? work.sourceStep : work.targetStep;
      tile.b = work.b + task.group * work.groupB + task.panel * work.panelWidth;
      tile.strideB = work.planar ? work.targetStep : work.sourceStep;
      tile.unitB = 1;
      segments.clear();
      for (int64_t y = top; y < bottom; ++y) {
        for (const Tap& down : work.vertical.of(y)) {
          if (down.kernel != tap / horizontalTaps) continue;
          for (const Run& run : work.runs[static_cast<size_t>(tap % horizontalTaps)]) {
            const int64_t from = std::max(run.target, left), to = std::min(run.target + run.count, right);
            if (from >= to) continue;
            const int64_t target = (y * shape.outWidth + from) * shape.images * work.targetStep;
            const int64_t source = down.source * work.sourceRow +
                                   (run.source + (from - run.target) * work.step) * work.sourceColumn;
            const int64_t depth = (to - from) * shape.images;
            const Segment segment = {work.planar ? source : target, work.planar ? target : source, depth};
            if (!segments.empty()) {
              // Rows of an image that follow one another on both sides are one run.
              Segment& before = segments.back();
              if (before.a + before.depth * tile.strideA == segment.a &&
                  before.b + before.depth * tile.strideB == segment.b) {
                before.depth += depth;
                continue;
              }
            }
            segments.push_back(segment);
          }
        }
      }
      tile.segments = segments.data();
      tile.count = static_cast<int64_t>(segments.size());
      tile.strideC = work.panelWidth;
      tile.columns = columns;
      tile.add = add;
      if (add && segments.empty()) continue;
      for (int64_t row = rows.first; row < rows.end; row += work.tileHeight()) {
        const int64_t height = std::min(work.tileHeight(), rows.end - row);
        tile.a = work.a + task.group * work.groupA + row;
        tile.c = sums + tap * tapSize + (row - rows.first) * work.panelWidth;
        work.kernels.along[height - 1][vectors - 1](tile);
        if (gradient == nullptr || chunk + 1 < endChunk) continue;
        constexpr int64_t kLine = 16;
        for (const int64_t end = std::min(rows.end, next + rowsAhead); next < end; ++next) {
          const float* line = gradient + placeOf(work, task, next);
          for (int64_t at = 0; at < columns * work.taps; at += kLine) __builtin_prefetch(line + at, 1);
        }
      }
    }
  }
}

// Adds a task's sums to the gradient; `line` holds taps * panelWidth floats.
void write(const Work& work, const Task& task, const float* sums, float* line, float* dWeights) {
  const Rows rows = rowsOf(work, task);
  const int64_t count = rows.end - rows.first;
  const TapSums all = {
      sums, work.taps, count * work.panelWidth, work.panelWidth, count, columnsOf(work, task)};
  work.kernels.addTaps(all, line, dWeights + placeOf(work, task, rows.first), work.columns * work.taps);
}

// The same with rows [kernelWidth, channels] and columns of output channels.
void writePlanar(const Work& work, const Task& task, const float* sums, float* dWeights) {
  const ConvShape& shape = work.shape;
  const Rows rows = rowsOf(work, task);
  const int64_t columns = columnsOf(work, task);
  const float* from = sums;
  for (int64_t y = 0; y < shape.kernelHeight; ++y) {
    for (int64_t row = rows.first; row < rows.end; ++row, from += work.panelWidth) {
      const int64_t x = row / shape.channels, c = row % shape.channels;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t o = task.panel * work.panelWidth + j;
        dWeights[((o * shape.channels + c) * shape.kernelHeight + y) * shape.kernelWidth + x] += from[j];
      }
    }
  }
}

// `packed` floats of the team's memory hold the input already.
void run(Team& team, const Work& work, int64_t packed, float* dWeights) {
  const int64_t held = work.held();
  team.own(held + work.taps * work.panelWidth);
  float* partial = work.parts == 1 ? nullptr : team.shared(packed + work.partial()) + packed;
  std::vector<std::vector<Segment>> segments(static_cast<size_t>(team.threads()));
  const auto finish = [&](const Task& task, const float* sums, int worker) {
    if (work.planar) {
      writePlanar(work, task, sums, dWeights);
    } else {
      write(work, task, sums, team.of(worker) + held, dWeights);
    }
  };
  team.each(work.tasks() * work.parts, [&](int64_t index, int worker) {
    const Task task = taskOf(work, index / work.parts);
    const int64_t part = index % work.parts;
    float* sums = work.parts == 1 ? team.of(worker) : partial + index * held;
    multiply(work, task, work.chunks * part / work.parts, work.chunks * (part + 1) / work.parts, sums,
             work.parts == 1 && !work.planar ? dWeights : nullptr, segments[static_cast<size_t>(worker)]);
    if (work.parts == 1) finish(task, sums, worker);
  });
  if (work.parts == 1) return;
  team.each(work.tasks(), [&](int64_t index, int worker) {
    const Task task = taskOf(work, index);
    const Rows rows = rowsOf(work, task);
    float* sums = partial + index * work.parts * held;
    const int64_t count = work.taps * (rows.end - rows.first) * work.panelWidth;
    for (int64_t part = 1; part < work.parts; ++part) work.kernels.add(sums + part * held, count, sums);
    finish(task, sums, worker);
  });
}

}  // namespace

Status run(Team& team, const ConvWeightGradientArgs& args) {
  const ConvShape& shape = args.shape;
  if (args.dBias != nullptr) {
    const int64_t rows = shape.outHeight * shape.outWidth * shape.images;
    addColumnSums(team, args.dy, rows, shape.outChannels, args.dBias);
  }
  if (isDepthwise(shape)) {
    depthwise(team, args);
    return {};
  }
  if (winogradPays(shape)) {
    winogradWeights(team, args);
    return {};
  }
  Work work = {.kernels = convKernels(), .shape = shape};
  work.planar = shape.planar;
  work.vertical = Taps::forward(verticalAxis(shape));
  work.targetStep = shape.outChannels;
  const int64_t inputs = shape.channels / shape.groups, outputs = shape.outChannels / shape.groups;
  if (!shape.planar) {
    const Taps horizontal = Taps::forward(horizontalAxis(shape));
    const bool single = shape.images == 1;
    work.step = horizontal.step();
    work.runs = runsOf(horizontal, shape.kernelWidth, single || work.step == 1);
    work.sourceColumn = shape.images * shape.channels;
    work.sourceRow = shape.width * work.sourceColumn;
    work.sourceStep = single ? work.step * work.sourceColumn : shape.channels;
    work.a = args.dy;
    work.b = args.x;
    work.rows = work.groupA = outputs;
    work.columns = work.groupB = inputs;
    work.taps = shape.kernelHeight * shape.kernelWidth;
    divide(work);
    run(team, work, 0, args.dWeights);
    return {};
  }
  const InputRows rows(shape);
  const bool single = shape.images == 1;
  work.step = 1;
  work.runs = runsOf(Taps::forward({shape.outWidth, shape.outWidth, 1, 1, 1, 0}), 1, single);
  work.sourceRow = rows.row();
  work.sourceColumn = shape.strideWidth * shape.channels;
  work.sourceStep = single ? work.sourceColumn : rows.image();
  work.b = args.dy;
  work.rows = shape.kernelWidth * shape.channels;
  work.columns = outputs;
  work.taps = shape.kernelHeight;
  divide(work);
  float* packed = team.shared(rows.floats() + work.partial());
  rows.fill(team, args.x, packed);
  work.a = packed;
  run(team, work, rows.floats(), args.dWeights);
  return {};
}

}  // namespace clipcid
