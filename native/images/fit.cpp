#include "images/fit.h"

#include <algorithm>

namespace clipcid::images {

bool fit(const ImageView& image, const FitArgs& args, float* out) {
  ImageView whole = image;
  int64_t width = image.width, height = image.height;
  if (args.shortest > 0) {
    const int64_t shorter = std::min(width, height);
    width = width == shorter ? args.shortest : args.shortest * width / shorter;
    height = height == shorter ? args.shortest : args.shortest * height / shorter;
  } else if (args.width > 0) {
    width = args.width;
    height = args.height;
  }
  if (width < args.size || height < args.size) return false;
  Image resized;
  if (width != image.width || height != image.height) {
    if (!resize(image, width, height, args.kernel, &resized)) return false;
    whole = resized.view();
  }
  const int64_t left = (width - args.size) / 2, top = (height - args.size) / 2;
  const int64_t area = args.size * args.size;
  for (int64_t y = 0; y < args.size; ++y) {
    const uint8_t* line = whole.data + 3 * ((top + y) * width + left);
    float* to = out + y * args.size;
    for (int64_t x = 0; x < args.size; ++x, line += 3) {
      to[x] = args.table[line[0]];
      to[area + x] = args.table[256 + line[1]];
      to[2 * area + x] = args.table[512 + line[2]];
    }
  }
  return true;
}

}  // namespace clipcid::images
