// Chains over a part of a row at a time: each step runs over a block of elements that stays in the first cache.
#pragma once

#include "clipcid/ops.h"
#include "cpu/ops/simd.h"

namespace clipcid {

class ChainRunner {
 public:
  // The chain must outlive it.
  explicit ChainRunner(const Chain& chain);

  // Floats of memory that a worker needs.
  int64_t floats() const { return slots_ * kBlock; }

  // Columns [from, to) of a row, the rows being all axes but the last as one.
  void row(int64_t row, int64_t from, int64_t to, float* memory) const;

 private:
  static constexpr int64_t kBlock = 512;
  static constexpr int kNone = -1;

  // Where an operand is found: an input as it lies, or a slot.
  struct Place {
    int slot = kNone;
    int output = kNone;  // an output's memory
  };
  void findPair();
  void block(const int64_t* offsets, int64_t base, int64_t from, int64_t count, float* memory) const;
  void integers(const int64_t* offsets, int64_t base, int64_t from, int64_t count) const;

  const Chain& chain_;
  const Simd& simd_;
  int slots_ = 0;
  Place input_[kMostChainInputs];  // a slot where its elements have to be gathered or converted first
  Place step_[kMostChainSteps];
  // A function and its gradient at the same place, which run together where the later of them stands.
  int value_ = kNone, gradient_ = kNone;
};

}  // namespace clipcid
