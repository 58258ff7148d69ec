#include "images/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/wide.h"
#include "images/decode.h"
#include "images/libvips.h"

namespace clipcid::images {
namespace {

// Bits after the point of a weight: products of 8-bit values and their sums stay within 32 bits.
constexpr int kBits = 22;
// Makes the shift round.
constexpr uint32_t kHalf = 1u << (kBits - 1);

// Reach of a kernel to either side, in source pixels when nothing shrinks.
double supportOf(Kernel kernel) { return kernel == Kernel::kLinear ? 1 : kernel == Kernel::kCubic ? 2 : 3; }

double sinc(double x) { return x == 0 ? 1 : std::sin(x * M_PI) / (x * M_PI); }

double weightOf(Kernel kernel, double at) {
  const double x = std::abs(at);
  switch (kernel) {
    case Kernel::kLinear:
      return std::max(0.0, 1 - x);
    case Kernel::kCubic:  // Keys' with a = -1/2
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    default:
      return x < 3 ? sinc(at) * sinc(at / 3) : 0;
  }
}

// Where each pixel of one axis comes from: `size` weights from source pixel `first` on.
struct Axis {
  std::vector<int32_t> first, size, weights;
  int64_t widest = 1;

  Axis(int64_t from, int64_t to, Kernel kernel)
      : first(static_cast<size_t>(to)), size(static_cast<size_t>(to), 1) {
    const double scale = static_cast<double>(from) / static_cast<double>(to);
    if (kernel == Kernel::kNearest) {
      weights.assign(static_cast<size_t>(to), 1 << kBits);
      // A running sum, as in PIL: it decides on which side of a pixel's edge a centre falls.
      double centre = scale / 2;
      for (auto& place : first) {
        place = static_cast<int32_t>(std::min<double>(static_cast<double>(from - 1), std::trunc(centre)));
        centre += scale;
      }
      return;
    }
    const double stretch = std::max(1.0, scale);
    const double reach = supportOf(kernel) * stretch;
    widest = static_cast<int64_t>(std::ceil(reach)) * 2 + 1;
    weights.assign(static_cast<size_t>(to * widest), 0);
    std::vector<double> values;
    for (int64_t i = 0; i < to; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * scale;
      const double begin = std::max(0.0, std::trunc(centre - reach + 0.5));
      const double count = std::min(static_cast<double>(from), std::trunc(centre + reach + 0.5)) - begin;
      values.clear();
      double sum = 0;
      for (int32_t k = 0; k < static_cast<int32_t>(count); ++k) {
        values.push_back(weightOf(kernel, (k + begin - centre + 0.5) * (1 / stretch)));
        sum += values.back();
      }
      first[static_cast<size_t>(i)] = static_cast<int32_t>(begin);
      size[static_cast<size_t>(i)] = static_cast<int32_t>(count);
      for (size_t k = 0; k < values.size(); ++k) {
        const double fixed = values[k] / sum * (1 << kBits);
        weights[static_cast<size_t>(i * widest) + k] =
            static_cast<int32_t>(std::trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
      }
    }
  }
};

uint8_t clip(uint32_t sum) {
  const int32_t value = static_cast<int32_t>(sum) >> kBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// [height, width, 3] to [height, places, 3].
void alongRows(const Axis& axis, const ImageView& image, uint8_t* out) {
  const auto places = axis.first.size();
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* line = image.data + 3 * y * image.width;
    for (size_t place = 0; place < places; ++place, out += 3) {
      const uint8_t* from = line + 3 * axis.first[place];
      const int32_t* weight = axis.weights.data() + static_cast<int64_t>(place) * axis.widest;
      uint32_t red = kHalf, green = kHalf, blue = kHalf;
      for (int32_t k = 0; k < axis.size[place]; ++k, from += 3) {
        const auto w = static_cast<uint32_t>(weight[k]);
        red += w * from[0];
        green += w * from[1];
        blue += w * from[2];
      }
      out[0] = clip(red);
      out[1] = clip(green);
      out[2] = clip(blue);
    }
  }
}

CLIPCID_WIDE void addLine(uint32_t weight, const uint8_t* __restrict line, int64_t count,
                          uint32_t* __restrict sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += weight * line[i];
}

CLIPCID_WIDE void clipLine(const uint32_t* __restrict sums, int64_t count, uint8_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = clip(sums[i]);
}

// [height, stride] to [places, stride], a line at a time.
void alongColumns(const Axis& axis, const uint8_t* lines, int64_t stride, uint8_t* out) {
  std::vector<uint32_t> sums(static_cast<size_t>(stride));
  for (size_t place = 0; place < axis.first.size(); ++place, out += stride) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const int32_t* weight = axis.weights.data() + static_cast<int64_t>(place) * axis.widest;
    for (int32_t k = 0; k < axis.size[place]; ++k) {
      addLine(static_cast<uint32_t>(weight[k]), lines + (axis.first[place] + k) * stride, stride,
              sums.data());
    }
    clipLine(sums.data(), stride, out);
  }
}

}  // namespace

Image resample(const ImageView& image, int64_t width, int64_t height, Kernel kernel) {
  Image rows(width, image.height);
  alongRows(Axis(image.width, width, kernel), image, rows.data.get());
  Image result(width, height);
  alongColumns(Axis(image.height, height, kernel), rows.data.get(), 3 * width, result.data.get());
  return result;
}

bool resize(const ImageView& image, int64_t width, int64_t height, Kernel kernel, Image* out) {
  const bool enlarges = width > image.width || height > image.height;
  if (!enlarges && kernel != Kernel::kNearest) return shrink(image, width, height, kernel, out);
  *out = resample(image, width, height, kernel);
  return true;
}

}  // namespace clipcid::images
