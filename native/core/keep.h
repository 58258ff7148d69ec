// Keep policies: which row of a group stays.
//
// Every policy gives each member a rank; the member of highest rank stays, ties go to the smaller index. The score of
// a member is its canonical dot with the group's mean (balance.h, 5).
//   central  rank = score
//   easy     rank = score: the member most like the group's centre, which is the mean here, so the same row as `central`
//   hard     rank = -score: the member least like it
//   first    all ranks are equal
//   best     rank = the caller's score of the row, a float64 that is not NaN; -0 equals 0
//   random   rank = philox64(seed, kPhiloxKeep, index of the row)
// Two members are equally far from their mean, and only rounding could tell them apart: in a group of exactly two all
// ranks of `central`, `easy` and `hard` are equal, so the smaller index stays. `best` and `random` decide there too.
#pragma once

#include <cstdint>
#include <cstring>

#include "clipcid/philox.h"

namespace clipcid {

struct KeepPolicy {
  enum class Kind : uint8_t { kCentral, kEasy, kHard, kFirst, kBest, kRandom } kind = Kind::kCentral;
  const double* scores = nullptr;  // [N], of kBest
  uint64_t seed = 0;               // of kRandom
};

// Orders numbers that are not NaN as their doubles are ordered.
inline uint64_t orderedBits(double value) {
  value += 0.0;  // -0 becomes 0
  uint64_t bits;
  memcpy(&bits, &value, 8);
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

// Rank of a member of a group of `size` rows.
inline uint64_t keepRank(const KeepPolicy& policy, int64_t size, int64_t row, double score) {
  switch (policy.kind) {
    case KeepPolicy::Kind::kCentral:
    case KeepPolicy::Kind::kEasy:
      return size == 2 ? 0 : orderedBits(score);
    case KeepPolicy::Kind::kHard:
      return size == 2 ? 0 : orderedBits(-score);
    case KeepPolicy::Kind::kFirst:
      return 0;
    case KeepPolicy::Kind::kBest:
      return orderedBits(policy.scores[row]);
    case KeepPolicy::Kind::kRandom:
      return philox64(policy.seed, kPhiloxKeep, static_cast<uint64_t>(row));
  }
  return 0;
}

}  // namespace clipcid
