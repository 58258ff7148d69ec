// Lloyd's k-means, batched, Euclidean or spherical, with weights.
//
// In:  rows [B N, D] (B independent problems of N rows), K centres each; weights [B N], or 1 for every row.
// Out: centroids [B, K, D] float32, labels [B N], counts [B K], inertia [B], iterations [B].
//
// Each batch element b is a problem of its own; what follows is one of them, i counts its rows from 0 to N - 1,
// and "in float64" means one correctly rounded operation at a time, in the order written.
//
// Rows as compared, x_i: the canonical row when spherical, otherwise the row as stored, widened to float32.
// A row with a NaN or an infinity, or with a canonical norm of zero when spherical, fails the call with
// kInvalidData, which names the first bad row of all rows; likewise for given centroids. K > N is
// kInvalidArgument, and so are weights that are negative, not finite, or all zero in a problem.
//
//   xx_i         = canonicalDot(x_i, x_i);  cc_j = canonicalDot(c_j, c_j)
//   euclid(i, j) = canonicalDot(x_i, c_j) - cc_j / 2   in float64; higher is nearer
//   square(i, j) = max(0, xx_i - 2 euclid(i, j))       in float64; the squared distance
//   score(i, j)  = canonicalDot(x_i, c_j) when spherical, euclid(i, j) otherwise
//   w_i          = the row's weight, float32; 1 without weights
//   wscale       = fixedScale(max w, N);  weight(S) = sum over i in S of toFixed(w_i, wscale), an integer
//
// Draws. A draw of row i with weights p_i >= 0 (float64), from the number u:
//   scale = fixedScale(max p, N);  P_i = toFixed(p_i, scale);  total = sum P_i   (below 2^62)
//   r = scaleDraw(u, total);  it is the smallest i with P_0 + ... + P_i > r
//
// Starting centres:
//   given        as they are when Euclidean; their canonical rows when spherical.
//   'random'     draw_i = philox64(seed, stream 2, index b N + i); the K rows of smallest (w_i = 0, draw_i, i),
//                in that order: rows of weight zero come last, other weights do not matter.
//   'k-means++'  (Arthur and Vassilvitskii, SODA 2007; one candidate a step.) The next centre is row i with a
//                chance proportional to w_i times the squared distance to the nearest centre so far. Drawn in
//                blocks by rejection, which is the same distribution: what is drawn with the chances at the
//                start of the block is accepted with the share of it that the block's own centres have left.
//                u_n = philox64(seed, 1, b 2^32 + n), v_n = philox64(seed, 16, b 2^32 + n)
//                centre 0: drawn with p_i = w_i from u_0. n = 1.
//                While there are t < K centres, a block:
//                  m_i = min over the centres so far of square(i, centre), whether or not spherical
//                  p_i = w_i m_i in float64
//                  total = 0: the remaining centres are the smallest rows not chosen yet, ascending. Otherwise
//                  min(max(1, floor(t / 8)), 512, K - t) times: draw i from u_n;
//                    q = toFixed(w_i min(m_i, square(i, those of this block so far)), scale)
//                    i is the next centre if scaleDraw(v_n, P_i) < q;  n += 1 in any case
//                A centre is the row as compared, so that xx = cc and a row has distance 0 to itself; the first
//                draw of a block is always accepted.
//   'k-means||'  (Bahmani et al., VLDB 2012; five rounds of about K candidates.)
//                Candidate 0: drawn with p_i = w_i from philox64(seed, 17, b (5 N + 1)).
//                Round r = 0 .. 4: m_i, p_i, P_i, total as in a block of k-means++ with all candidates so far;
//                  row i is a candidate if scaleDraw(philox64(seed, 17, b (5 N + 1) + 1 + r N + i), total)
//                  < K P_i. In ascending order. A total of 0 ends the rounds.
//                Row i belongs to the candidate of highest euclid, ties to the earlier candidate.
//                M >= K candidates: k-means++ over the candidates, ascending, in place of rows, with
//                  w = float64(weight(rows of the candidate)) / wscale and streams 18 and 19 for 1 and 16.
//                M < K: all candidates, and then the rows that are not, in the order of 'random'.
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
//     if movement > 0 and moved <= movement * variance: stop
//   So the labels returned belong to the centroids returned; counts are of those labels, and may be 0.
//   moved    = sum over j, ascending, of canonicalDot(e_j, e_j), e_j = float32(new c_j - old c_j)
//   variance = float64(S) / scale / (float64(weight(all)) / wscale) / D;  c = the mean of all rows, as in
//              "Update" and not normalised;  d_i = w_i square(i, c);  scale = fixedScale(max d, N);  S = sum of
//              toFixed(d_i, scale)
//
// Reseed, only when a centre has no row of positive weight:
//   distance_i = square(i, label_i) when Euclidean; max(0, 1 - score(i, label_i)) in float64 when spherical.
//   Rows of positive weight in order of descending distance, ties by ascending index, are each taken in turn: a
//   row whose centre has only this one left (counting moves so far) is passed over; any other moves to the
//   smallest centre that is still empty. Ends when none is empty. A row moves at most once.
//
// Update of centre j of the rows labelled j, one dimension at a time, in fixed point:
//   scale = fixedScale(largest max w, N), largest = 1 when spherical, otherwise the largest |element| of the N
//   rows;  sum = sum of toFixed(x_ik w_i, scale), a product that is exact
//   mean = float32(float64(sum) / scale / (float64(weight(rows of j)) / wscale))
//   Euclidean: centroid = mean.   Spherical: centroid = the canonical row of the mean.
//   The old centroid stays where the weight is zero, or the mean's norm when spherical.
//
// Inertia of the returned labels and centroids: d_i = w_i times the distance of "Reseed" with the final labels;
//   scale = fixedScale(spherical ? 2 max w : max d, N);  inertia = float64(sum of toFixed(d_i, scale)) / scale.
//
// Runs: run r = 0 .. runs - 1 starts from seed (r = 0) or philox64(seed, 20, r). A problem's result is that of
// the run with the smallest inertia, ties to the earlier.
//
// Prediction: labels by "Assignment" for the centroids as they are, and distances by "Reseed".
//
// Best measured, 100,000 x 256 into 1,000, ten iterations from given centres, two threads: 0.37 s where the spectrum decays
// and 0.44 s where it is flat; 0.27 s would be all eleven comparisons with all centres at the peak of int8, and nothing
// else. In sets of instructions without that: AVX-512 0.87 and 1.17, AVX2 1.5 and 1.9 s (AMD Zen 5, November 2026).
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

