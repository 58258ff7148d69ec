// The GPU's operations: one function for each argument struct of clipcid/ops.h, which queues it. Sizes and memory are checked
// before (core/program.h); pointers are to the device's memory.
#pragma once

#include "clipcid/ops.h"
#include "cuda/ops/work.h"

namespace clipcid::cuda {

Status run(const Work& work, const ChainArgs& args);
Status run(const Work& work, const ProductArgs& args);
Status run(const Work& work, const PackArgs& args);
Status run(const Work& work, const LayerNormArgs& args);
Status run(const Work& work, const LayerNormGradientArgs& args);
Status run(const Work& work, const AttentionArgs& args);
Status run(const Work& work, const AttentionGradientArgs& args);
Status run(const Work& work, const SoftmaxRowsArgs& args);
Status run(const Work& work, const SoftmaxRowsGradientArgs& args);
Status run(const Work& work, const ReduceArgs& args);
Status run(const Work& work, const ArgumentArgs& args);
Status run(const Work& work, const CopyArgs& args);
Status run(const Work& work, const FillArgs& args);
Status run(const Work& work, const GatherRowsArgs& args);
Status run(const Work& work, const ScatterRowsArgs& args);

Status run(const Work& work, const ConvArgs& args);
Status run(const Work& work, const ConvInputGradientArgs& args);
Status run(const Work& work, const ConvWeightGradientArgs& args);
Status run(const Work& work, const BatchNormArgs& args);
Status run(const Work& work, const BatchNormGradientArgs& args);
Status run(const Work& work, const MaxPoolArgs& args);
Status run(const Work& work, const MaxPoolGradientArgs& args);
Status run(const Work& work, const AveragePoolArgs& args);
Status run(const Work& work, const AveragePoolGradientArgs& args);

}  // namespace clipcid::cuda
