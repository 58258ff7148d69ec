// Decoding through libvips; see decode.h.
//
// A strip at a time is asked for, on the calling thread, small enough to stay in the cache until it is laid out as RGB.
#include "images/decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "images/libvips.h"

namespace clipcid::images {
namespace {

// What sharp refuses too.
constexpr int64_t kMostPixels = 0x3FFF * int64_t{0x3FFF};
constexpr int64_t kStripBytes = 1 << 17;

// A reference to one of libvips' objects.
template <typename T>
class Reference {
 public:
  Reference(const Libvips& vips, T* object) : vips_(vips), object_(object) {}
  ~Reference() {
    if (object_ != nullptr) vips_.unref(object_);
  }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  T* get() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  const Libvips& vips_;
  T* object_;
};

bool ordinary(const uint8_t* bytes, size_t length) {
  if (length < 16) return false;
  const bool jpeg = std::memcmp(bytes, "\xff\xd8\xff", 3) == 0;
  const bool png = std::memcmp(bytes, "\x89PNG", 4) == 0;
  const bool webp = std::memcmp(bytes, "RIFF", 4) == 0 && std::memcmp(bytes + 8, "WEBP", 4) == 0;
  return jpeg || png || webp;
}

// libvips also looks into files that begin like these and are something else to it.
bool ordinaryLoader(const char* name) {
  if (name == nullptr) return false;
  for (const char* known :
       {"VipsForeignLoadJpegSource", "VipsForeignLoadPngSource", "VipsForeignLoadWebpSource"}) {
    if (std::strcmp(name, known) == 0) return true;
  }
  return false;
}

// [count, bands] to [count, 3].
void layOut(const uint8_t* in, int64_t count, int bands, const uint8_t background[3], uint8_t* out) {
  if (bands == 3) {
    std::memcpy(out, in, static_cast<size_t>(3 * count));
  } else if (bands == 1) {
    for (int64_t i = 0; i < count; ++i) out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = in[i];
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const int alpha = in[4 * i + 3];
      for (int c = 0; c < 3; ++c) {
        out[3 * i + c] = static_cast<uint8_t>((in[4 * i + c] * alpha + background[c] * (255 - alpha)) / 255);
      }
    }
  }
}

// All of an image of libvips, from its top to its bottom.
bool read(const Libvips& vips, VipsImage* source, const uint8_t background[3], Image* image) {
  const int width = vips.width(source), height = vips.height(source), bands = vips.bands(source);
  Image result(width, height);
  const Reference<VipsRegion> region(vips, vips.regionOf(source));
  if (!region) return false;
  const auto lines =
      static_cast<int>(std::clamp<int64_t>(kStripBytes / (int64_t{width} * bands), 16, height));
  for (int top = 0; top < height; top += lines) {
    const int count = std::min(lines, height - top);
    size_t length = 0;
    uint8_t* strip = vips.fetch(region.get(), 0, top, width, count, &length);
    if (strip == nullptr) return false;
    layOut(strip, int64_t{width} * count, bands, background, result.data.get() + int64_t{3} * width * top);
    vips.free(strip);
  }
  *image = std::move(result);
  return true;
}

bool load(const Libvips& vips, const uint8_t* bytes, size_t length, const uint8_t background[3],
          Image* image) {
  const Reference<VipsSource> source(vips, vips.sourceFromMemory(bytes, length));
  if (!source || !ordinaryLoader(vips.findLoader(source.get()))) return false;
  const Reference<VipsImage> opened(vips, vips.imageFromSource(source.get(), "", "access", kVipsSequential,
                                                               "fail_on", kVipsFailOnError, nullptr));
  if (!opened) return false;
  VipsImage* it = opened.get();
  const int bands = vips.bands(it), interpretation = vips.interpretation(it);
  const bool known = (bands == 1 && interpretation == kVipsBw) ||
                     ((bands == 3 || bands == 4) && interpretation == kVipsSrgb);
  if (!known || vips.format(it) != kVipsUchar || vips.orientation(it) > 1) return false;
  const int64_t width = vips.width(it), height = vips.height(it);
  if (width < 1 || height < 1 || width * height > kMostPixels) return false;
  return read(vips, it, background, image);
}

}  // namespace

bool decode(const uint8_t* bytes, size_t length, const DecodeArgs& args, Image* image) {
  const Libvips* vips = libvips();
  if (vips == nullptr || !ordinary(bytes, length)) return false;
  if (!load(*vips, bytes, length, args.background, image)) {
    vips->clearError();
    return false;
  }
  const int64_t shorter = std::min(image->width, image->height);
  if (args.shortest == 0 || shorter <= args.shortest) return true;
  // As Math.round: halves up.
  const double factor = static_cast<double>(args.shortest) / static_cast<double>(shorter);
  const auto scaled = [&](int64_t side) {
    return static_cast<int64_t>(std::floor(static_cast<double>(side) * factor + 0.5));
  };
  Image smaller;
  if (!shrink(image->view(), scaled(image->width), scaled(image->height), Kernel::kLinear, &smaller))
    return false;
  *image = std::move(smaller);
  return true;
}

bool shrink(const ImageView& image, int64_t width, int64_t height, Kernel kernel, Image* out) {
  const Libvips* vips = libvips();
  if (vips == nullptr) return false;
  const Reference<VipsImage> in(
      *vips,
      vips->imageFromMemory(image.data, static_cast<size_t>(3 * image.width * image.height),
                            static_cast<int>(image.width), static_cast<int>(image.height), 3, kVipsUchar));
  VipsImage* resized = nullptr;
  // The factors as sharp computes them: shrinks first, then their reciprocals.
  const double across = 1 / (static_cast<double>(image.width) / static_cast<double>(width));
  const double down = 1 / (static_cast<double>(image.height) / static_cast<double>(height));
  const bool made = in && vips->resize(in.get(), &resized, across, "vscale", down, "kernel",
                                       static_cast<int>(kernel), nullptr) == 0;
  const Reference<VipsImage> result(*vips, made ? resized : nullptr);
  const uint8_t none[3] = {0, 0, 0};
  const bool done = made && vips->width(resized) == width && vips->height(resized) == height &&
                    read(*vips, resized, none, out);
  if (!done) vips->clearError();
  return done;
}

}  // namespace clipcid::images
