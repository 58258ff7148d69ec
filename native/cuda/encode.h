// What a mainloop compares: rows as words of a filter's precision, each with how far it may be from the row it stands for.
//
// Words are in units of their matrix's encoding: float16 and float32 of elements times a power of two that makes the best of
// float16's range, int8 of elements over a step. Errors and lengths are in the same units. Below, x is a row as compared, in
// these units and the encoding's coordinates, and x~ what its words stand for. Of each row are kept
//   error >= |x - x~|      and      length >= |x~|,
// so a score s that a mainloop makes of two rows is bounded by
//   |x.y - s| <= error_x (length_y + error_y) + length_x error_y + accumulation          (BoundTerms)
// since x.y - x~.y~ = (x - x~).y + x~.(y - y~).
#pragma once

#include <vector>

#include "cuda/device_rows.h"
#include "cuda/memory.h"
#include "cuda/tiles.h"

namespace clipcid::cuda {

struct alignas(8) RowBound {
  float error, length;
};

// Rows whose largest error and length are kept, too: a tile's bound is of its worst rows.
constexpr int kBoundGroup = 64;

// On the device.
struct EncodedView {
  const char* words = nullptr;
  int64_t stride = 0;  // bytes from row to row, a multiple of kDepthBytes
  int64_t count = 0;
  const RowBound* bounds = nullptr;  // [count]
  const RowBound* maxima = nullptr;  // [ceil(count / kBoundGroup)]

  // Some of the rows; `begin` is a multiple of kBoundGroup where maxima are of use.
  EncodedView part(int64_t begin, int64_t number) const {
    return {words + begin * stride, stride, number, bounds + begin, maxima + begin / kBoundGroup};
  }
};

// Accumulation, for scores of n elements: relative of the lengths' product, and absolute.
struct BoundTerms {
  float relative = 0, absolute = 0;
};

struct EncodedRows {
  Buffer<char> words;
  Buffer<RowBound> bounds, maxima;
  int64_t stride = 0, count = 0;

  Status allocate(int64_t count, int64_t stride, Stream stream);
  EncodedView view() const { return {words.get(), stride, count, bounds.get(), maxima.get()}; }
  void freeOn(Stream stream);
  static int64_t rowBytes(int64_t stride) { return stride + 9; }
};

// How one matrix is encoded. Two that are equal give equal words.
struct Encoding {
  Math math = Math::kFloat16;
  bool spread = false;
  float scale = 1;  // units in 1: a power of two, or one over the step

  bool operator==(const Encoding&) const = default;
};

// Bytes of an encoded row of `elements`.
constexpr int64_t encodedStride(Math math, int64_t elements) {
  return (elements * elementBytes(math) + kDepthBytes - 1) / kDepthBytes * kDepthBytes;
}
// The rows are taken as compared.
Status encodeRows(Device& device, Stream stream, const DeviceRows& rows, const Encoding& encoding,
                  EncodedRows* out);

// Listed rows of others.
Status gatherEncoded(const Device& device, Stream stream, const EncodedView& from, const int64_t* indices,
                     int64_t count, EncodedRows* out);

// A rotation that spreads what a row has in a few coordinates over all of them, so that one step serves all: signs at random,
// then the Walsh-Hadamard transform of the first 2^k coordinates and, when there are more, other signs and the transform of
// the last 2^k, where 2^k is the largest power of two not above dim. Computed, a row is off by spreadError(dim) of its length.
constexpr int64_t kWidestSpread = 8192;
double spreadError(int64_t dim);
// [2][kWidestSpread] bits, the same for all.
std::vector<uint32_t> spreadSigns();
// The same on the host, of a row of floats.
void spreadOnHost(const std::vector<uint32_t>& signs, float* row, int64_t dim);

}  // namespace clipcid::cuda
