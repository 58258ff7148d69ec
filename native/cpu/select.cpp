// Best and topK: the keys of highest canonical score for each query.
//
// Each query has a list of at most k decided keys, by descending canonical score and then ascending index. Of
// a strip, only keys whose float32 score is within the bound of entering the list (and, for k = 1, within
// twice the bound of the strip's best) are decided: their canonical score is computed on the spot, and they
// enter the list or not. The order (score, index) is total, so neither the order of strips nor how the keys
// were cut into parts can matter. Nothing is buffered, so a hostile input costs time but no memory.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/sweep.h"

namespace clipcid {
namespace {

struct Found {
  double score = -std::numeric_limits<double>::infinity();
  int32_t index = std::numeric_limits<int32_t>::max();

  bool before(const Found& other) const {
    return score > other.score || (score == other.score && index < other.index);
  }
};

// list[0 .. k - 1] is sorted; places that are still open hold the worst value there is.
void insert(Found* list, int64_t k, const Found& entry) {
  if (!entry.before(list[k - 1])) return;
  int64_t place = k - 1;
  for (; place > 0 && entry.before(list[place - 1]); --place) list[place] = list[place - 1];
  list[place] = entry;
}

struct Select {
  const CpuPrepared& queries;
  const CpuPrepared& keys;
  int64_t k;
  bool euclidean;
  std::vector<float> halfSquares{};  // [keys], euclidean only
  std::vector<Found> lists{};        // [queries, k]
  std::vector<Found> partLists{};    // [parts, queries of the block, k], when there are several parts
  int64_t parts = 1;

  Found* listOf(const Strip& strip, int64_t query) {
    if (parts == 1) return lists.data() + query * k;
    return partLists.data() + (strip.part * strip.queries->count + query - strip.queries->begin) * k;
  }

  void visitRow(const Strip& strip, int r, double keyNorm) {
    const Kernels& kernel = kernels();
    const int64_t i = strip.query + r;
    Found* list = listOf(strip, i);
    float* scores = strip.scores + r * strip.stride;
    const double queryNorm = queries.normBound(i);
    double bound = dotBound(queries.dim, queryNorm, keyNorm);
    if (euclidean) {
      const float* half = halfSquares.data() + strip.key;
      for (int64_t j = 0; j < strip.columns; ++j) scores[j] -= half[j];
      // Rounding of the halved square to float32 and of the subtraction.
      bound += std::ldexp(queryNorm * keyNorm + 2 * keyNorm * keyNorm, -23);
      if (!(keyNorm * keyNorm < 1e37)) bound = std::numeric_limits<double>::infinity();
    }
    double enter = list[k - 1].score - bound;
    if (k == 1 && std::isfinite(bound)) {
      const double best = static_cast<double>(kernel.largest(scores, strip.columns));
      if (best < enter) return;
      enter = std::max(enter, best - 2 * bound);
    }
    int32_t positions[kMostStrip];
    const int64_t found = kernel.notBelow(scores, strip.columns, roundDown(enter), positions);
    for (int64_t f = 0; f < found; ++f) {
      const int64_t j = strip.key + positions[f];
      // The list may have filled since.
      if (static_cast<double>(scores[positions[f]]) + bound < list[k - 1].score) continue;
      double score = kernel.dot(strip.queries->row(i), strip.keys->row(j), queries.dim);
      if (euclidean) score -= keys.squares[static_cast<size_t>(j)] / 2;
      insert(list, k, {score, static_cast<int32_t>(j)});
    }
  }

  Status run(const Context& context) {
    if (euclidean) {
      halfSquares.resize(keys.squares.size());
      for (size_t j = 0; j < halfSquares.size(); ++j)
        halfSquares[j] = static_cast<float>(keys.squares[j] / 2);
    }
    lists.assign(static_cast<size_t>(queries.rows * k), Found{});
    Sweep pass;
    pass.queries = &queries;
    pass.keys = &keys;
    pass.begin = [&](const Block& block, int64_t count) {
      parts = count;
      if (parts > 1) partLists.assign(static_cast<size_t>(parts * block.count * k), Found{});
    };
    pass.end = [&](const Block& block, int64_t) {
      if (parts == 1) return;
      for (int64_t at = 0; at < parts * block.count * k; ++at) {
        const int64_t query = block.begin + at / k % block.count;
        insert(lists.data() + query * k, k, partLists[static_cast<size_t>(at)]);
      }
    };
    pass.visit = [&](const Strip& strip, int) -> Status {
      const double keyNorm = keys.normBound(strip.key, strip.key + strip.columns);
      for (int r = 0; r < strip.rows; ++r) visitRow(strip, r, keyNorm);
      return {};
    };
    return sweep(context, pass);
  }
};

Status select(const Context& context, Select* selection, int32_t* indices, double* scores) {
  if (selection->k < 1 || selection->k > selection->keys.rows)
    return {Code::kInvalidArgument, "k is not in the number of keys"};
  CLIPCID_TRY(selection->run(context));
  for (size_t at = 0; at < selection->lists.size(); ++at) {
    indices[at] = selection->lists[at].index;
    scores[at] = selection->lists[at].score;
  }
  return {};
}

}  // namespace

Status CpuBackend::best(const Context& context, const BestArgs& args) {
  Select selection{cpuPrepared(args.queries), cpuPrepared(args.keys), 1, args.euclidean};
  return guarded([&] { return select(context, &selection, args.indices, args.scores); });
}

Status CpuBackend::topK(const Context& context, const TopKArgs& args) {
  Select selection{cpuPrepared(args.queries), cpuPrepared(args.keys), args.k, false};
  return guarded([&] { return select(context, &selection, args.indices, args.scores); });
}

}  // namespace clipcid
