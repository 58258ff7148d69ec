// Incremental balance: new rows against the rows that earlier balances kept, whose decisions never change.
//
// In:  rows [N, D], stored [S, D], threshold (a cosine), optionally groups [S] of the stored rows (each its own
//      otherwise), and the options of balance.h.
// Out: duplicateOf [N], similarity [N], labels [N], keep [N], centrality [N], bridges, and counts.
//
// 1. Links: pairs of a new row i and a stored row s with canonicalDot(x^_i, s^_s) > threshold, strictly. Rows with a NaN
//    or an infinity, and rows whose canonical norm is zero, have none, on either side.
// 2. A new row with a link is a duplicate, and dropped: keep 0. duplicateOf is the s of its largest dot, ties to the
//    smaller s; similarity is float32 of that dot. Its label is -1 and its centrality 0.
// 3. A duplicate with links to stored rows of two or more groups is a bridge: had all rows been balanced together,
//    it would have joined these groups into one. They stay apart. Bridges are listed, ascending.
// 4. The other new rows are balanced among themselves: what balance.h gives for the new rows when pairs with a
//    duplicate are left out (so duplicates are alone, and count towards its N). A chain does not run through a
//    duplicate: a new row that is near to one of those only, and to no stored row, is not dropped for it.
//    duplicateOf is -1 and similarity 0.
// 5. `groups` and `edges` are those of 4, without the duplicates; `links` counts the pairs of 1.
//
// Nothing depends on the order of the new rows but what balance.h leaves to the smaller index.
#pragma once

#include "core/balance.h"

namespace clipcid {

struct IncrementalArgs {
  // Its rows, threshold, policy, least score and outputs; no forest.
  BalanceArgs balance = {};
  Rows stored = {};
  const int32_t* groups = nullptr;  // [S], or null
  int32_t* duplicateOf = nullptr;   // [N]
  float* similarity = nullptr;      // [N]
};

struct IncrementalResult {
  BalanceResult balance;  // without the duplicates
  int64_t duplicates = 0;
  int64_t links = 0;
  std::vector<int32_t> bridges;
  std::vector<int32_t> storedFaults;
};

Status balanceAgainst(Backend& backend, const Context& context, const IncrementalArgs& args,
                      IncrementalResult* result);

}  // namespace clipcid
