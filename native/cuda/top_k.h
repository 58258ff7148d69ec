// The k keys of highest score for each query.
#pragma once

#include "clipcid/backend.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Results do not depend on these; tests make them small to reach every path.
struct TopKLimits {
  int64_t queries = int64_t{1} << 16;  // that are worked on at a time
  int64_t capacity = 1024;             // of a query's list, at least
};
TopKLimits& topKLimits();

Status topKeys(Device& device, const Context& context, const TopKArgs& args);

}  // namespace clipcid::cuda
