// Views on the CPU; see view.h for what is computed.
//
// A source row is widened to float64 once, then every output pixel takes its taps as vectors of four channels, of which the fourth is the
// next pixel's and thrown away; columns are summed a row of outputs at a time.
#include "images/view.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/wide.h"

namespace clipcid::images {
namespace {

// Luma of Rec. 601.
constexpr double kLuma[3] = {0.299, 0.587, 0.114};
// Far beyond any image, and small enough for 32 bits.
constexpr double kLargest = 1 << 24;

CLIPCID_WIDE void widen(const uint8_t* __restrict in, int64_t count, double* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = in[i];
}

// One row: line [source pixels, 3] and one number beyond, out [size, 3] and one beyond.
CLIPCID_WIDE void alongRow(const double* __restrict line, const int32_t* __restrict first,
                           const int32_t* __restrict count, const float* __restrict weights, int64_t stride,
                           int64_t size, float* __restrict out) {
  typedef double Four __attribute__((vector_size(32), aligned(8), may_alias));
  typedef float FourFloats __attribute__((vector_size(16), aligned(4), may_alias));
  for (int64_t x = 0; x < size; ++x) {
    const double* at = line + 3 * first[x];
    const float* weight = weights + x * stride;
    Four sum = {0, 0, 0, 0};
    for (int32_t k = 0; k < count[x]; ++k, at += 3) {
      const double w = weight[k];
      sum += w * *reinterpret_cast<const Four*>(at);
    }
    *reinterpret_cast<FourFloats*>(out + 3 * x) = __builtin_convertvector(sum, FourFloats);
  }
}

// sums += weight * row, or = in the first of a pixel's taps.
CLIPCID_WIDE void addRow(double weight, const float* __restrict row, int64_t count, bool begin,
                         double* __restrict sums) {
  if (begin) {
    for (int64_t i = 0; i < count; ++i) sums[i] = weight * static_cast<double>(row[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) sums[i] += weight * static_cast<double>(row[i]);
  }
}

CLIPCID_WIDE void separate(const double* __restrict sums, int64_t size, float* __restrict r,
                           float* __restrict g, float* __restrict b) {
  for (int64_t x = 0; x < size; ++x) {
    r[x] = static_cast<float>(sums[3 * x]);
    g[x] = static_cast<float>(sums[3 * x + 1]);
    b[x] = static_cast<float>(sums[3 * x + 2]);
  }
}

void turn(const float* planes, int64_t size, double cos, double sin, float* out) {
  const int64_t area = size * size;
  const double middle = static_cast<double>(size - 1) / 2;
  const auto last = static_cast<double>(size - 1);
  for (int64_t y = 0; y < size; ++y) {
    for (int64_t x = 0; x < size; ++x) {
      const double dx = static_cast<double>(x) - middle;
      const double dy = static_cast<double>(y) - middle;
      const double sx = std::min(last, std::max(0.0, middle + cos * dx - sin * dy));
      const double sy = std::min(last, std::max(0.0, middle + sin * dx + cos * dy));
      const double x0 = std::min(last - 1, std::floor(sx));
      const double y0 = std::min(last - 1, std::floor(sy));
      const double fx = sx - x0;
      const double fy = sy - y0;
      const float* p = planes + static_cast<int64_t>(y0) * size + static_cast<int64_t>(x0);
      for (int64_t plane = 0; plane < 3 * area; plane += area) {
        const float* q = p + plane;
        const double topLeft = q[0], topRight = q[1], low = q[size], lowRight = q[size + 1];
        const double above = topLeft + fx * (topRight - topLeft);
        const double below = low + fx * (lowRight - low);
        out[plane + y * size + x] = static_cast<float>(above + fy * (below - above));
      }
    }
  }
}

CLIPCID_WIDE void recolour(const double* m, double shift, int64_t area, float* __restrict r,
                           float* __restrict g, float* __restrict b) {
  const double m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4], m5 = m[5], m6 = m[6], m7 = m[7],
               m8 = m[8];
  for (int64_t i = 0; i < area; ++i) {
    const double x = r[i], y = g[i], z = b[i];
    const double red = m0 * x + m1 * y + m2 * z + shift;
    const double green = m3 * x + m4 * y + m5 * z + shift;
    const double blue = m6 * x + m7 * y + m8 * z + shift;
    r[i] = static_cast<float>(red < 0 ? 0 : red > 1 ? 1 : red);
    g[i] = static_cast<float>(green < 0 ? 0 : green > 1 ? 1 : green);
    b[i] = static_cast<float>(blue < 0 ? 0 : blue > 1 ? 1 : blue);
  }
}

// The three channels' sums side by side: each is one chain of additions.
void sumPlanes(const float* planes, int64_t area, double* sums) {
  double r = 0, g = 0, b = 0;
  for (int64_t i = 0; i < area; ++i) {
    r += static_cast<double>(planes[i]);
    g += static_cast<double>(planes[area + i]);
    b += static_cast<double>(planes[2 * area + i]);
  }
  sums[0] = r;
  sums[1] = g;
  sums[2] = b;
}

void colour(const View& view, int64_t area, float* planes) {
  double grey = 0;
  if (view.contrast != 1) {
    double sums[3];
    sumPlanes(planes, area, sums);
    for (int c = 0; c < 3; ++c) grey += kLuma[c] * (sums[c] / static_cast<double>(area));
  }
  const double shift = (1 - view.contrast) * (grey * view.brightness);
  recolour(view.colour, shift, area, planes, planes + area, planes + 2 * area);
}

CLIPCID_WIDE void scaleAndShift(double scale, double shift, int64_t count, float* __restrict values) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(static_cast<double>(values[i]) * scale + shift);
  }
}

