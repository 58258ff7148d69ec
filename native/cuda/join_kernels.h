// The join's kernels. All of these only queue their work.
#pragma once

#include "clipcid/backend.h"
#include "cuda/encode.h"
#include "cuda/mainloop.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Counters of a band of tiles.
struct JoinCounters {
  unsigned long long certain;  // pairs that were united without being listed
  unsigned long long listed;   // entries of the list, or more than it holds
  unsigned long long found;    // pairs over the threshold among those listed
};

// In a list, the first index of a pair that is over the threshold without a doubt has this bit.
constexpr int32_t kCertainBit = INT32_MIN;

struct JoinParams {
  EncodedView queries, keys;
  BoundTerms terms;
  float thresholdBelow = 0, thresholdAbove = 0;  // in units of scores
  bool self = false;                             // only keys behind the query
  bool oneSided = false;                         // scores rule out only
  bool decideAll = false;                        // the caller wants dots: nothing is certain
  // Of the first query and key in the matrix.
  int32_t queryBegin = 0, keyBegin = 0;
  const uint8_t* excluded[2] = {nullptr, nullptr};  // by index in the matrix: rows of no pair; null for none
  int32_t* parents = nullptr;                       // unites what is certain; null lists it
  Pair* list = nullptr;
  int64_t capacity = 0;
  JoinCounters* counters = nullptr;
};

// Scores of the schedule's tiles, and what they rule in or leave open.
Status joinTiles(const Device& device, Stream stream, Math math, TileShape shape,
                 const MainloopParams& params, const JoinParams& join);

// Decides what a band listed, by canonical dots.
struct RecheckParams {
  DeviceRows queries, keys;  // of the blocks at hand
  int32_t queryBegin = 0, keyBegin = 0;
  double threshold = 0;
  const Pair* list = nullptr;
  int64_t capacity = 0;
  JoinCounters* counters = nullptr;
  int32_t* parents = nullptr;  // unites the pairs that are over; null writes them
  Pair* found = nullptr;       // [capacity]
  double* dots = nullptr;      // [capacity], or null
};
Status recheckPairs(const Device& device, Stream stream, const RecheckParams& params);

// parents[i] = i; and the root of every item once all unions are done.
Status beginSets(const Device& device, Stream stream, int32_t* parents, int64_t count);
Status flattenSets(const Device& device, Stream stream, int32_t* parents, int64_t count);

}  // namespace clipcid::cuda
