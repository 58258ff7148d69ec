// The key of highest score for each query.
#pragma once

#include "clipcid/backend.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

Status bestKeys(Device& device, const Context& context, const BestArgs& args);

}  // namespace clipcid::cuda
