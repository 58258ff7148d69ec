// Components: sets of rows that pairs over a threshold connect.
//
// In: prepared rows [N, D]. Out: labels [N], and how many pairs there are. The join's pairs are united as they come, by all
// threads at once; what results is the same in any order.
#include <atomic>

#include "core/parallel.h"
#include "core/union_find.h"
#include "cpu/backend.h"

namespace clipcid {

Status CpuBackend::components(const Context& context, const ComponentsArgs& args) {
  return guarded([&]() -> Status {
    UnionFind sets(args.rows->rows);
    std::atomic<int64_t> edges{0};
    const auto unite = [&](const Pair* pairs, const double*, size_t count) -> Status {
      int64_t here = 0;
      for (size_t at = 0; at < count; ++at) {
        if (args.skip != nullptr && (args.skip[pairs[at].first] != 0 || args.skip[pairs[at].second] != 0))
          continue;
        sets.unite(pairs[at].first, pairs[at].second);
        ++here;
      }
      edges.fetch_add(here, std::memory_order_relaxed);
      return {};
    };
    CLIPCID_TRY(join(context, {.queries = args.rows,
                               .keys = args.rows,
                               .threshold = args.threshold,
                               .concurrent = true,
                               .sink = unite,
                               .plan = args.plan}));
    for (int64_t i = 0; i < args.rows->rows; ++i) args.labels[i] = sets.find(static_cast<int32_t>(i));
    *args.edges = edges.load();
    return {};
  });
}

}  // namespace clipcid
