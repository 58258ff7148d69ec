#include "cpu/ops/taps.h"

#include <algorithm>

namespace clipcid {

// `each(target, give)` gives the taps of a target.
template <typename Each>
Taps Taps::make(int64_t targets, int64_t step, Each each) {
  Taps made;
  made.step_ = step;
  made.begin_.reserve(static_cast<size_t>(targets) + 1);
  for (int64_t target = 0; target < targets; ++target) {
    each(target, [&](int64_t kernel, int64_t source) {
      made.taps_.push_back({static_cast<int32_t>(kernel), static_cast<int32_t>(source)});
    });
    made.begin_.push_back(static_cast<int32_t>(made.taps_.size()));
  }
  made.run_.assign(static_cast<size_t>(targets), 1);
  for (int64_t target = targets - 2; target >= 0; --target) {
    const auto tap = [](Tap a) { return a.kernel; };
    const bool same = std::ranges::equal(made.of(target), made.of(target + 1), {}, tap, tap);
    if (same) made.run_[static_cast<size_t>(target)] += made.run_[static_cast<size_t>(target) + 1];
  }
  return made;
}

Taps Taps::forward(const Axis& axis) {
  return make(axis.outputs, axis.stride, [&](int64_t target, auto give) {
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t source = target * axis.stride - axis.pad + k * axis.dilation;
      if (source >= 0 && source < axis.inputs) give(k, source);
    }
  });
}

Taps Taps::backward(const Axis& axis) {
  return make(axis.inputs, 1, [&](int64_t target, auto give) {
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t ahead = target + axis.pad - k * axis.dilation;
      if (ahead >= 0 && ahead % axis.stride == 0 && ahead / axis.stride < axis.outputs)
        give(k, ahead / axis.stride);
    }
  });
}

}  // namespace clipcid
