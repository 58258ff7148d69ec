// Orthogonal changes of coordinates in front of a filter.
#pragma once

#include <cstdint>

#include "core/aligned.h"

namespace clipcid {

// In place: a fixed rotation that spreads what a row has in a few coordinates over all of them, so that one scale
// serves all. Random signs, then the Walsh-Hadamard transform of the first 2^k coordinates and, when there are
// more, of the last 2^k, with 2^k the largest power of two not above dim. Exactly orthogonal; computed, a row is
// off by at most spreadError(dim) of its length.
void spreadRow(float* row, int64_t dim);
double spreadError(int64_t dim);

// Leading directions, found in a sample of rows.
struct Basis {
  int64_t dim = 0;
  int64_t count = 0;             // directions
  int64_t strideOut = 0;         // count rounded up to panels of kernels().tile
  AlignedArray<float> panels{};  // [strideOut / panel][dim][panel]
  double defect = 0;             // at least |P P' - I| for the directions P [count, dim] as stored
};

}  // namespace clipcid
