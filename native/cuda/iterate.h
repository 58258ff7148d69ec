// K-means on the device from the first iteration to the last.
#pragma once

#include "clipcid/backend.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Whether there is room for it.
bool canIterate(Device& device, const Context& context, int64_t batch, int64_t rows, int64_t dim,
                int64_t clusters);

Status iterate(Device& device, const Context& context, const IterateArgs& args);

}  // namespace clipcid::cuda
