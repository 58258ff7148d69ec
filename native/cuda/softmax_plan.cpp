#include "cuda/softmax_plan.h"

#include <algorithm>
#include <string>

#include "cuda/softmax_kernels.h"

namespace clipcid::cuda {
namespace {

static_assert(kStripUnit % kPartQueries == 0 && kStripUnit % kHalvesDepth == 0);
// Sums over keys are split so far as there are tiles of them for twice the multiprocessors, but not into parts of fewer keys.
constexpr int64_t kLeastPartKeys = 512;
constexpr int64_t kTileBytes = int64_t{HalvesTile::kRows} * HalvesTile::kColumns * 4;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

// At most: parts are filled up to equal depths, and are not of fewer keys.
int64_t depthOf(const SoftmaxShape& shape) {
  return halvesDepth(shape.keys) + (shape.sums ? shape.keys / kLeastPartKeys * kHalvesDepth : 0);
}

// Of the matrices and the sums, with what fills up their depths.
int64_t matrixBytes(const SoftmaxShape& shape) {
  const int64_t rows = shape.queryMatrices * shape.queries + shape.keys;
  const int64_t columns =
      shape.queryTransposes * halvesDepth(shape.queries) + shape.keyTransposes * depthOf(shape);
  const int64_t sums = (shape.sums ? shape.queries : 0) + (shape.keySums ? shape.keys : 0);
  return 4 * (rows * halvesDepth(shape.dim) + (columns + sums) * roundUp(shape.dim, 4));
}

// Of a row of a strip: logits, parts of log-sum-exps, sums of them, weights by key.
int64_t stripRowBytes(const SoftmaxShape& shape) {
  constexpr auto kPartBytes = static_cast<int64_t>(sizeof(SoftmaxPart));
  int64_t bytes = shape.sides * depthOf(shape) * 4;
  bytes += divideUp(shape.keys, kPartKeys) * kPartBytes;
  bytes += divideUp(shape.keys, kHalvesDepth) * 4;
  if (shape.keySums) bytes += shape.keys * 4;
  if (shape.byKey) bytes += divideUp(shape.keys * kPartBytes, kPartQueries);
  return bytes;
}

void splitDepth(const SoftmaxShape& shape, bool split, int multiprocessors, SoftmaxPlan* plan) {
  const int64_t units = divideUp(shape.keys, kHalvesDepth);
  const int64_t tiles =
      divideUp(plan->stripRows, HalvesTile::kRows) * divideUp(shape.dim, int64_t{HalvesTile::kColumns});
  int64_t parts = split ? divideUp(2 * int64_t{multiprocessors}, tiles) : 1;
  parts = std::clamp<int64_t>(parts, 1, std::max<int64_t>(shape.keys / kLeastPartKeys, 1));
  if (softmaxLimits().parts > 0) parts = std::min(softmaxLimits().parts, units);
  const int64_t ofPart = divideUp(units, parts);
  plan->parts = static_cast<int32_t>(divideUp(units, ofPart));
  plan->keyDepth = plan->parts * ofPart * kHalvesDepth;
}

std::string megabytes(int64_t bytes) { return std::to_string(divideUp(bytes, 1 << 20)) + " MB"; }

}  // namespace

SoftmaxLimits& softmaxLimits() {
  static SoftmaxLimits limits;
  return limits;
}

Status planSoftmax(const SoftmaxShape& shape, int multiprocessors, int64_t budget, SoftmaxPlan* out) {
  const SoftmaxLimits& limits = softmaxLimits();
  const int64_t matrices = matrixBytes(shape);
  const int64_t larger = std::max(shape.queries, shape.keys);
  const int64_t piece = std::min(std::max(limits.pieceBytes, kHalvesDepth * roundUp(shape.dim, 4) * 4),
                                 roundUp(larger, kHalvesDepth) * roundUp(shape.dim, 4) * 4);
  const int64_t fixed = matrices + piece;
  const int64_t rowBytes = stripRowBytes(shape);
  const int64_t least = fixed + kStripUnit * rowBytes;
  if (least > budget) {
    return {Code::kOutOfMemory,
            "Softmaxes of " + std::to_string(shape.queries) + " rows over " + std::to_string(shape.keys) +
                " keys of width " + std::to_string(shape.dim) + " need " + megabytes(least) +
                " of the GPU's memory, and may hold " + megabytes(budget) +
                ": raise maxDeviceMemory, free memory of the GPU, or take a smaller batch or fewer centres"};
  }
  // Of sums in parts: tiles for twice the multiprocessors, and less than as many again. Where there is no room, there are no parts.
  int64_t partial = shape.sums ? 4 * kTileBytes * multiprocessors : 0;
  const bool split = shape.sums && least + partial <= budget;
  if (!split) partial = 0;
  const int64_t wanted = std::max(limits.stripBytes, matrices / 4);
  const int64_t fit = std::min(wanted, budget - fixed - partial) / rowBytes / kStripUnit * kStripUnit;
  out->stripRows = std::clamp(fit, kStripUnit, std::max(roundUp(shape.queries, kStripUnit), kStripUnit));
  // Of equal size, as far as that goes.
  const int64_t strips = divideUp(shape.queries, out->stripRows);
  if (strips > 1) out->stripRows = roundUp(divideUp(shape.queries, strips), kStripUnit);
  splitDepth(shape, split, multiprocessors, out);
  out->bytes = fixed + out->stripRows * rowBytes + partial;
  return {};
}

}  // namespace clipcid::cuda
