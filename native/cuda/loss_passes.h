// The terms of the loss over rows that are on the device: what they make stays there. All of it is queued on the site's stream.
#pragma once

#include "cuda/softmax_sweep.h"

namespace clipcid::cuda {

// ContrastArgs of unit rows [rows, dim], as far apart as on the device.
struct ContrastPass {
  const float *x = nullptr, *y = nullptr;
  int64_t rows = 0, dim = 0;
  double scale = 1, weight = 1;
  bool columns = true;
  float *dx = nullptr, *dy = nullptr;  // added to; dy may be null
  double* terms = nullptr;             // [2] the value, and the gradient of the scale's logarithm
};
Status contrast(const PassSite& site, const ContrastPass& pass);

// DistilArgs of unit rows [rows, dim]; with a weight of the targets too:
//   g_ij = studentWeight Q_ij - teacherWeight P_ij - targetWeight [j == targets[i]]
struct DistilPass {
  const float *student = nullptr, *teacher = nullptr;
  int64_t rows = 0, dim = 0;
  PassRows keys;
  double scale = 1, teacherScale = 1;
  const int32_t* targets = nullptr;
  double studentWeight = 1, teacherWeight = 0, targetWeight = 0;
  // [rows]; the last two null where there are no targets, or no teacher.
  double *lse = nullptr, *targetLogit = nullptr, *divergence = nullptr;
  float* sums = nullptr;  // [rows, dim]
  // Where the keys' norms are told: the first that is none lowers it. Or null.
  uint32_t* fault = nullptr;
  // Told, one chunk of the keys after the other, of sums over the rows [keys, dim]. Or null.
  std::function<Status(SoftmaxSweep& sweep, const SoftmaxSweep::Side& keys, float* sums)> keySums = {};
};
Status distil(const PassSite& site, const DistilPass& pass);

}  // namespace clipcid::cuda
