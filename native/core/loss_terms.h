// The terms of the loss over unit rows. Each writes its unweighted value and adds its weighted gradients.
#pragma once

#include "core/loss.h"
#include "core/loss_rows.h"

namespace clipcid {

// InfoNCE of x against y, row i with row i as its target: mean over the rows of lse_i - z_ii with z =
// exp(logScale) x^ y^T, and with `columns` the mean of that and of the same over the columns.
struct ContrastArgs {
  const UnitRows* x = nullptr;
  const UnitRows* y = nullptr;
  double logScale = 0;
  double weight = 1;
  bool columns = true;
  float* dx = nullptr;  // [B, D], added to
  float* dy = nullptr;  // [B, D], added to, or null; only with `columns`
};

Status contrastTerm(Backend& backend, const Context& context, const ContrastArgs& args, double* value,
                    double* logScaleGradient);

// The cluster terms of the unit projected student s. `t`, the unit teacher, is not read when the soft
// centroids are given or there is no KL term. Adds to `ds`, [B, Dt], and writes the gradient of the centres
// into the result when they are learned.
Status clusterTerms(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                    const UnitRows* t, float* ds, LossResult* result);

}  // namespace clipcid
