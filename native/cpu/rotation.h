// Orthogonal changes of coordinates in front of a filter.
#pragma once

#include <cstdint>
#include <memory>

#include "clipcid/types.h"
#include "core/aligned.h"

namespace clipcid {

// In place: a fixed rotation that spreads what a row has in a few coordinates over all of them, so that one scale
// serves all. Random signs, then the Walsh-Hadamard transform of the first 2^k coordinates and, when there are
// more, of the last 2^k, with 2^k the largest power of two not above dim. Exactly orthogonal; computed, a row is
// off by at most spreadError(dim) of its length.
void spreadRow(float* row, int64_t dim);
double spreadError(int64_t dim);

// Directions that hold most of what a sample of rows holds, most first.
struct Directions {
  int64_t count = 0;           // as many as were wanted, or fewer where the sample has no more
  AlignedArray<float> rows{};  // [count, dim]
  double defect = 0;           // at least |P P' - I| (Frobenius) for the directions P as stored
};
Status leadingDirections(const Context& context, const float* rows, int64_t stride, int64_t count,
                         int64_t dim, int64_t directions, Directions* out);

// The first of some directions, packed for kernels().tile.
struct Basis {
  int64_t dim = 0;
  int64_t count = 0;
  int64_t strideOut = 0;         // count rounded up to whole panels
  AlignedArray<float> panels{};  // [strideOut / panel][dim][panel]
  double defect = 0;             // as Directions::defect
};
std::shared_ptr<const Basis> basisOf(const Directions& directions, int64_t count, int64_t dim);

}  // namespace clipcid
