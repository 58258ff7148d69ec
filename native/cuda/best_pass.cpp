// Queries with all keys of their problems:
//   1. the mainloop with its epilogue settles most queries, and lists the candidates of others;
//   2. queries whose list was too short have a second pass, with the floor that the first one found; of several problems they
//      have none, because those of different problems do not share a tile;
//   3. candidates are decided canonically, and what overflowed for good is decided among all keys.
// No step waits for the host.
#include "cuda/best_pass.h"

#include <algorithm>

namespace clipcid::cuda {

BestLimits& bestLimits() {
  static BestLimits limits;
  return limits;
}

Status BestPass::allocate(const BestSides& sides) {
  const int64_t places = sides.places();
  openCapacity_ = bestLimits().open > 0 ? bestLimits().open : places / 4 + 1024;
  again_ = bestLimits().again > 0 ? bestLimits().again : std::max<int64_t>(places / 8, 4096);
  again_ = sides.problems > 1 ? 0 : std::min(again_, places);
  CLIPCID_TRY(floors_.atLeast(places, stream_));
  CLIPCID_TRY(overflow_.atLeast(places, stream_));
  CLIPCID_TRY(overflowAgain_.atLeast(std::max<int64_t>(again_, 1), stream_));
  CLIPCID_TRY(open_.atLeast(openCapacity_, stream_));
  CLIPCID_TRY(counters_.atLeast(2, stream_));
  CLIPCID_TRY(maxima_.atLeast(sides.problems, stream_));
  if (sides.squares == nullptr) return {};
  return biases_.atLeast(int64_t{sides.problems} * sides.keysOfProblem, stream_);
}

DecideParams BestPass::decideParams(const BestSides& sides) {
  DecideParams params;
  params.queries = sides.queries;
  params.keys = sides.keys;
  params.squares = sides.squares;
  params.queriesOfProblem = sides.queriesOfProblem;
  params.keysOfProblem = sides.keysOfProblem;
  return params;
}

Status BestPass::run(const FilterPlan& plan, const BestSides& sides, const int32_t* stop, int32_t* labels) {
  const auto places = static_cast<int32_t>(sides.places());
  const int32_t keys = sides.problems * sides.keysOfProblem;
  const TileSize tile = plan.tile();
  CLIPCID_TRY(fillBytes(counters_.get(), 0, counters_.bytes(), stream_));
  CLIPCID_TRY(maximaOfProblems(device_, stream_, sides.encodedKeys, sides.keysOfProblem, sides.problems,
                               maxima_.get()));
  if (sides.squares != nullptr)
    CLIPCID_TRY(setBiases(device_, stream_, keys, sides.squares, plan.scoreUnits(), biases_.get()));

  MainloopParams loop;
  loop.queries = {sides.encodedQueries.words, sides.encodedQueries.stride, sides.queriesOfProblem};
  loop.keys = {sides.encodedKeys.words, sides.encodedKeys.stride, sides.keysOfProblem};
  loop.depths = plan.depths();
  loop.stop = stop;
  loop.schedule.problems = sides.problems;
  loop.schedule.rowEnd = (sides.queriesOfProblem + tile.rows - 1) / tile.rows;
  loop.schedule.columnEnd = (sides.keysOfProblem + tile.columns - 1) / tile.columns;
  loop.schedule.columnsOfItem = loop.schedule.columnEnd;

  BestParams best;
  best.queries = sides.encodedQueries;
  best.keys = sides.encodedKeys;
  best.terms = plan.terms();
  best.keyMaxima = maxima_.get();
  if (sides.squares != nullptr) {
    best.biases = biases_.get();
    best.biasRatio =
        roundUp(static_cast<double>(plan.queries.scale) / static_cast<double>(plan.keys.scale) / 2);
  }
  best.queriesOfProblem = sides.queriesOfProblem;
  best.keysOfProblem = sides.keysOfProblem;
  best.floors = floors_.get();
  best.labels = labels;
  best.open = open_.get();
  best.openCapacity = static_cast<int32_t>(openCapacity_);
  best.overflow = overflow_.get();
  best.counters = counters_.get();
  CLIPCID_TRY(bestTiles(device_, stream_, plan.math(), plan.shape, loop, best));
  const DecideParams decide = decideParams(sides);
  CLIPCID_TRY(decideOpen(device_, stream_, decide, best.open, best.openCapacity, best.counters, labels));

  const auto again = static_cast<int32_t>(again_);
  const int32_t* overflowed = &counters_.get()->overflow;
  if (again > 0) {
    // For the first of those that overflowed, with counters and a list of their own.
    CLIPCID_TRY(gatherEncodedRows(device_, stream_, sides.encodedQueries, overflow_.get(), overflowed, again,
                                  &gathered_));
    loop.queries = {gathered_.words.get(), gathered_.stride, again};
    loop.queryCount = overflowed;
    loop.schedule.rowEnd = (again + tile.rows - 1) / tile.rows;
    best.queries = gathered_.view();
    best.places = overflow_.get();
    best.overflow = overflowAgain_.get();
    best.counters = counters_.get() + 1;
    CLIPCID_TRY(bestTiles(device_, stream_, plan.math(), plan.shape, loop, best));
    CLIPCID_TRY(decideOpen(device_, stream_, decide, best.open, best.openCapacity, best.counters, labels));
    CLIPCID_TRY(decideAmongAll(device_, stream_, decide, overflowAgain_.get(), 0, &best.counters->overflow,
                               again, labels));
  }
  return decideAmongAll(device_, stream_, decide, overflow_.get(), again, overflowed, places, labels);
}

}  // namespace clipcid::cuda
