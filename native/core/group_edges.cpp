// In: unit rows, groups, threshold. Out: the number of pairs over it.
//
// Members, group by group, are cut into blocks; a block is joined with itself and with those after it that begin in its
// last group. Where this would take half the work of joining all rows, that is done. Best measured: not yet measured.
#include "core/group_edges.h"

#include <algorithm>
#include <atomic>

#include "core/aligned.h"
#include "core/phases.h"

namespace clipcid {
namespace {

constexpr int64_t kBlock = 4096;

struct Gathered {
  AlignedArray<float> data;
  std::unique_ptr<Prepared> rows;
};

Status gatherBlock(Backend& backend, const Context& context, const Prepared& rows, const Groups& groups,
                   int64_t block, Gathered* out) {
  const int64_t begin = block * kBlock;
  const int64_t count = std::min(kBlock, static_cast<int64_t>(groups.members.size()) - begin);
  const std::vector<int64_t> indices(groups.members.begin() + begin, groups.members.begin() + begin + count);
  out->data = AlignedArray<float>(count * rows.dim);
  CLIPCID_TRY(backend.gather(
      context, {.rows = &rows, .indices = indices.data(), .count = count, .out = out->data.get()}));
  CLIPCID_TRY(backend.synchronise(context));
  return backend.prepare(context, {.rows = Rows(floatView(out->data.get(), count, rows.dim))}, &out->rows);
}

}  // namespace

Status countEdges(Backend& backend, const Context& context, const Prepared& rows, const Groups& groups,
                  double threshold, int64_t* edges) {
  *edges = 0;
  const auto members = static_cast<int64_t>(groups.members.size());
  const int64_t blocks = (members + kBlock - 1) / kBlock;
  const auto lastOf = [&](int64_t block) {  // the last block that shares a group with this one
    const int64_t end = std::min((block + 1) * kBlock, members);
    const int32_t group = groups.segments[static_cast<size_t>(end - 1)];
    return (groups.starts[static_cast<size_t>(group) + 1] - 1) / kBlock;
  };
  double work = 0;
  for (int64_t block = 0; block < blocks; ++block) work += 0.5 + static_cast<double>(lastOf(block) - block);
  const auto count = static_cast<double>(rows.rows);

  std::atomic<int64_t> found{0};
  const auto sink = [&](const Pair*, const double*, size_t number) -> Status {
    found.fetch_add(static_cast<int64_t>(number), std::memory_order_relaxed);
    return {};
  };
  const auto join = [&](const Context& phase, const Prepared& queries, const Prepared& keys) {
    return backend.join(
        phase,
        {.queries = &queries, .keys = &keys, .threshold = threshold, .concurrent = true, .sink = sink});
  };
  if (work * static_cast<double>(kBlock * kBlock) > count * count / 4) {
    CLIPCID_TRY(join(context, rows, rows));
  } else {
    Phases phases(context, work);
    for (int64_t block = 0; block < blocks; ++block) {
      Gathered own;
      CLIPCID_TRY(gatherBlock(backend, context, rows, groups, block, &own));
      CLIPCID_TRY(join(phases.next(0.5), *own.rows, *own.rows));
      for (int64_t other = block + 1; other <= lastOf(block); ++other) {
        Gathered keys;
        CLIPCID_TRY(gatherBlock(backend, context, rows, groups, other, &keys));
        CLIPCID_TRY(join(phases.next(1), *own.rows, *keys.rows));
      }
    }
  }
  CLIPCID_TRY(backend.synchronise(context));
  *edges = found.load();
  return {};
}

}  // namespace clipcid
