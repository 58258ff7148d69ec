#pragma once

#include "clipcid/backend.h"
#include "cpu/select_sweep.h"

namespace clipcid {

// TopK of two pairs of matrices.
Status topKProducts(const Context& context, const TopKArgs& args);

// The k best of each query of a block, into the outputs; those whose floor was not right are added to `again`, ascending.
Status writeBest(const Context& context, const TopKArgs& args, const QueryBlock& block,
                 const Shortlists& lists, std::vector<int64_t>* again);

}  // namespace clipcid
