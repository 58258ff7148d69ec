// Gaps: how much farther than a row's own centre the other centres were when the row was compared with all of them, in
// a byte for each group of a few centres. With what has moved since they tell which centres cannot have become the nearest.
//
// After the comparison with all, of which `base` is the distance to the row's centre, centre j of group g is farther than
//   base + unit * gap_g - rise_g
// with rise_g what the group's centres moved since, at most, and the unit that of the call in which the gap was made, its
// epoch. Units count whole up to 128, from there on eight are one: a small sum is exact and a large one still says something.
// The code of a sum is not above the sum of the codes, so that one addition and one comparison of bytes decide.
#pragma once

#include <vector>

#include "core/aligned.h"
#include "cpu/kernels.h"

namespace clipcid {

class Gaps {
 public:
  // Gaps of all rows, or of some tried ones that are spread evenly, with as small groups as fit the bytes; makes none when
  // not even the largest do.
  void make(int64_t rows, int64_t keys, bool whole, int64_t bytes);
  bool made() const { return stride_ > 0; }
  bool whole() const { return whole_; }
  // Whether there are any from before.
  bool known() const { return !epochs_.empty(); }

  int64_t tried() const { return tried_; }
  int64_t triedRow(int64_t at) const { return (2 * at + 1) * rows_ / (2 * tried_); }
  int64_t stride() const { return stride_; }
  int64_t groupSize() const { return int64_t{1} << shift_; }

  // Before a call: how far each key moved since the last.
  void advance(const double* drift);
  // The positions of keys that may be nearer than `distance` to the row, or as near; groups come whole. Returns how many, or
  // -1 when nothing is known of the row. `groups` has room for stride() + 3, `open` for all keys and 3.
  int64_t open(int64_t row, double distance, int32_t* groups, int32_t* open) const;
  void prefetch(int64_t row) const;

  // A comparison of rows with all keys, which may store their gaps; their bases follow.
  void beginEpoch(double unit);
  bool keeps(int64_t row) const { return slotOf(row) >= 0; }
  void clear(int64_t row);
  // Where the gaps of a row from key `first` on are to be stored: in place, or in `scratch`, from where take() has them.
  int8_t* place(int64_t row, int64_t first, int8_t* scratch) {
    return shift_ == 0 ? bytes_.get() + slotOf(row) * stride_ + first : scratch;
  }
  void take(int64_t row, int64_t first, int64_t count, const int8_t* scratch);
  // What a kernel needs for a row whose centre is at `near`, or nearer, and scores `floor`.
  GapTerms terms(double near, float floor, int8_t* to) const;
  void setBase(int64_t row, float base);

 private:
  struct Epoch {
    double unit = 0;
    std::vector<double> moved{};    // [groups] since
    AlignedArray<uint8_t> rises{};  // [stride] its code
  };

  int64_t slotOf(int64_t row) const {
    if (whole_) return row;
    const int64_t at = row * tried_ / rows_;
    return triedRow(at) == row ? at : -1;
  }

  int64_t rows_ = 0, keys_ = 0, tried_ = 0;
  bool whole_ = false;
  int shift_ = 0;  // groups are of 2^shift keys
  int64_t groups_ = 0;
  int64_t stride_ = 0;            // bytes of a row
  AlignedArray<int8_t> bytes_{};  // [slots, stride] the code less 128
  std::vector<float> bases_;      // [slots]
  std::vector<uint8_t> made_;     // [slots] the epoch, or kNone
  std::vector<Epoch> epochs_;
};

}  // namespace clipcid