enum class KmeansInit { kPlusPlus, kParallel, kRandom, kGiven };

struct KmeansArgs {
  Rows rows = {};
  const float* weights = nullptr;  // [B N], or null
  int64_t batch = 1;
  int64_t clusters = 1;
  bool spherical = true;
  KmeansInit init = KmeansInit::kPlusPlus;
  const float* given = nullptr;  // [B, K, D], for kGiven
  int64_t runs = 1;
  int64_t maxIterations = 0;
  double tolerance = 0;
  double movement = 0;
  // Whether bounds may spare rows that cannot change their centre. Results do not depend on it.
  bool skip = true;
  float* centroids = nullptr;     // [B, K, D]
  int32_t* labels = nullptr;      // [B N]
  int32_t* counts = nullptr;      // [B K]
  double* inertia = nullptr;      // [B]
  int32_t* iterations = nullptr;  // [B]
};

Status kmeans(Backend& backend, const Context& context, const KmeansArgs& args);

struct PredictArgs {
  Rows rows = {};
  int64_t batch = 1;
  int64_t clusters = 1;
  bool spherical = true;
  const float* centroids = nullptr;  // [B, K, D]
  int32_t* labels = nullptr;         // [B N]
  float* distances = nullptr;        // [B N]
};

Status predict(Backend& backend, const Context& context, const PredictArgs& args);

}  // namespace clipcid
