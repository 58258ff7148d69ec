// Groups of rows, how central their members are, and which of them stays.
#pragma once

#include <vector>

#include "clipcid/backend.h"
#include "core/keep.h"

namespace clipcid {

// The groups of two and more: the members of group g are members[starts[g] .. starts[g + 1] - 1], ascending.
struct Groups {
  std::vector<int64_t> starts;    // [count() + 1]
  std::vector<int32_t> members;   // rows
  std::vector<int32_t> segments;  // group of each member
  int64_t alone = 0;              // rows in no group of two and more

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t size(int64_t group) const {
    return starts[static_cast<size_t>(group) + 1] - starts[static_cast<size_t>(group)];
  }
  const int32_t* of(int64_t group) const { return members.data() + starts[static_cast<size_t>(group)]; }
};

// `labels` [count]: the smallest member of a row's group. Groups come in ascending order of their labels.
Groups groupsOf(const int32_t* labels, int64_t count);

// Scores of members with the mean of their group, as balance.h defines both: scores [members]. `rows` are unit rows;
// those that lie in a file are read once rather than twice.
Status groupScores(Backend& backend, const Context& context, const Prepared& rows, const Groups& groups,
                   bool inFile, double* scores);

// Fills keep [N] and centrality [N] (float32 of the score; 1 for a row alone, 0 for a fault).
void keepRows(const Prepared& rows, const Groups& groups, const KeepPolicy& policy, const double* scores,
              uint8_t* keep, float* centrality);

}  // namespace clipcid
