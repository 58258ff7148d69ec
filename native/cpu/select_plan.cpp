#include "cpu/select_plan.h"

namespace clipcid {

Status planTopK(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, int64_t, int64_t,
                FilterPlan* out) {
  return planFilter(context, queries, keys, context.filter, out);
}

Status planBest(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, int64_t count,
                FilterPlan* out) {
  return planTopK(context, queries, keys, count, 1, out);
}

}  // namespace clipcid
