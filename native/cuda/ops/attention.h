// Attention, either way.
#pragma once

#include "clipcid/ops.h"
#include "cuda/ops/work.h"

namespace clipcid::cuda {

// With the scores in memory.
Status attentionApart(const Work& work, const AttentionArgs& args);
Status attentionApart(const Work& work, const AttentionGradientArgs& args);

}  // namespace clipcid::cuda
