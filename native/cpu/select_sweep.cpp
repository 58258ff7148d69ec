// Mainloop of selection on the CPU.
//
// In: queries [Q, D] and keys [K, D], one pair of matrices or two (of widths of their own). Out: strips of at most
// tileRows x 512 float32 dots, handed to a visitor that keeps a list for each query.
//
// Queries come in blocks whose lists fit in memory; all keys stream past a block. A task takes 32 tiles of a block
// through a part of the keys at hand, a strip at a time: the strip's panels stay in the second-level cache for all
// the tiles. Chosen queries are gathered, so that the others cost nothing.
//
// Invariant: every (chosen query, key) pair is in exactly one strip.
//
// Best measured: not yet measured.
#include "cpu/select_sweep.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kTilesPerTask = 32;
constexpr int64_t kStripBytes = 384 << 10;
constexpr int64_t kStateBytes = 64 << 20;
constexpr int64_t kMostQueries = 16384;

int64_t ceilDivide(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Rows of one side's queries as the kernel reads them, padded with zeros to whole tiles.
struct Gathered {
  const float* rows = nullptr;
  int64_t stride = 0;
  AlignedArray<float> own;
  std::shared_ptr<const Block> block;  // what `rows` points into, when it is not `own`
};

struct Pass {
  const SelectSweep& sweep;
  const Context& context;
  const FilterKernel& kernel;
  int64_t strip = 0;
  int64_t scoreStride = 0;
  std::vector<AlignedArray<float>> scores{};  // [worker * sides + side]
  double done = 0;
  double total = 0;
  std::atomic<int64_t> blockDone{0};
};

Status gather(const Pass& pass, int side, const QueryBlock& block, Gathered* out) {
  const CpuPrepared& queries = *pass.sweep.queries[side];
  const int64_t tileRows = pass.kernel.tileRows;
  if (block.rows == nullptr && block.begin / queries.blockRows() * queries.blockRows() == block.begin &&
      block.count == std::min(queries.blockRows(), queries.rows - block.begin)) {
    CLIPCID_TRY(queries.block(pass.context, block.begin / queries.blockRows(), false, &out->block));
    out->rows = out->block->rows.get();
    out->stride = out->block->stride;
    return {};
  }
  // Not a multiple of a large power of two: the rows of a tile would meet in a few sets of the first-level cache.
  out->stride = ceilDivide(queries.dim, 16) * 16 + 16;
  const int64_t padded = ceilDivide(block.count, tileRows) * tileRows;
  out->own = AlignedArray<float>(padded * out->stride);
  out->rows = out->own.get();
  constexpr int64_t kRange = 64;
  CLIPCID_TRY(parallelTry(pass.context, ceilDivide(block.count, kRange), [&](int64_t range, int) -> Status {
    const int64_t end = std::min((range + 1) * kRange, block.count);
    for (int64_t place = range * kRange; place < end; ++place) {
      float* to = out->own.get() + place * out->stride;
      const float* row;
      CLIPCID_TRY(queries.row(block.row(place), to, &row));
      if (row != to) memcpy(to, row, static_cast<size_t>(queries.dim) * 4);
    }
    return {};
  }));
  std::fill(out->own.get() + block.count * out->stride, out->own.get() + padded * out->stride, 0.0f);
  return {};
}

// Scores of a tile with keys [from, to) of a block, from whole panels; returns where those of `from` are.
float* tileScores(const Pass& pass, int side, const Gathered& queries, int64_t place, const Block& keys,
                  int64_t from, int64_t to, float* scores) {
  const int64_t words = pass.sweep.queries[side]->dim;
  const int panel = pass.kernel.panel;
  const int64_t first = (from - keys.begin) / panel * panel;
  float* at = scores;
  for (int64_t j = first; j < to - keys.begin; j += panel, at += panel) {
    pass.kernel.tile(reinterpret_cast<const uint32_t*>(queries.rows + place * queries.stride), queries.stride,
                     nullptr, reinterpret_cast<const uint32_t*>(keys.panels.get() + j * words), words, 1,
                     -std::numeric_limits<float>::infinity(), at, pass.scoreStride);
  }
  return scores + (from - keys.begin - first);
}

// Keys [begin, end) are in one block of every side.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
  std::shared_ptr<const Block> blocks[2];
};

Status runTask(Pass* pass, const QueryBlock& block, const Gathered* queries, const KeyRange& keys,
               int64_t tileBegin, int64_t tileEnd, int64_t part, int64_t stripBegin, int64_t stripEnd,
               int worker) {
  const SelectSweep& sweep = pass->sweep;
  const int tileRows = pass->kernel.tileRows;
  for (int64_t s = stripBegin; s < stripEnd; ++s) {
    const int64_t from = keys.begin + s * pass->strip, to = std::min(from + pass->strip, keys.end);
    SelectStrip strip{&block, 0, 0, from, to - from, pass->scoreStride, {}, {}, part};
    for (int side = 0; side < sweep.sides; ++side)
      strip.keyNorms[side] = sweep.keys[side]->normBound(from, to);
    for (int64_t tile = tileBegin; tile < tileEnd; ++tile) {
      strip.place = tile * tileRows;
      strip.rows = static_cast<int>(std::min<int64_t>(tileRows, block.count - strip.place));
      for (int side = 0; side < sweep.sides; ++side) {
        float* scores = pass->scores[static_cast<size_t>(worker * sweep.sides + side)].get();
        strip.scores[side] =
            tileScores(*pass, side, queries[side], strip.place, *keys.blocks[side], from, to, scores);
      }
      CLIPCID_TRY(sweep.visit(strip, worker));
    }
    if (pass->context.cancelled()) return Status::aborted();
  }
  return {};
}

