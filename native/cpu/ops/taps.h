// Which pixels a window reaches, along one axis.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace clipcid {

struct Axis {
  int64_t inputs = 0, outputs = 0;
  int64_t kernel = 1, stride = 1, dilation = 1;
  int64_t pad = 0;  // in front
};

// Tap `kernel` of a window brings `source` to the target in question.
struct Tap {
  int32_t kernel;
  int32_t source;
};

// For each target of an axis the taps that reach it, without those that lie in the padding.
class Taps {
 public:
  // Targets are outputs, sources are inputs.
  static Taps forward(const Axis& axis);
  // Targets are inputs, sources are the outputs whose windows they lie in.
  static Taps backward(const Axis& axis);

  int64_t targets() const { return static_cast<int64_t>(begin_.size()) - 1; }
  std::span<const Tap> of(int64_t target) const {
    const size_t at = static_cast<size_t>(target);
    return {taps_.data() + begin_[at], taps_.data() + begin_[at + 1]};
  }
  // How many targets from this one on, itself included, have the same taps, with sources that move on by step() each.
  int64_t run(int64_t target) const { return run_[static_cast<size_t>(target)]; }
  int64_t step() const { return step_; }

 private:
  template <typename Each>
  static Taps make(int64_t targets, int64_t step, Each each);

  std::vector<Tap> taps_;
  std::vector<int32_t> begin_{0};
  std::vector<int32_t> run_;
  int64_t step_ = 1;
};

}  // namespace clipcid
