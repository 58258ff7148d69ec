// The softmax primitives, and the terms of the loss, on a GPU for rows of the host (clipcid/backend.h).
#pragma once

#include "clipcid/backend.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

Status softmaxOver(Device& device, const Context& context, const SoftmaxArgs& args);
Status softmaxGradientOver(Device& device, const Context& context, const SoftmaxGradientArgs& args);
Status contrastOf(Device& device, const Context& context, const ContrastArgs& args);
Status distilOf(Device& device, const Context& context, const DistilArgs& args);

}  // namespace clipcid::cuda
