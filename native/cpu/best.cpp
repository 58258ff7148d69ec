// Best: the key of highest canonical score for each chosen query; search.cpp does it.
//
// In: queries [Q, D] (all, or `rows` of them), keys [K, D]. Out: an index for each, and where asked for its score.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/search.h"
#include "cpu/select_plan.h"

namespace clipcid {
namespace {

Status best(const Context& context, const BestArgs& args) {
  const CpuPrepared& queries = cpuPrepared(args.queries);
  const CpuPrepared& keys = cpuPrepared(args.keys);
  if (keys.rows < 1) return {Code::kInvalidArgument, "A selection among no keys"};
  const int64_t count = args.rows == nullptr ? queries.rows : args.count;
  FilterPlan plan;
  CLIPCID_TRY(planSelect(
      context, {.queries = &queries, .keys = &keys, .count = count, .euclidean = args.euclidean}, &plan));
  if (args.plan != nullptr) *args.plan = plan.text();
  std::vector<Found> found(static_cast<size_t>(count));
  for (int64_t at = 0; args.above != nullptr && at < count; ++at)
    found[static_cast<size_t>(at)].score = args.above[at];
  Dots dots(queries, keys, std::max(context.threads, 1));
  CLIPCID_TRY(search(context, {.queries = &queries,
                               .keys = &keys,
                               .euclidean = args.euclidean,
                               .rows = args.rows,
                               .count = count,
                               .plan = &plan,
                               .dots = &dots,
                               .found = found.data()}));
  constexpr int64_t kRange = 256;
  return parallelTry(context, (count + kRange - 1) / kRange, [&](int64_t range, int worker) -> Status {
    for (int64_t at = range * kRange; at < std::min((range + 1) * kRange, count); ++at) {
      Found& own = found[static_cast<size_t>(at)];
      if (own.index < 0 && args.above == nullptr)
        return {Code::kInvalidData, "Rows changed while they were compared"};
      args.indices[at] = own.index;
      if (args.scores == nullptr) continue;
      const int64_t query = args.rows == nullptr ? at : args.rows[at];
      CLIPCID_TRY(decide(&dots, args.euclidean, query, worker, &own));
      args.scores[at] = own.score;
    }
    return {};
  });
}

}  // namespace

Status CpuBackend::best(const Context& context, const BestArgs& args) {
  return guarded([&] { return clipcid::best(context, args); });
}

}  // namespace clipcid
