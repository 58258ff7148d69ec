// Lloyd's k-means, batched, Euclidean or spherical.
//
// In:  rows [B N, D] (B independent problems of N rows), K centres each.
// Out: centroids [B, K, D] float32, labels [B N], counts [B K], inertia [B], iterations [B].
//
// Each batch element b is a problem of its own; what follows is one of them, i counts its rows from 0 to N - 1,
// and "in float64" means one correctly rounded operation at a time, in the order written.
//
// Rows as compared, x_i: the canonical row when spherical, otherwise the row as stored, widened to float32.
// A row with a NaN or an infinity, or with a canonical norm of zero when spherical, fails the call with
// kInvalidData, which names the first bad row of all rows; likewise for given centroids. K > N is
// kInvalidArgument.
//
//   xx_i         = canonicalDot(x_i, x_i);  cc_j = canonicalDot(c_j, c_j)
//   euclid(i, j) = canonicalDot(x_i, c_j) - cc_j / 2   in float64; higher is nearer
//   square(i, j) = max(0, xx_i - 2 euclid(i, j))       in float64; the squared distance
//   score(i, j)  = canonicalDot(x_i, c_j) when spherical, euclid(i, j) otherwise
//
// Starting centres:
//   given        as they are when Euclidean; their canonical rows when spherical.
//   'random'     draw_i = philox64(seed, stream 2, index b N + i); the K rows of smallest (draw_i, i), in that
//                order.
//   'k-means++'  (Arthur and Vassilvitskii, SODA 2007; one candidate a step)
//                centre 0 is row scaleDraw(philox64(seed, 1, index b K), N); for t = 1 .. K - 1:
//                  w_i = min over the centres chosen so far of square(i, chosen), whether or not spherical
//                  scale = fixedScale(max w, N);  W_i = toFixed(w_i, scale);  total = sum W_i   (below 2^62)
//                  total > 0: r = scaleDraw(philox64(seed, 1, index b K + t), total);
//                             the next centre is the smallest i with W_0 + ... + W_i > r
//                  total = 0: the next centre is the smallest i not chosen yet
//                A centre is the row as compared, so that xx = cc and a row has distance 0 to itself.
//
// Assignment: label_i = the j of highest score(i, j), ties to the smaller j.
//
// Iterations:
//   assign; iterations = 0
//   while iterations < maxIterations:
//     reseed; update; iterations += 1
//     before = labels (after reseeding); assign
//     changed = how many labels differ from before
//     if float64(changed) <= tolerance * float64(N): stop
//   So the labels returned belong to the centroids returned; counts are of those labels, and may be 0.
//
// Reseed, only when centres have no row:
//   distance_i = square(i, label_i) when Euclidean; max(0, 1 - score(i, label_i)) in float64 when spherical.
//   Rows in order of descending distance, ties by ascending index, are each taken in turn: a row whose centre
//   has only this one row left (counting moves so far) is passed over; any other moves to the smallest centre
//   that is still empty. Ends when none is empty. A row moves at most once.
//
// Update of centre j of the rows labelled j, one dimension at a time, in fixed point:
//   scale = fixedScale(largest, N), largest = 1 when spherical, otherwise the largest |element| of the N rows
//   sum = sum of toFixed(float64(x_ik), scale);  mean = fixedMean(sum, scale, count)
//   Euclidean: centroid = mean.
//   Spherical: centroid = the canonical row of the mean; the old centroid where its norm is zero.
//
// Inertia of the returned labels and centroids: d_i = the distance of "Reseed" with the final labels;
//   scale = fixedScale(spherical ? 2 : max d, N);  inertia = float64(sum of toFixed(d_i, scale)) / scale.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

enum class KmeansInit { kPlusPlus, kRandom, kGiven };

struct KmeansArgs {
  Rows rows = {};
  int64_t batch = 1;
  int64_t clusters = 1;
  bool spherical = true;
  KmeansInit init = KmeansInit::kPlusPlus;
  const float* given = nullptr;  // [B, K, D], for kGiven
  int64_t maxIterations = 0;
  double tolerance = 0;
  float* centroids = nullptr;     // [B, K, D]
  int32_t* labels = nullptr;      // [B N]
  int32_t* counts = nullptr;      // [B K]
  double* inertia = nullptr;      // [B]
  int32_t* iterations = nullptr;  // [B]
};

Status kmeans(Backend& backend, const Context& context, const KmeansArgs& args);

}  // namespace clipcid
