// What is known of the k best keys of each of a block of queries while keys stream by.
//
// A key comes as a candidate: an interval that its canonical score is in. Of a query's candidates only those
// that may still be among the k best are kept: `floor` is the k-th largest lower end so far, and what cannot
// reach it goes. Most candidates are never decided; those that are left at the end are. A list has a fixed
// number of places: when they are full of candidates that intervals cannot tell apart, all of them are decided
// on the spot and the k best stay. So memory is bounded whatever the rows are.
//
// The order, by descending score and then ascending index, is total, and intervals are sound: so neither the
// order in which keys come nor how tight the intervals are can change the outcome.
#pragma once

#include <functional>
#include <limits>
#include <vector>

#include "clipcid/types.h"
#include "core/aligned.h"

namespace clipcid {

// low <= canonical score <= high.
struct Candidate {
  float low;
  float high;
  int32_t index;
};

struct Decided {
  double score;
  int32_t index;

  bool before(const Decided& other) const {
    return score > other.score || (score == other.score && index < other.index);
  }
};

class Shortlists {
 public:
  // The canonical score of key `index` for a query, given by its place in the block.
  using Decide = std::function<Status(int64_t query, int32_t index, int worker, double* score)>;

  // Lists for `queries` queries, `parts` for each; parts may be filled at the same time.
  Shortlists(int64_t queries, int64_t parts, int64_t k, Decide decide);

  // Bytes that a list takes.
  static int64_t bytes(int64_t k);

  // A key whose canonical score is below this is not among the k best.
  float floor(int64_t query, int64_t part) const { return lists_[at(query, part)].floor; }
  void raiseFloor(int64_t query, int64_t part, float floor) {
    List& list = lists_[at(query, part)];
    if (floor > list.floor) list.floor = floor;
  }
  Status add(int64_t query, int64_t part, const Candidate& candidate, int worker) {
    const size_t slot = at(query, part);
    List& list = lists_[slot];
    if (candidate.high < list.floor) return {};
    pending_.get()[static_cast<int64_t>(slot) * places_ + list.pending++] = candidate;
    if (k_ == 1 && candidate.low > list.floor) list.floor = candidate.low;
    return list.pending < places_ ? Status() : makeRoom(query, part, worker);
  }

  // What is left of a query's parts together: candidates that may be among the k best, and keys decided already.
  // `floor` is the k-th largest lower end of both.
  struct Rest {
    std::vector<Candidate> pending;
    std::vector<Decided> decided;
    float floor;
  };
  void rest(int64_t query, Rest* out) const;
  // The k best of a query, best first.
  Status finish(int64_t query, int worker, std::vector<Decided>* out) const;

 private:
  struct List {
    float floor = -std::numeric_limits<float>::infinity();
    int32_t pending = 0;
    int32_t decided = 0;
  };

  size_t at(int64_t query, int64_t part) const { return static_cast<size_t>(part * queries_ + query); }
  Status makeRoom(int64_t query, int64_t part, int worker);

  int64_t queries_;
  int64_t parts_;
  int64_t k_;
  int32_t places_;
  Decide decide_;
  std::vector<List> lists_;
  AlignedArray<Candidate> pending_;  // [parts, queries, places]
  AlignedArray<Decided> decided_;    // [parts, queries, k]; most of it is never touched
};

}  // namespace clipcid
