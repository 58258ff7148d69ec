// What a model does to an image before it sees it: resized, cut out of the middle, rescaled and normalised.
#pragma once

#include "images/resize.h"

namespace clipcid::images {

struct FitArgs {
  // After resizing: the shorter side where `shortest` is over 0; `width` and `height` where these are; otherwise as it is.
  int64_t shortest = 0;
  int64_t width = 0, height = 0;
  Kernel kernel = Kernel::kCubic;
  // Side of the square cut out of the middle.
  int64_t size = 0;
  // [3, 256] result for each value of each channel.
  const float* table = nullptr;
};

// Planes [3, size, size] into `out`. False where the image is smaller than the square, or could not be resized. Throws std::bad_alloc.
bool fit(const ImageView& image, const FitArgs& args, float* out);

}  // namespace clipcid::images
