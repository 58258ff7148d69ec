// How many pairs are over a threshold, where their groups are known.
#pragma once

#include "core/groups.h"

namespace clipcid {

// Counts the pairs of unit rows over the threshold when every such pair lies in one of the groups: only rows of one group
// are compared.
Status countEdges(Backend& backend, const Context& context, const Prepared& rows, const Groups& groups,
                  double threshold, int64_t* edges);

}  // namespace clipcid
