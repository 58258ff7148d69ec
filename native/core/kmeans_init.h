// Starting centres of k-means; the rules are in kmeans.h.
//
// In: the rows of a problem. Out: K of them, as compared, [K, D].
//
// k-means++ and k-means|| keep one number a row, the euclid of the nearest centre so far. It is brought up to
// date for a whole block of new centres at a time, with the search that the assignment uses: k-means++ compares
// as many pairs as one assignment, in some fifty passes over the rows instead of K, k-means|| as many as five, in
// six.
//
// Best measured, with the first assignment, two threads: 100,000 x 256 into 1,000 in 0.72 s by k-means++ and 0.36 s by
// k-means||; 500,000 x 64 into 50,000 in 8.0 s by k-means++ (AMD Zen 5, November 2026).
#pragma once

#include "core/kmeans_points.h"

namespace clipcid {

Status chooseRandom(const Points& points, uint64_t seed, float* centroids);
Status choosePlusPlus(const Points& points, uint64_t seed, const Share& share, float* centroids);
Status chooseParallel(const Points& points, uint64_t seed, const Share& share, float* centroids);

}  // namespace clipcid