template <typename T>
T* room(std::vector<T>& memory, int64_t count) {
  if (static_cast<int64_t>(memory.size()) < count) memory.resize(static_cast<size_t>(count));
  return memory.data();
}

}  // namespace

bool validView(const ImageView& image, const View& view) {
  const auto within = [](double value, double least) { return value >= least && value <= kLargest; };
  return image.width >= 1 && image.height >= 1 && image.width <= kLargest && image.height <= kLargest &&
         within(view.left, -kLargest) && within(view.top, -kLargest) && within(view.width, 0) &&
         within(view.height, 0) && std::isfinite(view.cos) && std::isfinite(view.sin);
}

void ViewRenderer::Taps::set(double start, double extent, int64_t source, int64_t size, bool reverse) {
  const double scale = extent / static_cast<double>(size);
  const double support = std::max(1.0, scale);
  stride = static_cast<int64_t>(std::ceil(2 * support)) + 1;
  first.resize(static_cast<size_t>(size));
  count.resize(static_cast<size_t>(size));
  weights.resize(static_cast<size_t>(size * stride));
  for (int64_t i = 0; i < size; ++i) {
    const double centre = start + (static_cast<double>(i) + 0.5) * scale;
    const double from = std::max(0.0, std::floor(centre - support + 0.5));
    const double to = std::min(static_cast<double>(source), std::floor(centre + support + 0.5));
    const auto target = static_cast<size_t>(reverse ? size - 1 - i : i);
    const auto n = static_cast<int32_t>(std::max(1.0, std::min(static_cast<double>(stride), to - from)));
    first[target] = static_cast<int32_t>(std::min(from, static_cast<double>(source - 1)));
    count[target] = n;
    float* weight = weights.data() + static_cast<int64_t>(target) * stride;
    double sum = 0;
    for (int32_t k = 0; k < n; ++k) {
      const double w = std::max(0.0, 1 - std::abs(from + k + 0.5 - centre) / support);
      weight[k] = static_cast<float>(w);
      sum += w;
    }
    for (int32_t k = 0; k < n; ++k) weight[k] = static_cast<float>(static_cast<double>(weight[k]) / sum);
  }
}

void ViewRenderer::resize(const ImageView& image, const View& view, int64_t size, float* planes) {
  across_.set(view.left, view.width, image.width, size, view.flip != 0);
  down_.set(view.top, view.height, image.height, size, false);
  const auto [leftmost, rightmost] = std::minmax(across_.first.front(), across_.first.back());
  const int64_t left = leftmost;
  const int64_t right = rightmost + std::max(across_.count.front(), across_.count.back());
  const int64_t top = down_.first.front();
  const int64_t bottom = down_.first.back() + down_.count.back();
  const int64_t rowLength = 3 * size;

  double* line = room(line_, 3 * image.width + 1);
  float* rows = room(rows_, (bottom - top) * rowLength + 1);
  for (int64_t y = top; y < bottom; ++y) {
    widen(image.data + 3 * (y * image.width + left), 3 * (std::min(right, image.width) - left),
          line + 3 * left);
    alongRow(line, across_.first.data(), across_.count.data(), across_.weights.data(), across_.stride, size,
             rows + (y - top) * rowLength);
  }

  double* sums = room(sums_, rowLength);
  const int64_t area = size * size;
  for (int64_t y = 0; y < size; ++y) {
    const float* weight = down_.weights.data() + y * down_.stride;
    const float* row = rows + (down_.first[static_cast<size_t>(y)] - top) * rowLength;
    for (int32_t k = 0; k < down_.count[static_cast<size_t>(y)]; ++k, row += rowLength) {
      addRow(static_cast<double>(weight[k]) / 255, row, rowLength, k == 0, sums);
    }
    float* out = planes + y * size;
    separate(sums, size, out, out + area, out + 2 * area);
  }
}

void ViewRenderer::render(const ImageView& image, const View& view, int64_t size, float* planes) {
  const int64_t area = size * size;
  if (view.sin == 0 && view.cos == 1) {
    resize(image, view, size, planes);
  } else {
    // A single pixel turned is itself.
    float* upright = size == 1 ? planes : room(upright_, 3 * area);
    resize(image, view, size, upright);
    if (size > 1) turn(upright, size, view.cos, view.sin, planes);
  }
  if (view.coloured != 0) colour(view, area, planes);
}

void ViewRenderer::normalised(const ImageView& image, const View& view, int64_t size,
                              const Normalise& normalise, float* out) {
  render(image, view, size, out);
  const int64_t area = size * size;
  for (int c = 0; c < 3; ++c) scaleAndShift(normalise.scale[c], normalise.shift[c], area, out + c * area);
}

void ViewRenderer::bytes(const ImageView& image, const View& view, int64_t size, uint8_t* out) {
  const int64_t area = size * size;
  float* planes = room(planes_, 3 * area);
  render(image, view, size, planes);
  for (int64_t i = 0; i < area; ++i) {
    for (int64_t c = 0; c < 3; ++c) {
      const double value = static_cast<double>(planes[c * area + i]) * 255;
      const double below = std::floor(value);
      const double rounded = value - below >= 0.5 ? below + 1 : below;
      out[3 * i + c] = static_cast<uint8_t>(std::min(255.0, std::max(0.0, rounded)));
    }
  }
}

}  // namespace clipcid::images
