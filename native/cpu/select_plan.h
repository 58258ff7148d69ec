// Chooses how a selection compares rows. Time depends on it, results do not.
#pragma once

#include "cpu/planner.h"

namespace clipcid {

struct SelectPlanArgs {
  const CpuPrepared* queries = nullptr;
  const CpuPrepared* keys = nullptr;
  int64_t count = 0;  // of queries that are asked for
  int64_t k = 1;
  bool euclidean = false;
};

// The filter that is expected to find the k best keys of the queries soonest, unless the context names one.
Status planSelect(const Context& context, const SelectPlanArgs& args, FilterPlan* out);

}  // namespace clipcid
