#include "cuda/softmax_plan.h"

#include <algorithm>
#include <string>

#include "cuda/softmax_kernels.h"

namespace clipcid::cuda {
namespace {

static_assert(kStripUnit % kPartQueries == 0 && kStripUnit % kHalvesDepth == 0);
static_assert(kHalvesDepth % kPartKeys == 0);
// Parts of sums over keys: of 512 keys up to so many parts, then so many parts, of 2,048 keys at most.
constexpr int64_t kLeastPartKeys = 512, kUsualParts = 16, kMostPartKeys = 2048;
constexpr int64_t kTileBytes = int64_t{HalvesTile::kRows} * HalvesTile::kColumns * 4;

int64_t partKeysOf(int64_t keys) {
  int64_t parts = std::clamp<int64_t>(keys / kLeastPartKeys, 1, kUsualParts);
  parts = std::max(parts, keys / kMostPartKeys);
  if (softmaxLimits().parts > 0) parts = softmaxLimits().parts;
  return roundUp(divideUp(keys, parts), kHalvesDepth);
}

// What there is beside matrices: log-sum-exps, targets and sums by query, norms by key.
constexpr int64_t kQueryBytes = 80, kKeyBytes = 8;

// Of the matrices and the sums, with what fills up their depths.
int64_t matrixBytes(const SoftmaxShape& shape, int64_t chunk) {
  const int64_t rows = shape.queryMatrices * shape.queries + chunk;
  const int64_t columns = shape.queryTransposes * halvesDepth(shape.queries) + shape.keyTransposes * chunk;
  const int64_t sums = (shape.sums ? shape.queries : 0) + (shape.keySums ? chunk : 0);
  return 4 * (rows * halvesDepth(shape.dim) + (columns + sums) * roundUp(shape.dim, 4)) +
         kQueryBytes * shape.queries + kKeyBytes * shape.keys;
}

// Of a row of a strip: logits, parts of log-sum-exps, sums of them, weights by key.
int64_t stripRowBytes(const SoftmaxShape& shape, int64_t chunk) {
  constexpr auto kPartBytes = static_cast<int64_t>(sizeof(SoftmaxPart));
  int64_t bytes = shape.sides * chunk * 4;
  bytes += divideUp(chunk, kPartKeys) * kPartBytes;
  bytes += divideUp(chunk, kHalvesDepth) * 4;
  if (shape.keySums) bytes += chunk * 4;
  if (shape.byKey) bytes += divideUp(chunk * kPartBytes, kPartQueries);
  return bytes;
}

std::string megabytes(int64_t bytes) { return std::to_string(divideUp(bytes, 1 << 20)) + " MB"; }

}  // namespace

SoftmaxLimits& softmaxLimits() {
  static SoftmaxLimits limits;
  return limits;
}

Status planSoftmax(const SoftmaxShape& shape, int multiprocessors, int64_t budget, int64_t held,
                   SoftmaxPlan* out) {
  const SoftmaxLimits& limits = softmaxLimits();
  const int64_t left = budget - held;
  out->partKeys = partKeysOf(shape.keys);
  const int64_t stride = roundUp(shape.dim, 4);
  // With so many keys at a time, beside the strip.
  const auto fixed = [&](int64_t chunk) {
    const int64_t larger = std::max(shape.queries, chunk);
    return matrixBytes(shape, chunk) + std::min(std::max(limits.pieceBytes, kHalvesDepth * stride * 4),
                                                roundUp(larger, kHalvesDepth) * stride * 4);
  };
  const auto needed = [&](int64_t chunk, int64_t rows) {
    return fixed(chunk) + rows * stripRowBytes(shape, chunk);
  };
  // A strip of few rows is made twice as often; of still fewer, half of what a tile has would be idle.
  const int64_t usual = std::min(roundUp(std::max<int64_t>(shape.queries, 1), kStripUnit),
                                 roundUp(HalvesTile::kRows, kStripUnit));
  int64_t parts = divideUp(shape.keys, out->partKeys);
  while (shape.chunked && parts > 1 && needed(parts * out->partKeys, usual) > left)
    parts = divideUp(parts, 2);
  const int64_t chunk = out->chunkKeys = parts * out->partKeys;
  const int64_t least = needed(chunk, kStripUnit);
  if (least > left) {
    return {Code::kOutOfMemory,
            "Softmaxes of " + std::to_string(shape.queries) + " rows over " + std::to_string(shape.keys) +
                " keys of width " + std::to_string(shape.dim) + " need " + megabytes(least + held) +
                " of the GPU's memory, and may hold " + megabytes(budget) +
                ": raise maxDeviceMemory, free memory of the GPU, or take a smaller batch"};
  }
  const int64_t matrices = matrixBytes(shape, chunk);
  const int64_t rowBytes = stripRowBytes(shape, chunk);
  // Parts of sums that are apart: tiles for four times the multiprocessors, and less than as many again. Where there is no room, one
  // part is added to the other.
  int64_t apart = shape.sums && parts > 1 ? 8 * kTileBytes * multiprocessors : 0;
  if (least + apart > left) apart = 0;
  const int64_t wanted = std::max(limits.stripBytes, matrices / 4);
  const int64_t fit = std::min(wanted, left - fixed(chunk) - apart) / rowBytes / kStripUnit * kStripUnit;
  out->stripRows = std::clamp(fit, kStripUnit, std::max(roundUp(shape.queries, kStripUnit), kStripUnit));
  // Of equal size, as far as that goes.
  const int64_t strips = divideUp(shape.queries, out->stripRows);
  if (strips > 1) out->stripRows = roundUp(divideUp(shape.queries, strips), kStripUnit);
  const int64_t tiles =
      divideUp(out->stripRows, HalvesTile::kRows) * divideUp(shape.dim, int64_t{HalvesTile::kColumns});
  out->partsAtOnce =
      apart > 0 ? std::clamp<int64_t>(divideUp(4 * int64_t{multiprocessors}, tiles), 1, parts) : 1;
  if (tiles * kTileBytes * out->partsAtOnce > apart) out->partsAtOnce = 1;
  out->bytes = fixed(chunk) + out->stripRows * rowBytes + apart;
  return {};
}

}  // namespace clipcid::cuda
