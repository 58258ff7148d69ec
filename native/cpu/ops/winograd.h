// Convolutions of 3 x 3 at every pixel by Winograd's minimal filtering F(2 x 2, 3 x 3) (Lavin and Gray, 2016): 16
// products in place of up to 36 for every four targets, for some additions before and after. Of the algorithms of this
// kind it is the one that costs no accuracy to speak of.
#pragma once

#include <cstdint>
#include <functional>

#include "clipcid/ops.h"
#include "cpu/ops/team.h"

namespace clipcid {

struct Winograd {
  int64_t images = 0;
  int64_t sourceHeight = 0, sourceWidth = 0, depth = 0;    // [sourceHeight, sourceWidth, images, depth]
  int64_t targetHeight = 0, targetWidth = 0, columns = 0;  // [targetHeight, targetWidth, images, columns]
  // Zeros above and to the left of the sources; less than none where targets begin further in.
  int64_t padTop = 0, padLeft = 0;
  const float* source = nullptr;
  float* target = nullptr;
  const float* bias = nullptr;  // [columns], or null
  bool add = false;
  // The taps are in the packed weights the other way round.
  bool flipped = false;
  // Writes the weights of targets [first, first + count) as [9, depth, stride]; what is beyond `count` has been cleared.
  std::function<void(int64_t first, int64_t count, int64_t stride, float* panel)> pack;
};

// The sizes of a convolution of 3 x 3, or of the gradient of its input, which is one of dy with the taps turned round.
Winograd winogradOf(const ConvShape& shape, bool backward);

// Whether it is faster than sums over the windows.
bool pays(const Winograd& winograd);

void run(Team& team, const Winograd& winograd);

}  // namespace clipcid
