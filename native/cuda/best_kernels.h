// The kernels of best: the key of highest score for each query. All of these only queue their work, and how much of it there is
// is read on the device, so that no step waits for the host.
#pragma once

#include "cuda/encode.h"
#include "cuda/mainloop.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Keys of a query that may be the best, as far as the filter can tell.
constexpr int kMostCandidates = 14;
struct OpenQuery {
  int32_t place;
  int32_t count;
  int32_t keys[kMostCandidates];
};

struct BestCounters {
  int32_t open;      // entries of the open queries, or more than there is room for
  int32_t overflow;  // queries with more candidates than anyone keeps
};

// A call's queries go by their place, 0 to count - 1: problem after problem, as many of each. Scores are of keys [problems *
// keysOfProblem], indices of keys count from the problem's first one.
struct BestParams {
  EncodedView queries, keys;
  BoundTerms terms;
  const RowBound* keyMaxima = nullptr;  // [problems]
  // Scores are less this, in their units; [keys], or null. At most biasRatio (length + error)^2 of the key.
  const float* biases = nullptr;
  float biasRatio = 0;
  int32_t queriesOfProblem = 0, keysOfProblem = 0;
  // In: a canonical score that is known to be reached, or that matters, as what `ordered` makes of it in the units of scores.
  // Out: the same of what was seen. [places]
  int32_t* floors = nullptr;
  // [places] the best where there is one candidate, -1 where there is none; others are open or have overflowed.
  int32_t* labels = nullptr;
  OpenQuery* open = nullptr;  // [openCapacity]
  int32_t openCapacity = 0;
  int32_t* overflow = nullptr;  // [places] their places
  BestCounters* counters = nullptr;
  // What the places are that the rows of `queries` stand for; null for the rows in order.
  const int32_t* places = nullptr;
};
Status bestTiles(const Device& device, Stream stream, Math math, TileShape shape,
                 const MainloopParams& params, const BestParams& best);

// Canonical scores.
struct DecideParams {
  DeviceRows queries, keys;
  const double* squares = nullptr;  // [keys]: the score is the dot less half of it; or null
  int32_t queriesOfProblem = 0, keysOfProblem = 0;
};
// The best among the candidates of open queries.
Status decideOpen(const Device& device, Stream stream, const DecideParams& params, const OpenQuery* open,
                  int32_t openCapacity, const BestCounters* counters, int32_t* labels);
// The best of all keys, for the listed places [from, count); `count` is on the device, and at most `most`.
Status decideAmongAll(const Device& device, Stream stream, const DecideParams& params, const int32_t* places,
                      int32_t from, const int32_t* count, int32_t most, int32_t* labels);
// Scores of the labels. A label whose score is not over `above`, where that is given, becomes -1.
Status scoresOfLabels(const Device& device, Stream stream, const DecideParams& params, int32_t count,
                      const double* above, int32_t* labels, double* scores);

// Of a second block of keys: keeps the better score of each place; `labels` and `scores` of the block, whose keys begin
// at keyBegin, go over into those of all.
Status mergeBest(const Device& device, Stream stream, int32_t count, int32_t keyBegin, const int32_t* labels,
                 const double* scores, int32_t* allLabels, double* allScores);
// The largest error and length among the keys of each problem.
Status maximaOfProblems(const Device& device, Stream stream, const EncodedView& keys, int32_t keysOfProblem,
                        int32_t problems, RowBound* maxima);
// floors[i] = what `ordered` makes of a number not above scores[i] units; the least one where scores is null.
Status setFloors(const Device& device, Stream stream, int32_t count, const double* scores, double units,
                 int32_t* floors);
// Raises the floors of places that have a label to their scores.
Status raiseFloors(const Device& device, Stream stream, int32_t count, const int32_t* labels,
                   const double* scores, double units, int32_t* floors);
// biases[j] = squares[j] / 2 in units.
Status setBiases(const Device& device, Stream stream, int32_t count, const double* squares, double units,
                 float* biases);
// Listed rows of encoded ones; as many as `count` says, on the device, at most `most`, which `out` has room for.
Status gatherEncodedRows(const Device& device, Stream stream, const EncodedView& from, const int32_t* rows,
                         const int32_t* count, int32_t most, EncodedRows* out);

}  // namespace clipcid::cuda
