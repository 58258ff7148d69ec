// Convolutions of one channel each.
#pragma once

#include "clipcid/ops.h"
#include "cuda/ops/work.h"

namespace clipcid::cuda {

Status depthwiseForward(const Work& work, const ConvArgs& args);
Status depthwiseInput(const Work& work, const ConvInputGradientArgs& args);
Status depthwiseWeights(const Work& work, const ConvWeightGradientArgs& args);

}  // namespace clipcid::cuda
