// The cluster terms of the loss over unit rows.
#pragma once

#include "core/loss.h"
#include "core/loss_rows.h"

namespace clipcid {

// Of the unit projected student s. `t`, the unit teacher, is not read when the soft centroids are given or there is no KL
// term. Writes the unweighted values into the result, adds the weighted gradient to `ds`, [B, Dt], and writes that of the
// centres into the result when they are learned.
Status clusterTerms(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                    const UnitRows* t, float* ds, LossResult* result);

}  // namespace clipcid
