#include "cpu/gaps.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "cpu/sweep.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr int64_t kTried = 512;
constexpr uint8_t kNone = 255;
constexpr int kMostShift = 16;
constexpr int kFine = 128, kCoarse = 8;
constexpr int kMost = kFine + (255 - kFine) * kCoarse;  // units

// Rounded up; 255: more than a byte can tell.
uint8_t codeOf(double units) {
  const double more = units * (1 + 0x1p-40);
  if (!(more < kMost)) return 255;
  if (!(more > 0)) return 0;
  auto whole = static_cast<int>(more);
  whole += static_cast<double>(whole) < more;
  return static_cast<uint8_t>(whole < kFine ? whole : std::min(kFine + (whole - kFine) / kCoarse, 255));
}

// to[i] = the lesser of from[2 i] and from[2 i + 1].
CLIPCID_WIDE void halve(const int8_t* from, int64_t count, int8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i] < from[2 * i + 1] ? from[2 * i] : from[2 * i + 1];
}

// Groups that are cut in two by strips come from two threads, maybe.
void lower(int8_t* at, int8_t value) {
  std::atomic_ref<int8_t> shared(*at);
  int8_t before = shared.load(std::memory_order_relaxed);
  while (value < before && !shared.compare_exchange_weak(before, value, std::memory_order_relaxed)) {
  }
}

}  // namespace

void Gaps::make(int64_t rows, int64_t keys, bool whole, int64_t bytes) {
  *this = Gaps();
  rows_ = rows;
  keys_ = keys;
  tried_ = std::min(kTried, rows);
  whole_ = whole || tried_ == rows;
  for (shift_ = 0; shift_ <= kMostShift; ++shift_) {
    groups_ = ((keys - 1) >> shift_) + 1;
    stride_ = (groups_ + 63) / 64 * 64;
    // The groups of those that are tried are as large as all would have to be.
    if (stride_ * rows <= bytes) break;
  }
  if (shift_ > kMostShift) {
    stride_ = 0;
    return;
  }
  const int64_t slots = whole_ ? rows : tried_;
  bytes_ = AlignedArray<int8_t>(stride_ * slots);
  bases_.resize(static_cast<size_t>(slots));
  made_.assign(static_cast<size_t>(slots), kNone);
}

void Gaps::advance(const double* drift) {
  if (epochs_.size() + 1 >= kNone) {
    epochs_.clear();
    std::fill(made_.begin(), made_.end(), kNone);
  }
  std::vector<double> most(drift, drift + keys_);
  if (shift_ > 0) {
    most.assign(static_cast<size_t>(groups_), 0);
    for (int64_t j = 0; j < keys_; ++j) {
      double& group = most[static_cast<size_t>(j >> shift_)];
      group = std::max(group, drift[j]);
    }
  }
  for (Epoch& epoch : epochs_) {
    const double inverse = 1 / epoch.unit * (1 + 0x1p-50);
    for (size_t g = 0; g < most.size(); ++g) {
      epoch.moved[g] = (epoch.moved[g] + most[g]) * (1 + 0x1p-50);
      epoch.rises.get()[g] = codeOf(epoch.moved[g] * inverse);
    }
  }
}

int64_t Gaps::open(int64_t row, double distance, int32_t* groups, int32_t* open) const {
  const int64_t slot = slotOf(row);
  if (slot < 0 || made_[static_cast<size_t>(slot)] == kNone) return -1;
  const Epoch& epoch = epochs_[made_[static_cast<size_t>(slot)]];
  const double farther = distance - static_cast<double>(bases_[static_cast<size_t>(slot)]);
  const uint8_t more = codeOf(farther / epoch.unit * (1 + 0x1p-50));
  if (more == 255) return -1;
  int32_t* found = shift_ == 0 ? open : groups;
  int64_t count = kernels().notOver(bytes_.get() + slot * stride_, epoch.rises.get(), more, stride_, found);
  // Behind the last group lies nothing.
  while (count > 0 && found[count - 1] >= groups_) --count;
  if (shift_ == 0) return count;
  int64_t total = 0;
  for (int64_t at = 0; at < count; ++at) {
    const int64_t first = static_cast<int64_t>(groups[at]) << shift_;
    for (int64_t j = first; j < std::min(first + groupSize(), keys_); ++j)
      open[total++] = static_cast<int32_t>(j);
  }
  return total;
}

void Gaps::prefetch(int64_t row) const {
  if (!whole_) return;
  const int8_t* gaps = bytes_.get() + row * stride_;
  for (int64_t k = 0; k < stride_; k += 64) __builtin_prefetch(gaps + k);
}

void Gaps::beginEpoch(double unit) {
  Epoch& made = epochs_.emplace_back();
  made.unit = unit;
  made.moved.assign(static_cast<size_t>(groups_), 0);
  made.rises = AlignedArray<uint8_t>(stride_);
  std::fill(made.rises.get(), made.rises.get() + stride_, uint8_t{0});
}

void Gaps::clear(int64_t row) {
  const int64_t slot = slotOf(row);
  if (slot < 0 || shift_ == 0) return;
  std::fill(bytes_.get() + slot * stride_, bytes_.get() + (slot + 1) * stride_, int8_t{127});
}

void Gaps::take(int64_t row, int64_t first, int64_t count, const int8_t* scratch) {
  if (shift_ == 0) return;
  int8_t* gaps = bytes_.get() + slotOf(row) * stride_;
  // As many halvings as the strip's first key and length allow; what is left is done one by one.
  int8_t halves[2][kMostStrip / 2 + 1];
  const int8_t* from = scratch;
  const int64_t end = first + count;
  int step = 0;
  for (; step < shift_ && first % 2 == 0 && count > 1; ++step) {
    int8_t* to = halves[step % 2];
    halve(from, count / 2, to);
    if (count % 2 != 0) to[count / 2] = from[count - 1];
    first /= 2;
    count = (count + 1) / 2;
    from = to;
  }
  int64_t at = 0;
  if (step == shift_) {
    // Whole groups are nobody else's.
    at = end % groupSize() == 0 || end == keys_ ? count : count - 1;
    std::copy(from, from + at, gaps + first);
  }
  for (; at < count; ++at) lower(gaps + ((first + at) >> (shift_ - step)), from[at]);
}

// Of a score b below the floor, the distance is at least (near^2 + 2 b)^1/2, a concave function of b, for which two chords
// are taken: one for the fine gaps and one for the coarse.
GapTerms Gaps::terms(double near, float floor, int8_t* to) const {
  if (!(near > 0)) return {to, 0, -128, 0, -128};
  const double unit = epochs_.back().unit, score = static_cast<double>(floor);
  const auto below = [&](double units) { return units * unit * (near + units * unit / 2); };
  const double fine = kFine / below(kFine), coarse = (255 - kFine) / (below(kMost) - below(kFine));
  // The nearest number to half a unit less is not above it; float32 rounds too.
  const auto from = [&](double slope, double at0) {
    return static_cast<float>(at0 - 128.5 + slope * score - 0x1p-20 * (slope * std::fabs(score) + 512));
  };
  return {to, static_cast<float>(-fine), from(fine, 0), static_cast<float>(-coarse),
          from(coarse, kFine - coarse * below(kFine))};
}

void Gaps::setBase(int64_t row, float base) {
  const int64_t slot = slotOf(row);
  if (slot < 0) return;
  bases_[static_cast<size_t>(slot)] = base;
  made_[static_cast<size_t>(slot)] = static_cast<uint8_t>(epochs_.size() - 1);
}

}  // namespace clipcid
