// Views of images: a crop, resized, turned, recoloured and normalised.
//
// In:  an image [height, width, 3] of 8 bits, and what is done to it.
// Out: planes [3, size, size], float32 normalised or 0 to 1.
//
// (1) The crop is resized with a triangle filter as wide as an output pixel and never narrower than a source pixel, along rows
//     and then along columns: bilinear when enlarging, without aliases when shrinking. Weights are float32 and sum to 1.
// (2) It is turned around its centre, bilinear; what comes from outside repeats the edge.
// (3) Its colours go through a 3 x 3 matrix and a shift towards the view's mean grey, clamped to 0 to 1.
// (4) Values are multiplied and shifted by channel.
//
// Sums and products are float64 in the order written in ts/test/reference/views.ts, nothing is fused, and what is kept between the
// passes is float32: the same bits for every instruction set and number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "images/image.h"

namespace clipcid::images {

// As TypeScript packs it, kViewNumbers float64 in this order.
struct View {
  double left, top, width, height;  // of the crop, in pixels of the source
  double flip;                      // not 0: left and right are mirrored
  double cos, sin;                  // of the angle; 1 and 0: not turned
  double coloured;                  // 0: the rest is not looked at
  double colour[9];                 // row-major
  double contrast, brightness;      // of the shift (1 - contrast) * brightness * mean grey
};
constexpr int64_t kViewNumbers = sizeof(View) / sizeof(double);

// Value to value * scale[c] + shift[c].
struct Normalise {
  double scale[3], shift[3];
};

// Whether a view can be rendered from an image at a size without reaching outside memory.
bool validView(const ImageView& image, const View& view);

// Scratch memory of one thread.
class ViewRenderer {
 public:
  // Into `out`, 3 * size * size numbers. Throws std::bad_alloc.
  void normalised(const ImageView& image, const View& view, int64_t size, const Normalise& normalise,
                  float* out);
  // As an image of 8 bits into `out`, 3 * size * size bytes.
  void bytes(const ImageView& image, const View& view, int64_t size, uint8_t* out);

 private:
  // Weights of source pixels for each output pixel: `count` from `first` on, `stride` apart.
  struct Taps {
    std::vector<int32_t> first, count;
    std::vector<float> weights;
    int64_t stride = 0;
    void set(double start, double extent, int64_t source, int64_t size, bool reverse);
  };

  void render(const ImageView& image, const View& view, int64_t size, float* planes);
  void resize(const ImageView& image, const View& view, int64_t size, float* planes);

  Taps across_, down_;
  std::vector<double> line_, sums_;
  std::vector<float> rows_, upright_, planes_;
};

}  // namespace clipcid::images
