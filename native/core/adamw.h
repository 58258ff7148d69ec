// The scalars of an AdamW step, computed in float64 once and shared by every back end. The step:
//
//   g <- g min(1, clip / (norm + 1e-6))
//   theta <- theta - rate decay theta
//   m <- beta1 m + (1 - beta1) g
//   v <- beta2 v + (1 - beta2) g^2
//   theta <- theta - rate / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
//   ema <- ema + (1 - emaDecay) (theta - ema)
//
// as torch.optim.AdamW and torch.nn.utils.clip_grad_norm_ do. A group of rate 0 is frozen: only its average
// moves, and its gradients, which are zeroed, count neither in the norm nor as faults.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct AdamwScalars {
  float gradientScale;
  float keep;  // 1 - rate decay
  float beta1, rest1;
  float beta2, rest2;
  float stepSize;           // rate / (1 - beta1^step)
  float inverseCorrection;  // 1 / sqrt(1 - beta2^step)
  float epsilon;
  float averageRest;  // 1 - emaDecay
};

AdamwScalars adamwScalars(const AdamwArgs& args, const AdamwGroup& group, double norm);

// Lengths and ranges that guard memory or would make NaN of everything.
Status validateAdamw(const AdamwArgs& args);

}  // namespace clipcid
