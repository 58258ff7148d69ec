#pragma once

#include "clipcid/backend.h"
#include "cpu/select_sweep.h"

namespace clipcid {

// TopK of two pairs of matrices.
Status topKProducts(const Context& context, const TopKArgs& args);

// The k best of each query of a block, into the outputs.
Status writeBest(const Context& context, const TopKArgs& args, const QueryBlock& block,
                 const Shortlists& lists);

}  // namespace clipcid