int64_t partsOf(const Pass& pass, int64_t count) {
  // Few queries: the keys are cut too, so that every thread has work.
  const int64_t groups = ceilDivide(ceilDivide(count, pass.kernel.tileRows), kTilesPerTask);
  const int64_t strips = ceilDivide(pass.sweep.keys[0]->rows, pass.strip);
  return std::clamp<int64_t>(4 * pass.context.threads / groups, 1, std::max<int64_t>(strips, 1));
}

Status runKeys(Pass* pass, const QueryBlock& block, const Gathered* queries, const KeyRange& keys,
               int64_t parts) {
  const int64_t tiles = ceilDivide(block.count, pass->kernel.tileRows);
  const int64_t groups = ceilDivide(tiles, kTilesPerTask);
  const int64_t strips = ceilDivide(keys.end - keys.begin, pass->strip);
  pass->blockDone = 0;
  CLIPCID_TRY(parallelTry(pass->context, groups * parts, [&](int64_t task, int worker) -> Status {
    const int64_t group = task / parts, part = task % parts;
    const int64_t tileBegin = group * kTilesPerTask, tileEnd = std::min(tileBegin + kTilesPerTask, tiles);
    const int64_t stripBegin = strips * part / parts, stripEnd = strips * (part + 1) / parts;
    CLIPCID_TRY(runTask(pass, block, queries, keys, tileBegin, tileEnd, part, stripBegin, stripEnd, worker));
    const int64_t products =
        (tileEnd - tileBegin) * pass->kernel.tileRows *
        std::max<int64_t>(std::min(stripEnd * pass->strip, keys.end - keys.begin) - stripBegin * pass->strip,
                          0);
    const int64_t done = pass->blockDone.fetch_add(products) + products;
    // Worker 0 is the calling thread: so calls never overlap, and `done` only grows.
    if (worker == 0 && pass->context.progress) {
      const auto range = static_cast<double>(block.count * (keys.end - keys.begin));
      pass->context.progress(pass->done + std::min(static_cast<double>(done), range), pass->total);
    }
    return {};
  }));
  pass->done += static_cast<double>(block.count * (keys.end - keys.begin));
  return {};
}

Status runBlock(Pass* pass, const QueryBlock& block) {
  const SelectSweep& sweep = pass->sweep;
  Gathered queries[2];
  for (int side = 0; side < sweep.sides; ++side) CLIPCID_TRY(gather(*pass, side, block, &queries[side]));
  const int64_t parts = partsOf(*pass, block.count);
  CLIPCID_TRY(sweep.open(block, parts));
  KeyRange keys;
  for (; keys.begin < sweep.keys[0]->rows; keys.begin = keys.end) {
    keys.end = sweep.keys[0]->rows;
    for (int side = 0; side < sweep.sides; ++side) {
      const int64_t rows = sweep.keys[side]->blockRows();
      std::shared_ptr<const Block>& held = keys.blocks[side];
      if (held == nullptr || held->begin + held->count <= keys.begin) {
        held.reset();
        CLIPCID_TRY(sweep.keys[side]->block(pass->context, keys.begin / rows, true, &held));
      }
      keys.end = std::min(keys.end, held->begin + held->count);
    }
    CLIPCID_TRY(runKeys(pass, block, queries, keys, parts));
  }
  return sweep.close(block);
}

}  // namespace

Status selectSweep(const Context& context, const SelectSweep& sweep) {
  Pass pass{sweep, context, *kernels().float32};
  int64_t widest = 1;
  for (int side = 0; side < sweep.sides; ++side) {
    if (sweep.queries[side]->dim != sweep.keys[side]->dim ||
        sweep.queries[side]->rows != sweep.queries[0]->rows ||
        sweep.keys[side]->rows != sweep.keys[0]->rows) {
      return {Code::kInternal, "A selection over rows of different shapes"};
    }
    widest = std::max(widest, sweep.queries[side]->dim);
  }
  const int panel = pass.kernel.panel;
  pass.strip =
      std::clamp<int64_t>(kStripBytes / (4 * widest * sweep.sides) / panel * panel, panel, kMostStrip);
  // A strip that does not begin with a panel takes one more.
  pass.scoreStride = pass.strip + panel;
  for (int at = 0; at < std::max(context.threads, 1) * sweep.sides; ++at)
    pass.scores.emplace_back(pass.kernel.tileRows * pass.scoreStride);
  const int64_t count = sweep.count < 0 ? sweep.queries[0]->rows - sweep.begin : sweep.count;
  pass.total = static_cast<double>(count) * static_cast<double>(sweep.keys[0]->rows);
  const int64_t tile = pass.kernel.tileRows;
  const int64_t fits = kStateBytes / std::max<int64_t>(sweep.stateBytes, 1);
  // Where all queries are asked for, a block of theirs is taken as it is when its lists fit.
  int64_t most = std::clamp<int64_t>(fits / tile * tile, tile, kMostQueries);
  if (sweep.rows == nullptr && sweep.queries[0]->blockRows() <= most) most = sweep.queries[0]->blockRows();
  for (int64_t begin = 0; begin < count; begin += most) {
    CLIPCID_TRY(runBlock(&pass, {sweep.rows == nullptr ? nullptr : sweep.rows + begin, sweep.begin + begin,
                                 std::min(most, count - begin), begin}));
  }
  return {};
}

}  // namespace clipcid
