// The mainloop: scores of encoded queries with encoded keys, strip by strip. What is done with a strip is the
// caller's; nothing larger is ever stored, and of a strip only the tiles that reach a limit.
//
//   FilterPlan plan;                    // planner.h: which filter, on what encodings
//   Sweep pass{.plan = &plan, .queries = &q, .keys = &k, ...};
//   pass.limit = ...                    // below which score does nothing matter? asked before a strip is computed
//   pass.visit = ...                    // called when something reached it
//   CLIPCID_TRY(sweep(context, pass));
//
// A score says: the dot is within plan.bound(errors and lengths of both) of it; or, of a plan that is `oneSided`,
// at most that much above it. Decisions are the visitor's, on canonical dots where the bound leaves it open.
#pragma once

#include <functional>

#include "cpu/encoding.h"
#include "cpu/prepared.h"

namespace clipcid {

constexpr int64_t kMostStrip = 1024;

// KeyTerms to be written.
struct Terms {
  float *steps, *base, *ofError, *ofLength;
  KeyTerms constant() const { return {steps, base, ofError, ofLength}; }
};
// Of the keys [begin, begin + count), by which Kernels::reaching tells which scores cannot reach a floor, and of none up
// to `padded`. `squares`: of all keys, where scores are less by half of them; or null.
void writeTerms(const FilterPlan& plan, const EncodedRows& keys, const double* squares, int64_t begin,
                int64_t count, int64_t padded, const Terms& out);

// Scores of a tile of queries with a run of keys.
struct Strip {
  const EncodedRows* queries;
  const EncodedRows* keys;
  // Rows of the matrix, or places in Sweep::rows when that is given.
  int64_t query;
  int rows;
  // Rows of the matrix.
  int64_t key;
  int64_t columns;
  // Largest error and length among the queries, and among the keys (of the whole strip or more).
  float queryError, queryLength;
  float keyError, keyLength;
  // The keys of a pair of blocks are cut into parts that may be visited at the same time; a query's strips of one
  // part come one after another, in the order of the keys.
  int64_t part;

  // Only in visit(). scores[r * stride + j] is that of query `query + r` and key `key + j`. The keys
  // [panel * p, panel * (p + 1)) were stored if bit p of `hits` is set; else all their scores are below the limit.
  float* scores;
  int64_t stride;
  int panel;
  uint64_t hits;

  // With Sweep::floors instead of `hits`: bit j of the bits of row r is set unless the upper end of its score is below
  // the row's floor. Bits of keys from `columns` on mean nothing.
  uint8_t* bits;
  int64_t strideBits;  // bytes
  KeyTerms terms;      // of the strip's keys
  bool known;          // whether upper ends are finite

  float errorOf(int64_t r) const { return queries->errors.get()[query + r - queries->begin]; }
  float lengthOf(int64_t r) const { return queries->lengths.get()[query + r - queries->begin]; }
  float stepOf(int64_t r) const { return queries->steps.get()[query + r - queries->begin]; }
  float keyErrorOf(int64_t j) const { return keys->errors.get()[key + j - keys->begin]; }
  float keyLengthOf(int64_t j) const { return keys->lengths.get()[key + j - keys->begin]; }
};

// A block of queries and one of keys: places in Sweep::rows or rows, and rows.
struct SweepBlocks {
  int64_t first, count;
  int64_t key, keys;
  int64_t parts;
};

struct Sweep {
  const FilterPlan* plan = nullptr;
  const CpuPrepared* queries = nullptr;
  const CpuPrepared* keys = nullptr;
  // The queries that are wanted, ascending, and how many; all when null.
  const int64_t* rows = nullptr;
  int64_t count = 0;
  // For a self-join: leaves out panels in which no key is greater than a query; others come whole.
  bool triangle = false;
  // Before the strips of a pair of blocks, on the calling thread. Blocks of keys come in order for each block of
  // queries, and never in more parts than before.
  std::function<Status(const SweepBlocks& blocks)> begin{};
  // The smallest score that matters in this strip; -infinity for all. Null: all.
  std::function<float(const Strip& strip, int worker)> limit{};
  // Instead of a limit, for plans of int8 with steps of the rows' own: the floor of each of the strip's queries, for
  // scores of dots, or, where `euclidean`, of dots less half the key's square. Every strip is visited.
  // With them, gaps may be asked for (QueryTerms).
  struct Floors {
    const float* floors = nullptr;
    bool scores = true;              // whether Strip::scores is to be filled
    const GapTerms* gaps = nullptr;  // of the strip's keys
    // Rows of float32 that are wanted soon after, and are asked for bit by bit meanwhile.
    const float* const* ahead = nullptr;
    int64_t aheadCount = 0, aheadDim = 0;
  };
  std::function<Floors(const Strip& strip, int worker)> floors{};
  bool euclidean = false;
  std::function<Status(const Strip& strip, int worker)> visit{};
};

// Progress counts pairs of rows.
Status sweep(const Context& context, const Sweep& sweep);

}  // namespace clipcid
