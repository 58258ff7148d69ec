// All pairs of rows over a threshold, and the sets they make.
#pragma once

#include "clipcid/backend.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Results do not depend on these; tests make them small to reach every path.
struct JoinLimits {
  int64_t capacity = 0;         // entries of a band's list, when not 0; at least what a tile can have
  int32_t bandTiles = 1 << 16;  // tiles of a band at most
};
JoinLimits& joinLimits();

Status joinPairs(Device& device, const Context& context, const JoinArgs& args);
Status joinSets(Device& device, const Context& context, const ComponentsArgs& args);

}  // namespace clipcid::cuda
