// Groups of rows.
//
// In: labels [N], unit rows [N, D]. Out: scores of the members of groups of two and more, float64.
//
// Means are sums of fixed point, so groups are worked through so many at a time that their sums stay within a bound, and
// a run reads its own members only: twice from memory; from a file once, into a buffer that serves both the sums and the
// scores. Best measured: not yet measured.
#include "core/groups.h"

#include <algorithm>
#include <limits>

#include "clipcid/canonical.h"
#include "core/aligned.h"
#include "core/parallel.h"

namespace clipcid {
namespace {

// Sums of rows in memory stay in the cache; those of a file should not be read in too many runs.
constexpr int64_t kSumBytes = int64_t{8} << 20, kSumBytesOfFile = int64_t{64} << 20;
// Rows of a file are collected up to this.
constexpr int64_t kRowBytes = int64_t{64} << 20;

// A run of members in ascending order of rows.
struct Run {
  std::vector<int64_t> places;    // places of the members in Groups::members
  std::vector<int64_t> rows;      // their rows
  std::vector<int32_t> segments;  // their groups, counted from the run's first
  std::vector<int64_t> sizes;     // of the groups
};

Run runOf(const Groups& groups, int64_t from, int64_t to) {
  Run run;
  const int64_t begin = groups.starts[static_cast<size_t>(from)];
  const auto count = static_cast<size_t>(groups.starts[static_cast<size_t>(to)] - begin);
  for (int64_t group = from; group < to; ++group) run.sizes.push_back(groups.size(group));
  run.places.resize(count);
  for (size_t at = 0; at < count; ++at) run.places[at] = begin + static_cast<int64_t>(at);
  const auto rowOf = [&](int64_t place) { return groups.members[static_cast<size_t>(place)]; };
  std::sort(run.places.begin(), run.places.end(), [&](int64_t a, int64_t b) { return rowOf(a) < rowOf(b); });
  run.rows.resize(count);
  run.segments.resize(count);
  for (size_t at = 0; at < count; ++at) {
    const int64_t place = run.places[at];
    run.rows[at] = rowOf(place);
    run.segments[at] = groups.segments[static_cast<size_t>(place)] - static_cast<int32_t>(from);
  }
  return run;
}

// `indices` are the members' rows in `rows`, ascending.
Status runScores(Backend& backend, const Context& context, const Prepared& rows, double scale, const Run& run,
                 const std::vector<int64_t>& indices, double* scores) {
  const auto segmentCount = static_cast<int64_t>(run.sizes.size());
  const auto count = static_cast<int64_t>(indices.size());
  AlignedArray<float> means(segmentCount * rows.dim);
  {
    AlignedArray<int64_t> sums(segmentCount * rows.dim);
    CLIPCID_TRY(backend.segmentSum(context, {.rows = &rows,
                                             .indices = indices.data(),
                                             .count = count,
                                             .segments = run.segments.data(),
                                             .segmentCount = segmentCount,
                                             .scale = scale,
                                             .sums = sums.get()}));
    CLIPCID_TRY(backend.synchronise(context));
    constexpr int64_t kRange = 64;
    CLIPCID_TRY(parallelTry(context, (segmentCount + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      const int64_t end = std::min((range + 1) * kRange, segmentCount);
      for (int64_t segment = range * kRange; segment < end; ++segment) {
        const int64_t size = run.sizes[static_cast<size_t>(segment)];
        for (int64_t at = segment * rows.dim; at < (segment + 1) * rows.dim; ++at)
          means.get()[at] = fixedMean(sums.get()[at], scale, size);
      }
      return {};
    }));
  }
  std::unique_ptr<Prepared> centres;
  CLIPCID_TRY(backend.prepare(
      context, {.rows = Rows(floatView(means.get(), segmentCount, rows.dim)), .unit = true, .squares = false},
      &centres));
  std::vector<Pair> pairs(indices.size());
  for (size_t at = 0; at < pairs.size(); ++at)
    pairs[at] = {static_cast<int32_t>(indices[at]), run.segments[at]};
  std::vector<double> dots(indices.size());
  CLIPCID_TRY(backend.pairDots(
      context,
      {.queries = &rows, .keys = centres.get(), .pairs = pairs.data(), .count = count, .dots = dots.data()}));
  CLIPCID_TRY(backend.synchronise(context));
  for (size_t at = 0; at < dots.size(); ++at) scores[run.places[at]] = dots[at];
  return {};
}

// The run's rows are collected from their file first.
Status collectedScores(Backend& backend, const Context& context, const Prepared& rows, double scale,
                       const Run& run, double* scores) {
  const auto count = static_cast<int64_t>(run.rows.size());
  AlignedArray<float> collected(count * rows.dim);
  CLIPCID_TRY(backend.gather(
      context, {.rows = &rows, .indices = run.rows.data(), .count = count, .out = collected.get()}));
  CLIPCID_TRY(backend.synchronise(context));
  // Rows as compared already: taken as they are.
  std::unique_ptr<Prepared> prepared;
  CLIPCID_TRY(
      backend.prepare(context, {.rows = Rows(floatView(collected.get(), count, rows.dim))}, &prepared));
  std::vector<int64_t> indices(run.rows.size());
  for (size_t at = 0; at < indices.size(); ++at) indices[at] = static_cast<int64_t>(at);
  return runScores(backend, context, *prepared, scale, run, indices, scores);
}

}  // namespace

Groups groupsOf(const int32_t* labels, int64_t count) {
  Groups groups;
  std::vector<int32_t> sizes(static_cast<size_t>(count), 0);  // by label
  for (int64_t i = 0; i < count; ++i) ++sizes[static_cast<size_t>(labels[i])];
  // From here on: the group of a label, or -1.
  groups.starts.push_back(0);
  for (int32_t& size : sizes) {
    groups.alone += size == 1;
    if (size < 2) {
      size = -1;
      continue;
    }
    groups.starts.push_back(groups.starts.back() + size);
    size = static_cast<int32_t>(groups.starts.size()) - 2;
  }
  const auto members = static_cast<size_t>(groups.starts.back());
  groups.members.resize(members);
  groups.segments.resize(members);
  std::vector<int64_t> next(groups.starts.begin(), groups.starts.end() - 1);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t group = sizes[static_cast<size_t>(labels[i])];
    if (group < 0) continue;
    const auto place = static_cast<size_t>(next[static_cast<size_t>(group)]++);
    groups.members[place] = static_cast<int32_t>(i);
    groups.segments[place] = group;
  }
  return groups;
}

