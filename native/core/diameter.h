// Splits groups whose members lie too far from their mean; the rule is in balance.h (4).
#pragma once

#include "core/forest.h"
#include "core/groups.h"

namespace clipcid {

// In: unit rows, a forest's edges in order, labels [N] of the components of those over the threshold, the least score.
// Out: labels [N], the smallest member of each group that is left.
Status splitWide(Backend& backend, const Context& context, const Prepared& rows, bool inFile,
                 const std::vector<Edge>& forest, double threshold, double leastScore, int32_t* labels);

}  // namespace clipcid
