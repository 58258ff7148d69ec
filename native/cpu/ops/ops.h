// The CPU's operations: one function for each argument struct of clipcid/ops.h, called by the leader of a team. Sizes
// and memory are checked before (core/program.h). A failure is one of the data, such as an index out of range, or
// std::bad_alloc.
#pragma once

#include "clipcid/ops.h"
#include "clipcid/types.h"
#include "cpu/ops/team.h"

namespace clipcid {

Status run(Team& team, const ChainArgs& args);
Status run(Team& team, const ProductArgs& args);
Status run(Team& team, const PackArgs& args);
Status run(Team& team, const LayerNormArgs& args);
Status run(Team& team, const LayerNormGradientArgs& args);
Status run(Team& team, const AttentionArgs& args);
Status run(Team& team, const AttentionGradientArgs& args);
Status run(Team& team, const SoftmaxRowsArgs& args);
Status run(Team& team, const SoftmaxRowsGradientArgs& args);
Status run(Team& team, const ReduceArgs& args);
Status run(Team& team, const ArgumentArgs& args);
Status run(Team& team, const CopyArgs& args);
Status run(Team& team, const FillArgs& args);
Status run(Team& team, const GatherRowsArgs& args);
Status run(Team& team, const ScatterRowsArgs& args);

Status run(Team& team, const ConvArgs& args);
Status run(Team& team, const ConvInputGradientArgs& args);
Status run(Team& team, const ConvWeightGradientArgs& args);
Status run(Team& team, const BatchNormArgs& args);
Status run(Team& team, const BatchNormGradientArgs& args);
Status run(Team& team, const MaxPoolArgs& args);
Status run(Team& team, const MaxPoolGradientArgs& args);
Status run(Team& team, const AveragePoolArgs& args);
Status run(Team& team, const AveragePoolGradientArgs& args);

// Floats of what PackArgs makes.
int64_t packedFloats(int64_t n, int64_t k, Precision precision);

}  // namespace clipcid