Status groupScores(Backend& backend, const Context& context, const Prepared& rows, const Groups& groups,
                   bool inFile, double* scores) {
  const double scale = fixedScale(1, rows.rows);
  const int64_t mostGroups = std::max<int64_t>((inFile ? kSumBytesOfFile : kSumBytes) / (8 * rows.dim), 1);
  const int64_t mostRows = inFile ? kRowBytes / (4 * rows.dim) : std::numeric_limits<int64_t>::max();
  for (int64_t from = 0; from < groups.count();) {
    const int64_t begin = groups.starts[static_cast<size_t>(from)];
    int64_t to = from + 1;
    while (to < groups.count() && to - from < mostGroups &&
           groups.starts[static_cast<size_t>(to) + 1] - begin <= mostRows)
      ++to;
    const Run run = runOf(groups, from, to);
    if (inFile && static_cast<int64_t>(run.rows.size()) <= mostRows) {
      CLIPCID_TRY(collectedScores(backend, context, rows, scale, run, scores));
    } else {
      CLIPCID_TRY(runScores(backend, context, rows, scale, run, run.rows, scores));
    }
    from = to;
  }
  return {};
}

void keepRows(const Prepared& rows, const Groups& groups, const KeepPolicy& policy, const double* scores,
              uint8_t* keep, float* centrality) {
  std::fill(keep, keep + rows.rows, uint8_t{1});
  std::fill(centrality, centrality + rows.rows, 1.0f);
  for (const int64_t fault : rows.faults) centrality[fault] = 0;
  for (int64_t group = 0; group < groups.count(); ++group) {
    const int64_t size = groups.size(group);
    const int32_t* members = groups.of(group);
    const double* own = scores + groups.starts[static_cast<size_t>(group)];
    int32_t kept = -1;
    uint64_t best = 0;
    for (int64_t at = 0; at < size; ++at) {
      const int32_t row = members[at];
      keep[row] = 0;
      centrality[row] = static_cast<float>(own[at]);
      // Members ascend, so only a higher rank, never an equal one, takes over.
      const uint64_t rank = keepRank(policy, size, row, own[at]);
      if (kept >= 0 && rank <= best) continue;
      kept = row;
      best = rank;
    }
    keep[kept] = 1;
  }
}

}  // namespace clipcid
