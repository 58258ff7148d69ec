// What is known of the k best keys of each of a block of queries while keys stream by.
//
// A key comes as a candidate: an interval that its canonical score is in. Of a query's candidates only those
// that may still be among the k best are kept: `floor` is the k-th largest lower end so far, from a heap of them, and
// what cannot reach it goes. Most candidates are never decided; those that are left at the end are.
//
// A list has a fixed number of places. When they are full, the intervals of the k candidates that look best are
// made tight, which brings the floor up to where it belongs; if that does not make room, those of all; and if they
// still cannot be told apart, all are decided on the spot and the k best stay. So memory is bounded whatever the
// rows are.
//
// Lower ends may be guesses: upper ends alone must be sound. Then so may floors be, and finish() tells whether the last one,
// which is the highest, was right: at most the canonical score of the k-th best. If so, nothing was dropped that counts.
//
// The order, by descending score and then ascending index, is total: so neither the order in which keys come nor how tight
// the intervals are can change the outcome.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "clipcid/types.h"
#include "core/aligned.h"

namespace clipcid {

// canonical score <= high, and low <= canonical score, probably.
struct Candidate {
  float low;
  float high;
  int32_t index;
  bool tight = false;  // Judge::tighten has been here
};

struct Decided {
  double score;
  int32_t index;

  bool before(const Decided& other) const {
    return score > other.score || (score == other.score && index < other.index);
  }
};

// What decides; queries are given by their places in the block.
struct Judge {
  static constexpr int64_t kTogether = 16;

  // The canonical score.
  std::function<Status(int64_t query, int32_t index, int worker, double* score)> decide;
  // Makes a few intervals, at most kTogether, as narrow as they can be had for less than the canonical scores.
  std::function<Status(int64_t query, Candidate* const* candidates, int64_t count, int worker)> tighten;
  // The key will be judged soon.
  std::function<void(int32_t index)> prefetch;
};

class Shortlists {
 public:
  // Lists for `queries` queries, `parts` for each; parts may be filled at the same time.
  Shortlists(int64_t queries, int64_t parts, int64_t k, Judge judge);

  // Bytes that a list takes.
  static int64_t bytes(int64_t k);

  // A key whose canonical score is below this is not among the k best, probably.
  float floor(int64_t query, int64_t part) const { return floors_[at(query, part)]; }
  // Those of queries that follow one another lie together.
  const float* floors(int64_t query, int64_t part) const { return floors_.data() + at(query, part); }
  void raiseFloor(int64_t query, int64_t part, float floor) {
    float& own = floors_[at(query, part)];
    if (floor > own) own = floor;
  }
  Status add(int64_t query, int64_t part, const Candidate& candidate, int worker) {
    const size_t slot = at(query, part);
    if (candidate.high < floors_[slot]) return {};
    List& list = lists_[slot];
    pending_.get()[static_cast<int64_t>(slot) * places_ + list.pending++] = candidate;
    if (candidate.low > floors_[slot]) takeLow(slot, candidate.low);
    return list.pending < places_ ? Status() : makeRoom(query, part, worker);
  }

  // What is left of a query's parts together: candidates that may be among the k best, and keys decided already.
  // Keys that are in neither are below `floor`, or not above a decided one that is not the best.
  struct Rest {
    std::vector<Candidate> pending;
    std::vector<Decided> decided;
    float floor;
    std::vector<float> lows;  // scratch
  };
  // The k best of a query, best first; or `right` is false.
  Status finish(int64_t query, int worker, Rest* scratch, std::vector<Decided>* out, bool* right) const;

 private:
  struct List {
    int32_t pending = 0;
    int32_t decided = 0;
    int32_t lows = 0;
  };

  size_t at(int64_t query, int64_t part) const { return static_cast<size_t>(part * queries_ + query); }
  void rest(int64_t query, Rest* out) const;
  // Tightens what is pending as far as it must, and drops what then cannot be among the k best.
  Status tighten(int64_t query, int worker, Rest* rest) const;
  Status makeRoom(int64_t query, int64_t part, int worker);
  // The first `count` of the candidates.
  Status tightenFirst(int64_t query, Candidate* candidates, size_t count, int worker) const;
  // The k that look best, which come first then.
  Status tightenBest(int64_t query, Candidate* candidates, size_t count, int worker) const;
  void takeLow(size_t slot, float low);
  // Drops what cannot reach the floor.
  void prune(size_t slot);
  // The same after lower ends have risen.
  void pruneAnew(size_t slot);
  bool crowded(const List& list) const { return list.pending > places_ - std::max(2, places_ / 4); }

  int64_t queries_;
  int64_t parts_;
  int64_t k_;
  int32_t places_;
  Judge judge_;
  std::vector<float> floors_;
  std::vector<List> lists_;
  AlignedArray<Candidate> pending_;  // [parts, queries, places]
  AlignedArray<float> lows_;         // [parts, queries, k] a heap of the largest lower ends over the floor
  AlignedArray<Decided> decided_;    // [parts, queries, k]; most of it is never touched
};

}  // namespace clipcid
