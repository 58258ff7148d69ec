// A strip of which a filter leaves much open, done again in float32 on canonical rows.
//
// What the float32 bound leaves open, of rows that are all nearly equal for example, is decided on the canonical rows,
// which are at hand then. So rows that no filter can tell apart cost what comparing them without a filter would, and
// memory is bounded: a strip of keys, twice, and some tiles of queries, for each thread.
#pragma once

#include <vector>

#include "cpu/prepared.h"
#include "cpu/sweep.h"

namespace clipcid {

// One thread's.
class DenseStrip {
 public:
  // `memory` is what it may take, about; it takes as much as one strip and one tile need in any case.
  DenseStrip(const CpuPrepared& queries, const CpuPrepared& keys, int64_t memory)
      : queries_(queries), keys_(keys), memory_(memory) {
    plan_.queries.words = queries.dim;
  }

  // Makes ready the strip's rows, and the scores of its panels that were hit.
  Status run(const Strip& strip);

  // Query `r` and key `j` of the strip, as compared; the canonical dot is within `bound` of the score.
  float score(int64_t r, int64_t j) const { return scores_.get()[r * strideScores_ + j]; }
  // Canonical dots of query `r` with listed keys, at most kMostPanel.
  void dots(int64_t r, const int64_t* columns, int64_t count, double* out) const;
  double bound(double queryNorm, double keyNorm) const { return plan_.bound(0, queryNorm, 0, keyNorm); }

 private:
  Status loadKeys(const Strip& strip);
  Status loadQueries(const Strip& strip);

  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  const int64_t memory_;
  FilterPlan plan_;                 // float32 words that are the rows themselves
  int64_t stride_ = 0;              // of rows, in floats
  int64_t key_ = -1, columns_ = 0;  // the keys that are held
  int64_t columnsHeld_ = 0;         // room
  AlignedArray<float> keyRows_, panels_, scores_;
  int64_t strideScores_ = 0;
  std::vector<AlignedArray<float>> tiles_;  // [slots] rows of a tile of queries
  std::vector<int64_t> tileQuery_;          // [slots] its first query
  std::vector<int> tileRows_;
  size_t next_ = 0;  // the slot to be used again
  const float* tile_ = nullptr;
};

}  // namespace clipcid
