// Starting centres of k-means; the rules are in kmeans.h.
//
// In: the rows of a problem. Out: K of them, as compared, [K, D].
//
// k-means++ and k-means|| keep one number a row, the euclid of the nearest centre so far. It is brought up to
// date for a whole block of new centres at a time, with the search that the assignment uses, so that their cost is that
// of about one assignment, and not of K passes over the rows.
#pragma once

#include "core/kmeans_points.h"

namespace clipcid {

Status chooseRandom(const Points& points, uint64_t seed, float* centroids);
Status choosePlusPlus(const Points& points, uint64_t seed, float* centroids);
Status chooseParallel(const Points& points, uint64_t seed, float* centroids);

}  // namespace clipcid
