// Starting centres of k-means; the rules are in kmeans.h.
#pragma once

#include "core/kmeans.h"

namespace clipcid {

// Chooses K of the N rows of batch element `element` and writes them, as compared, to `centroids` [K, D].
Status chooseRandom(Backend& backend, const Context& context, const Prepared& rows, int64_t clusters,
                    int64_t element, float* centroids);
Status choosePlusPlus(Backend& backend, const Context& context, const Prepared& rows, int64_t clusters,
                      int64_t element, float* centroids);

}  // namespace clipcid
