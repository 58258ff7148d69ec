// Epilogues of topK: keys whose score may reach a query's floor go into the query's list.
//
// Floors stand while a kernel runs; the host has them raised between ranges of keys (top_k.cpp). A list's counter runs on when
// the list is full, so that a range that was too long is told and done again in parts. Of products a thread has both dots of a
// pair at the same time: the mainloop keeps the first while it works out the second.
#pragma once

#include "cuda/bound.cuh"
#include "cuda/fragment.cuh"
#include "cuda/top_k_kernels.h"

namespace clipcid::cuda {

struct Interval {
  float low, high;
};

CLIPCID_BOTH float downBy(float value) { return value - fabsf(value) * 0x1p-22f - 0x1p-140f; }
CLIPCID_BOTH float upBy(float value) { return value + fabsf(value) * 0x1p-22f + 0x1p-140f; }

// Of x y with x within s of a and y within t of b, and of 0 where one may be over its cutoff.
CLIPCID_BOTH Interval productInterval(float a, float s, float b, float t, float cutoffA, float cutoffB) {
  const float a0 = downBy(a - s), a1 = upBy(a + s), b0 = downBy(b - t), b1 = upBy(b + t);
  const float corners[4] = {a0 * b0, a0 * b1, a1 * b0, a1 * b1};
  Interval interval = {corners[0], corners[0]};
  for (int i = 1; i < 4; ++i) {
    interval.low = fminf(interval.low, corners[i]);
    interval.high = fmaxf(interval.high, corners[i]);
  }
  if (a1 >= cutoffA || b1 >= cutoffB) interval = {fminf(interval.low, 0.0f), fmaxf(interval.high, 0.0f)};
  // Where nothing is known; a product of infinity and nothing is no number.
  if (!(fabsf(interval.low) < 1e30f) || !(fabsf(interval.high) < 1e30f)) return {-HUGE_VALF, HUGE_VALF};
  return {downBy(interval.low), upBy(interval.high)};
}

// What both epilogues do with a key.
CLIPCID_DEVICE void listCandidate(const TopKParams& params, int32_t query, int32_t key,
                                  const Interval& interval) {
  if (params.skipSelf && params.queryBegin + query == params.keyBegin + key) return;
  const int32_t place = atomicAdd(params.counts + query, 1);
  if (place < params.capacity)
    params.candidates[static_cast<int64_t>(query) * params.capacity + place] = {params.keyBegin + key,
                                                                                interval.low, interval.high};
}

template <typename Fragment, typename Team>
class TopKEpilogue {
 public:
  using Params = TopKParams;
  static constexpr int kSharedBytes = 0;

  CLIPCID_DEVICE TopKEpilogue(const Params& params, char*, Team) : params_(params) {}
  CLIPCID_DEVICE void begin(const TileAt&) {}
  CLIPCID_DEVICE void start(Fragment& scores, const TileAt&) { scores.clear(); }
  CLIPCID_DEVICE void finish(const TileAt&) {}

  CLIPCID_DEVICE void visit(const Fragment& scores, const TileAt& at) {
    const RowBound key = largestBound(params_.side.keys, at.column, at.columns);
    bool any = false;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row < at.rows)
        any |= static_cast<float>(largestOf(scores, r)) >= limitOf(at.row + row, boundOf(at.row + row, key));
    }
    if (!__any_sync(kAllLanes, any)) return;
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = scores.row(r);
      if (row >= at.rows) continue;
      const float bound = boundOf(at.row + row, key), limit = limitOf(at.row + row, bound);
      if (!(static_cast<float>(largestOf(scores, r)) >= limit)) continue;
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c) {
        const auto score = static_cast<float>(scores.at(r, c));
        const int column = scores.column(c);
        if (score >= limit && column < at.columns)
          listCandidate(params_, at.row + row, at.column + column,
                        {downBy(score - bound), upBy(score + bound)});
      }
    }
  }

 private:
  using T = typename Fragment::T;

  CLIPCID_DEVICE float boundOf(int query, const RowBound& key) const {
    return scoreBound(params_.side.queries.bounds[query], key, params_.side.terms);
  }
  CLIPCID_DEVICE float limitOf(int query, float bound) const { return downBy(params_.floors[query] - bound); }
  CLIPCID_DEVICE static T largestOf(const Fragment& scores, int r) {
    T most = scores.at(r, 0);
#pragma unroll
    for (int c = 1; c < Fragment::kColumns; ++c) most = scores.at(r, c) > most ? scores.at(r, c) : most;
    return most;
  }

  const Params& params_;
};

template <typename Fragment, typename Team>
class TopKProductEpilogue {
 public:
  using Params = TopKParams;
  static constexpr int kSharedBytes = 0;

  CLIPCID_DEVICE TopKProductEpilogue(const Params& params, char*, Team) : params_(params) {}
  CLIPCID_DEVICE void begin(const TileAt&) {}
  CLIPCID_DEVICE void start(Fragment& scores, const TileAt&) { scores.clear(); }
  CLIPCID_DEVICE void finish(const TileAt&) {}

  // The first pair of matrices is done; the second begins from zeros.
  CLIPCID_DEVICE void between(Fragment& scores, const TileAt&) {
    first_ = scores;
    scores.clear();
  }

  CLIPCID_DEVICE void visit(const Fragment& second, const TileAt& at) {
    const RowBound keyA = largestBound(params_.side.keys, at.column, at.columns);
    const RowBound keyB = largestBound(params_.second.keys, at.column, at.columns);
#pragma unroll
    for (int r = 0; r < Fragment::kRows; ++r) {
      const int row = second.row(r), query = at.row + row;
      if (row >= at.rows) continue;
      const RowBound queryA = params_.side.queries.bounds[query],
                     queryB = params_.second.queries.bounds[query];
      const float s = scoreBound(queryA, keyA, params_.side.terms),
                  t = scoreBound(queryB, keyB, params_.second.terms);
      const float floor = params_.floors[query];
      // No product is farther from that of the scores: |x y - a b| <= |x| t + |b| s.
      const float most = (queryA.length + queryA.error) * (keyA.length + keyA.error);
      const float other = (queryB.length + queryB.error) * (keyB.length + keyB.error);
      const float limit = downBy(floor - kBoundSafety * (most * t + (other + t) * s));
#pragma unroll
      for (int c = 0; c < Fragment::kColumns; ++c) {
        const auto a = static_cast<float>(first_.at(r, c)), b = static_cast<float>(second.at(r, c));
        const bool over = a + s >= params_.side.cutoff || b + t >= params_.second.cutoff;
        // Where something is not a number, it is looked at.
        const bool low = a * b < limit && !(over && !(floor > 0));
        const int column = second.column(c);
        if (low || column >= at.columns) continue;
        const Interval interval = productInterval(a, s, b, t, params_.side.cutoff, params_.second.cutoff);
        if (interval.high >= floor) listCandidate(params_, query, at.column + column, interval);
      }
    }
  }

 private:
  const Params& params_;
  Fragment first_;
};

}  // namespace clipcid::cuda
