// Decoded images: RGB interleaved, 8 bits a channel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace clipcid::images {

// Of resizing; libvips' numbers.
enum class Kernel : int { kNearest = 0, kLinear = 1, kCubic = 2, kLanczos3 = 5 };

// Not owned.
struct ImageView {
  const uint8_t* data = nullptr;
  int64_t width = 0;
  int64_t height = 0;
};

struct Free {
  void operator()(uint8_t* memory) const { std::free(memory); }
};

struct Image {
  std::unique_ptr<uint8_t, Free> data;
  int64_t width = 0;
  int64_t height = 0;

  Image() = default;
  // Not cleared. Throws std::bad_alloc.
  Image(int64_t width, int64_t height) : width(width), height(height) {
    data.reset(static_cast<uint8_t*>(std::malloc(static_cast<size_t>(bytes()))));
    if (!data) throw std::bad_alloc();
  }

  int64_t bytes() const { return 3 * width * height; }
  ImageView view() const { return {data.get(), width, height}; }
};

}  // namespace clipcid::images
