#include "core/balance.h"

#include <algorithm>
#include <atomic>

#include "core/diameter.h"
#include "core/group_edges.h"
#include "core/groups.h"
#include "core/parallel.h"
#include "core/span.h"
#include "core/union_find.h"

namespace clipcid {
namespace {

using PairSink = std::function<Status(const Pair* pairs, const double* dots, size_t count)>;

// Hands on the pairs without a skipped row.
PairSink withoutSkipped(const uint8_t* skip, PairSink sink) {
  if (skip == nullptr) return sink;
  return [skip, sink = std::move(sink)](const Pair* pairs, const double* dots, size_t count) -> Status {
    std::vector<Pair> left;
    std::vector<double> leftDots;
    for (size_t at = 0; at < count; ++at) {
      if (skip[pairs[at].first] != 0 || skip[pairs[at].second] != 0) continue;
      left.push_back(pairs[at]);
      if (dots != nullptr) leftDots.push_back(dots[at]);
    }
    return sink(left.data(), dots == nullptr ? nullptr : leftDots.data(), left.size());
  };
}

constexpr double kNoLeast = -2;  // scores are cosines, rounding included

Status balanceRows(Backend& backend, const Context& context, const BalanceArgs& args, BalanceResult* result) {
  const int64_t count = args.rows.count();
  std::unique_ptr<Prepared> rows;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.rows, .unit = true, .squares = false}, &rows));
  const bool inFile = std::any_of(args.rows.chunks.begin(), args.rows.chunks.end(),
                                  [](const Chunk& chunk) { return chunk.inFile(); });
  const bool split = args.leastScore > kNoLeast;

  std::vector<Edge> own;
  const std::vector<Edge>* forest = args.forest;
  if (forest == nullptr && !split) {
    CLIPCID_TRY(backend.components(context, {.rows = rows.get(),
                                             .threshold = args.threshold,
                                             .skip = args.skip,
                                             .labels = args.labels,
                                             .edges = &result->edges,
                                             .plan = &result->plan}));
    CLIPCID_TRY(backend.synchronise(context));
  } else if (forest == nullptr) {
    std::atomic<int64_t> edges{0};
    ForestBuilder builder(count, context.threads);
    const auto collect = [&](const Pair* pairs, const double* dots, size_t number) -> Status {
      edges.fetch_add(static_cast<int64_t>(number), std::memory_order_relaxed);
      builder.add(pairs, dots, number);
      return {};
    };
    CLIPCID_TRY(backend.join(context, {.queries = rows.get(),
                                       .keys = rows.get(),
                                       .threshold = args.threshold,
                                       .dots = true,
                                       .concurrent = true,
                                       .sink = withoutSkipped(args.skip, collect),
                                       .plan = &result->plan}));
    CLIPCID_TRY(backend.synchronise(context));
    own = builder.finish();
    forest = &own;
    result->edges = edges.load();
  }
  if (forest != nullptr) {
    UnionFind sets(count);
    for (const Edge& edge : *forest) {
      if (!(edge.dot > args.threshold)) break;
      if (!sets.unite(edge.first, edge.second))
        return {Code::kInvalidArgument, "The edges given are not those of a forest"};
    }
    for (int64_t i = 0; i < count; ++i) args.labels[i] = sets.find(static_cast<int32_t>(i));
  }
  if (args.forest != nullptr) {
    const Groups groups = groupsOf(args.labels, count);
    CLIPCID_TRY(countEdges(backend, context, *rows, groups, args.threshold, &result->edges));
  }
  if (split) {
    CLIPCID_TRY(
        splitWide(backend, context, *rows, inFile, *forest, args.threshold, args.leastScore, args.labels));
  }

  const Groups groups = groupsOf(args.labels, count);
  std::vector<double> scores(groups.members.size());
  CLIPCID_TRY(groupScores(backend, context, *rows, groups, inFile, scores.data()));
  keepRows(*rows, groups, args.keepPolicy, scores.data(), args.keep, args.centrality);
  result->groups = groups.alone + groups.count();
  result->faults.assign(rows->faults.begin(), rows->faults.end());
  return {};
}

}  // namespace

Status balance(Backend& backend, const Context& context, const BalanceArgs& args, BalanceResult* result) {
  *result = {};
  if (args.rows.count() == 0) return {};
  return guarded([&] { return balanceRows(backend, context, args, result); });
}

}  // namespace clipcid
