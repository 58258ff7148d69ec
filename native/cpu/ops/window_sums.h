// Each target pixel of a convolution as a sum over the pixels that its window reaches: what the pass forward and the
// gradient of the input are made of.
#pragma once

#include <cstdint>
#include <functional>

#include "cpu/ops/conv_kernels.h"
#include "cpu/ops/taps.h"
#include "cpu/ops/team.h"

namespace clipcid {

struct WindowSums {
  int64_t images = 0;
  const Taps* vertical = nullptr;
  const Taps* horizontal = nullptr;
  int64_t verticalTaps = 1, horizontalTaps = 1;
  int64_t groups = 1;
  int64_t depth = 0;    // elements that a tap takes from a source pixel
  int64_t columns = 0;  // target channels of a group

  const float* source = nullptr;
  // Elements from one source pixel to the one below, to the right, and of the next image; from group to group.
  int64_t sourceRow = 0, sourceColumn = 0, sourceImage = 0, sourceGroup = 0;
  float* target = nullptr;  // [pixels, images, groups * columns]
  const float* bias = nullptr;
  bool add = false;  // to what the target holds

  // Writes the weights of target channels [first, first + count) of a group as [taps, depth, stride]; what is beyond
  // `count` has been cleared.
  std::function<void(int64_t group, int64_t first, int64_t count, int64_t stride, float* panel)> pack;
};

void run(Team& team, const WindowSums& sums);

}  // namespace clipcid
