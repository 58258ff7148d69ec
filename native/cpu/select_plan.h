// Chooses how a selection compares rows. Time depends on it, results do not.
#pragma once

#include "cpu/planner.h"

namespace clipcid {

// The filter that is expected to find the best key of `count` queries soonest, unless the context names one.
Status planBest(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, int64_t count,
                FilterPlan* out);
// The same for the k best.
Status planTopK(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, int64_t count,
                int64_t k, FilterPlan* out);

}  // namespace clipcid
