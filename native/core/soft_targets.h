// The teacher's side of the KL term: with P = softmax(t^ c^T / temperature) over all centres, rows and
// centres normalised, the soft centroids o_i = sum_j P_ij c^_j and the entropies H_i = lse_i - t^_i . o_i /
// temperature.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct SoftTargetsArgs {
  Rows teacher;    // [N, D]
  Rows centroids;  // [K, D]
  double temperature = 1;
  float* softCentroids = nullptr;  // [N, D]
  float* entropies = nullptr;      // [N]
};

// kInvalidData names the first row, of either matrix, that cannot be normalised.
Status softTargets(Backend& backend, const Context& context, const SoftTargetsArgs& args);

}  // namespace clipcid
