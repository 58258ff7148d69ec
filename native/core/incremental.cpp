#include "core/incremental.h"

#include <algorithm>
#include <limits>

#include "core/parallel.h"
#include "core/phases.h"

namespace clipcid {
namespace {

// What is known of the links of each new row.
class Links {
 public:
  Links(const IncrementalArgs& args, int64_t count)
      : args_(args),
        best_(static_cast<size_t>(count), -std::numeric_limits<double>::infinity()),
        group_(static_cast<size_t>(count), 0),
        bridge_(static_cast<size_t>(count), 0) {
    std::fill(args.duplicateOf, args.duplicateOf + count, -1);
    std::fill(args.similarity, args.similarity + count, 0.0f);
  }

  void add(int32_t row, int32_t stored, double dot) {
    const auto at = static_cast<size_t>(row);
    const int32_t group = args_.groups == nullptr ? stored : args_.groups[stored];
    int32_t& of = args_.duplicateOf[row];
    if (of < 0) {
      group_[at] = group;
    } else if (group != group_[at]) {
      bridge_[at] = 1;
    }
    if (dot < best_[at] || (dot == best_[at] && stored > of)) return;
    best_[at] = dot;
    of = stored;
    args_.similarity[row] = static_cast<float>(dot);
  }

  bool bridge(int64_t row) const { return bridge_[static_cast<size_t>(row)] != 0; }

 private:
  const IncrementalArgs& args_;
  std::vector<double> best_;
  std::vector<int32_t> group_;  // of one of a row's links
  std::vector<uint8_t> bridge_;
};

Status link(Backend& backend, const Context& context, const IncrementalArgs& args,
            IncrementalResult* result) {
  const int64_t count = args.balance.rows.count();
  Links links(args, count);
  std::unique_ptr<Prepared> rows, stored;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.balance.rows, .unit = true}, &rows));
  CLIPCID_TRY(backend.prepare(context, {.rows = args.stored, .unit = true}, &stored));
  result->storedFaults.assign(stored->faults.begin(), stored->faults.end());
  const auto add = [&](const Pair* pairs, const double* dots, size_t number) -> Status {
    result->links += static_cast<int64_t>(number);
    for (size_t at = 0; at < number; ++at) links.add(pairs[at].first, pairs[at].second, dots[at]);
    return {};
  };
  CLIPCID_TRY(backend.join(context, {.queries = rows.get(),
                                     .keys = stored.get(),
                                     .threshold = args.balance.threshold,
                                     .dots = true,
                                     .sink = add}));
  CLIPCID_TRY(backend.synchronise(context));
  for (int64_t i = 0; i < count; ++i) {
    result->duplicates += args.duplicateOf[i] >= 0;
    if (links.bridge(i)) result->bridges.push_back(static_cast<int32_t>(i));
  }
  return {};
}

Status run(Backend& backend, const Context& context, const IncrementalArgs& args, IncrementalResult* result) {
  const int64_t count = args.balance.rows.count();
  const auto pairs = static_cast<double>(count) * static_cast<double>(args.stored.count());
  const double own = static_cast<double>(count) * static_cast<double>(count) / 2;
  Phases phases(context, pairs + own);
  const Context first = phases.next(pairs);
  if (args.stored.count() > 0) {
    CLIPCID_TRY(link(backend, first, args, result));
  } else {
    std::fill(args.duplicateOf, args.duplicateOf + count, -1);
    std::fill(args.similarity, args.similarity + count, 0.0f);
  }

  std::vector<uint8_t> skip(static_cast<size_t>(count), 0);
  for (int64_t i = 0; i < count; ++i) skip[static_cast<size_t>(i)] = args.duplicateOf[i] >= 0;
  BalanceArgs rest = args.balance;
  rest.skip = skip.data();
  const Context second = phases.next(own);
  CLIPCID_TRY(balance(backend, second, rest, &result->balance));
  result->balance.groups -= result->duplicates;
  for (int64_t i = 0; i < count; ++i) {
    if (skip[static_cast<size_t>(i)] == 0) continue;
    args.balance.labels[i] = -1;
    args.balance.keep[i] = 0;
    args.balance.centrality[i] = 0;
  }
  return {};
}

}  // namespace

Status balanceAgainst(Backend& backend, const Context& context, const IncrementalArgs& args,
                      IncrementalResult* result) {
  *result = {};
  if (args.balance.rows.count() == 0) return {};
  if (args.stored.count() > 0 && args.stored.dim() != args.balance.rows.dim()) {
    return {Code::kInvalidArgument, "Expected rows and stored rows of one width"};
  }
  return guarded([&] { return run(backend, context, args, result); });
}

}  // namespace clipcid
