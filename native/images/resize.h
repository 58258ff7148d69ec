// Resizing, antialiased: what is reduced goes through libvips, as sharp reduces it; what is enlarged along a side, or takes the nearest
// pixel, is resampled here, to the bit as PIL does it (libvips would shift it by half a pixel).
#pragma once

#include "images/image.h"

namespace clipcid::images {

// Into `out`. False where libvips is needed and is not there, or fails. Throws std::bad_alloc.
bool resize(const ImageView& image, int64_t width, int64_t height, Kernel kernel, Image* out);

// First along rows and then along columns, pixel centres at halves, the support widened where it reduces, weights cut off and made to sum to 1
// at the edges, in fixed point, and 8-bit values in between.
Image resample(const ImageView& image, int64_t width, int64_t height, Kernel kernel);

}  // namespace clipcid::images
