// Mainloop of the CPU.
//
// In: prepared queries [Q, D] and keys [K, D]. Out: strips of at most tileRows x 512 float32 dots, handed to a
// visitor.
//
// A task takes 32 tiles of queries through a part of a key block, a strip of keys at a time: the strip's panels
// stay in the second-level cache for all the tiles, a tile's rows in the first. Blocks of both sides (64 MiB)
// bound memory.
//
// Invariant: every (query, key) pair is in exactly one strip, but for those that `triangle` leaves out.
//
// Best measured, float32 self-join with all decisions, GFLOP/s by CPU time of one thread: 158 for 20,000 x 512,
// 159 for 20,000 x 768, 131 for 20,000 x 64 (AVX-512 Xeon, two cores shared with other work, November 2026).
#include "cpu/sweep.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kTilesPerTask = 32;
constexpr int64_t kStripBytes = 384 << 10;

int64_t stripColumns(int64_t dim, int panel) {
  const int64_t fits = kStripBytes / (4 * std::max<int64_t>(dim, 1)) / panel * panel;
  return std::clamp<int64_t>(fits, panel, kMostStrip);
}

struct Pass {
  const Sweep& sweep;
  const Context& context;
  int64_t strip;
  std::vector<AlignedArray<float>> scores;  // one a worker
  std::atomic<int64_t> done{0};
  double total = 0;
};

Status runTask(Pass* pass, const Block& queries, const Block& keys, int64_t tileBegin, int64_t tileEnd,
               int64_t part, int64_t keyBegin, int64_t keyEnd, int worker) {
  const Kernels& kernel = kernels();
  const int64_t dim = pass->sweep.queries->dim;
  float* scores = pass->scores[static_cast<size_t>(worker)].get();
  for (int64_t at = keyBegin; at < keyEnd; at += pass->strip) {
    const int64_t columns = std::min(pass->strip, keyEnd - at);
    for (int64_t tile = tileBegin; tile < tileEnd; ++tile) {
      const int64_t row = tile * kernel.tileRows;
      Strip strip = {&queries, &keys,  queries.begin + row, 0,   keys.begin + at,
                     columns,  scores, pass->strip,         part};
      strip.rows = static_cast<int>(std::min<int64_t>(kernel.tileRows, queries.count - row));
      // The last key of the strip against the first query of the tile.
      if (pass->sweep.triangle && strip.key + columns - 1 <= strip.query) continue;
      for (int64_t j = 0; j < columns; j += kernel.panel) {
        const float* panel = keys.panels.get() + (at + j) * dim;
        kernel.tile(queries.rows.get() + row * queries.stride, queries.stride, panel, dim, scores + j,
                    pass->strip);
      }
      CLIPCID_TRY(pass->sweep.visit(strip, worker));
    }
    if (pass->context.cancelled()) return Status::aborted();
  }
  return {};
}

Status runPair(Pass* pass, const Block& queries, const Block& keys) {
  const int64_t tiles = (queries.count + kernels().tileRows - 1) / kernels().tileRows;
  const int64_t groups = (tiles + kTilesPerTask - 1) / kTilesPerTask;
  const int64_t strips = (keys.count + pass->strip - 1) / pass->strip;
  // Few queries: the keys are cut too, so that every thread has work.
  const int64_t parts = std::clamp<int64_t>(4 * pass->context.threads / groups, 1, strips);
  if (pass->sweep.begin) pass->sweep.begin(queries, parts);
  CLIPCID_TRY(parallelTry(pass->context, groups * parts, [&](int64_t task, int worker) -> Status {
    const int64_t group = task / parts, part = task % parts;
    const int64_t tileBegin = group * kTilesPerTask, tileEnd = std::min(tileBegin + kTilesPerTask, tiles);
    const int64_t keyBegin = strips * part / parts * pass->strip;
    const int64_t keyEnd = std::min(strips * (part + 1) / parts * pass->strip, keys.count);
    CLIPCID_TRY(runTask(pass, queries, keys, tileBegin, tileEnd, part, keyBegin, keyEnd, worker));
    const int64_t products = (tileEnd - tileBegin) * kernels().tileRows * (keyEnd - keyBegin);
    const int64_t done = pass->done.fetch_add(products) + products;
    // Worker 0 is the calling thread: so calls never overlap, and `done` only grows.
    if (worker == 0 && pass->context.progress) {
      pass->context.progress(std::min(static_cast<double>(done), pass->total), pass->total);
    }
    return {};
  }));
  if (pass->sweep.end) pass->sweep.end(queries, parts);
  return {};
}

}  // namespace

Status sweep(const Context& context, const Sweep& sweep) {
  const CpuPrepared& queries = *sweep.queries;
  const CpuPrepared& keys = *sweep.keys;
  if (queries.dim != keys.dim) return {Code::kInternal, "A sweep over rows of different widths"};
  Pass pass{sweep, context, stripColumns(queries.dim, kernels().panel), {}, {}, 0};
  for (int worker = 0; worker < std::max(context.threads, 1); ++worker) {
    pass.scores.emplace_back(kMostTileRows * pass.strip);
  }
  pass.total =
      static_cast<double>(queries.rows) * static_cast<double>(keys.rows) * (sweep.triangle ? 0.5 : 1);
  for (int64_t i = 0; i < queries.blockCount(); ++i) {
    std::shared_ptr<const Block> queryBlock;
    CLIPCID_TRY(queries.block(context, i, false, &queryBlock));
    for (int64_t j = 0; j < keys.blockCount(); ++j) {
      if (sweep.triangle && (j + 1) * keys.blockRows() <= queryBlock->begin) continue;
      std::shared_ptr<const Block> keyBlock;
      CLIPCID_TRY(keys.block(context, j, true, &keyBlock));
      CLIPCID_TRY(runPair(&pass, *queryBlock, *keyBlock));
    }
  }
  return {};
}

double dotBound(int64_t dim, double queryNorm, double keyNorm) {
  const double product = queryNorm * keyNorm;
  if (!(product < 1e37)) return std::numeric_limits<double>::infinity();
  const double unit = std::ldexp(1.0, -24);
  // Seven more roundings than the chain's, for those of the norms and of the canonical dot, which are far
  // smaller.
  const double n = static_cast<double>(dim + 8);
  return 1.0001 * (n * unit / (1 - n * unit) * product + n * std::ldexp(1.0, -149));
}

float roundDown(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) > value ? std::nextafterf(near, -std::numeric_limits<float>::infinity())
                                           : near;
}

float roundUp(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) < value ? std::nextafterf(near, std::numeric_limits<float>::infinity())
                                           : near;
}

}  // namespace clipcid
