#include "core/balance.h"

#include <algorithm>
#include <limits>

#include "clipcid/canonical.h"
#include "core/union_find.h"

namespace clipcid {
namespace {

// Groups of two or more are worked through so many at a time that their sums stay within this.
constexpr int64_t kSumBytes = int64_t{64} << 20;

struct Member {
  int64_t row;
  int32_t segment;
};

// The central rows of groups, given as members sorted by row; `sizes` and `smallest` are by segment.
Status chooseCentral(Backend& backend, const Context& context, const Prepared& rows,
                     const std::vector<Member>& members, const std::vector<int64_t>& sizes,
                     const BalanceArgs& args) {
  const auto segmentCount = static_cast<int64_t>(sizes.size());
  const auto count = static_cast<int64_t>(members.size());
  std::vector<int64_t> indices(members.size());
  std::vector<int32_t> segments(members.size());
  std::vector<Pair> pairs(members.size());
  for (size_t at = 0; at < members.size(); ++at) {
    indices[at] = members[at].row;
    segments[at] = members[at].segment;
    pairs[at] = {static_cast<int32_t>(members[at].row), members[at].segment};
  }

  const double scale = fixedScale(1, rows.rows);
  std::vector<int64_t> sums(static_cast<size_t>(segmentCount * rows.dim));
  CLIPCID_TRY(backend.segmentSum(context, {.rows = &rows,
                                           .indices = indices.data(),
                                           .count = count,
                                           .segments = segments.data(),
                                           .segmentCount = segmentCount,
                                           .scale = scale,
                                           .sums = sums.data()}));
  std::vector<float> means(sums.size());
  for (size_t at = 0; at < sums.size(); ++at) {
    means[at] = fixedMean(sums[at], scale, sizes[at / static_cast<size_t>(rows.dim)]);
  }
  std::unique_ptr<Prepared> centres;
  CLIPCID_TRY(backend.prepare(
      context,
      {.rows = Rows(floatView(means.data(), segmentCount, rows.dim)), .unit = true, .squares = false},
      &centres));
  std::vector<double> scores(members.size());
  CLIPCID_TRY(backend.pairDots(context, {.queries = &rows,
                                         .keys = centres.get(),
                                         .pairs = pairs.data(),
                                         .count = count,
                                         .dots = scores.data()}));

  std::vector<double> best(sizes.size(), -std::numeric_limits<double>::infinity());
  std::vector<int64_t> central(sizes.size(), 0);
  for (size_t at = 0; at < members.size(); ++at) {
    const auto segment = static_cast<size_t>(members[at].segment);
    args.centrality[members[at].row] = static_cast<float>(scores[at]);
    const bool first = best[segment] == -std::numeric_limits<double>::infinity();
    // Members come in ascending order, so only a higher score, never an equal one, takes over.
    if (first || (sizes[segment] > 2 && scores[at] > best[segment])) {
      best[segment] = scores[at];
      central[segment] = members[at].row;
    }
  }
  for (const int64_t row : central) args.keep[row] = 1;
  return {};
}

}  // namespace

Status balance(Backend& backend, const Context& context, const BalanceArgs& args, BalanceResult* result) {
  *result = {};
  const int64_t count = args.rows.count();
  if (count == 0) return {};
  std::unique_ptr<Prepared> rows;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.rows, .unit = true, .squares = false}, &rows));

  UnionFind sets(count);
  const auto unite = [&](const Pair* pairs, const double*, size_t number) -> Status {
    result->edges += static_cast<int64_t>(number);
    for (size_t at = 0; at < number; ++at) sets.unite(pairs[at].first, pairs[at].second);
    return {};
  };
  CLIPCID_TRY(backend.join(
      context, {.queries = rows.get(), .keys = rows.get(), .threshold = args.threshold, .sink = unite}));
  CLIPCID_TRY(backend.synchronise(context));

  std::vector<int64_t> sizes(static_cast<size_t>(count), 0);  // by label
  for (int64_t i = 0; i < count; ++i) {
    args.labels[i] = sets.find(static_cast<int32_t>(i));
    ++sizes[static_cast<size_t>(args.labels[i])];
    args.keep[i] = 0;
  }
  for (int64_t i = 0; i < count; ++i) {
    result->groups += args.labels[i] == i;
    if (sizes[static_cast<size_t>(args.labels[i])] > 1) continue;
    args.keep[i] = 1;
    args.centrality[i] = 1;
  }
  for (const int64_t fault : rows->faults) {
    args.centrality[fault] = 0;
    result->faults.push_back(static_cast<int32_t>(fault));
  }

  // Labels ascend with their group's first member, so one walk over the labels cuts the groups into runs; a
  // second walk over the rows collects the members of one run.
  const int64_t most = std::max<int64_t>(kSumBytes / (8 * rows->dim), 1);
  std::vector<int32_t> segmentOf(static_cast<size_t>(count), -1);  // by label
  for (int64_t from = 0; from < count;) {
    std::vector<int64_t> runSizes;
    int64_t to = from;
    for (; to < count && static_cast<int64_t>(runSizes.size()) < most; ++to) {
      const auto label = static_cast<size_t>(to);
      if (sizes[label] < 2) continue;
      segmentOf[label] = static_cast<int32_t>(runSizes.size());
      runSizes.push_back(sizes[label]);
    }
    std::vector<Member> members;
    for (int64_t i = from; i < count; ++i) {
      const int32_t label = args.labels[i];
      if (label >= from && label < to && sizes[static_cast<size_t>(label)] > 1) {
        members.push_back({i, segmentOf[static_cast<size_t>(label)]});
      }
    }
    if (!members.empty()) CLIPCID_TRY(chooseCentral(backend, context, *rows, members, runSizes, args));
    from = to;
  }
  return backend.synchronise(context);
}

}  // namespace clipcid
