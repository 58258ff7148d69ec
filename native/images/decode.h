// Decoding of ordinary images: JPEG, PNG and WebP of 8 bits, grey, RGB or RGBA, upright.
//
// In:  encoded bytes.
// Out: RGB, 8 bits a channel; transparent pixels laid on a colour; to the bit what sharp's pipeline of ts/src/data/image.ts gives.
//
// Everything else (other formats, CMYK, 16 bits, an EXIF orientation, damage of any kind) is refused without a reason: sharp takes it, or
// says what is wrong with it. One thread an image.
#pragma once

#include "images/image.h"

namespace clipcid::images {

struct DecodeArgs {
  uint8_t background[3] = {255, 255, 255};
  // The shorter side is shrunk to this with a triangle filter where it is longer, as libvips does it; 0: never.
  int64_t shortest = 0;
};

// False where the image is refused. Throws std::bad_alloc.
bool decode(const uint8_t* bytes, size_t length, const DecodeArgs& args, Image* image);

// Reduces to a size that is nowhere larger, as sharp's resize to it does. False where libvips is not there or fails.
bool shrink(const ImageView& image, int64_t width, int64_t height, Kernel kernel, Image* out);

}  // namespace clipcid::images
