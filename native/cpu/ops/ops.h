// The CPU's operations: one function for each argument struct of clipcid/ops.h, called by the leader of a team. Sizes
// and memory are checked before (core/program.h). A failure is one of the data, such as an index out of range, or
// std::bad_alloc.
#pragma once

#include "clipcid/ops.h"
#include "clipcid/types.h"
#include "cpu/ops/team.h"

namespace clipcid {

Status run(Team& team, const ConvArgs& args);
Status run(Team& team, const ConvInputGradientArgs& args);
Status run(Team& team, const ConvWeightGradientArgs& args);
Status run(Team& team, const BatchNormArgs& args);
Status run(Team& team, const BatchNormGradientArgs& args);
Status run(Team& team, const MaxPoolArgs& args);
Status run(Team& team, const MaxPoolGradientArgs& args);
Status run(Team& team, const AveragePoolArgs& args);
Status run(Team& team, const AveragePoolGradientArgs& args);
Status run(Team& team, const ScalePixelsArgs& args);
Status run(Team& team, const ScalePixelsGradientArgs& args);

}  // namespace clipcid
