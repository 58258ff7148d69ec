// Convolutions and their gradients against sums in float64, over shapes round every edge of a tile, strides, pads,
// dilations and groups, with several numbers of threads; and that these leave the same bits.
#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu/ops/conv.h"
#include "cpu/ops/conv_kernels.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

using Floats = std::vector<float>;

Floats noiseOf(int64_t count, uint64_t stream) {
  Floats values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = test::noise(stream, i);
  return values;
}

int64_t outputOf(int64_t input, int64_t kernel, int64_t stride, int64_t dilation, int64_t pads) {
  return (input + pads - dilation * (kernel - 1) - 1) / stride + 1;
}

struct Sizes {
  int64_t images, height, width, channels, outChannels;
  int64_t groups = 1;
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1};
  int64_t before[2] = {0, 0}, behind[2] = {0, 0};
  bool planar = false;
};

ConvShape shapeOf(const Sizes& sizes) {
  ConvShape shape;
  shape.images = sizes.images;
  shape.height = sizes.height;
  shape.width = sizes.width;
  shape.channels = sizes.channels;
  shape.outChannels = sizes.outChannels;
  shape.groups = sizes.groups;
  shape.kernelHeight = sizes.kernel[0];
  shape.kernelWidth = sizes.kernel[1];
  shape.strideHeight = sizes.stride[0];
  shape.strideWidth = sizes.stride[1];
  shape.dilationHeight = sizes.dilation[0];
  shape.dilationWidth = sizes.dilation[1];
  shape.padTop = sizes.before[0];
  shape.padLeft = sizes.before[1];
  shape.outHeight = outputOf(sizes.height, sizes.kernel[0], sizes.stride[0], sizes.dilation[0],
                             sizes.before[0] + sizes.behind[0]);
  shape.outWidth = outputOf(sizes.width, sizes.kernel[1], sizes.stride[1], sizes.dilation[1],
                            sizes.before[1] + sizes.behind[1]);
  shape.planar = sizes.planar;
  return shape;
}

// Calls each(x, w, y) with the index of every product that is part of the convolution.
template <typename Each>
void forProducts(const ConvShape& s, Each each) {
  const int64_t inputs = s.channels / s.groups, outputs = s.outChannels / s.groups;
  for (int64_t oy = 0; oy < s.outHeight; ++oy) {
    for (int64_t ox = 0; ox < s.outWidth; ++ox) {
      for (int64_t ky = 0; ky < s.kernelHeight; ++ky) {
        for (int64_t kx = 0; kx < s.kernelWidth; ++kx) {
          const int64_t y = oy * s.strideHeight - s.padTop + ky * s.dilationHeight;
          const int64_t x = ox * s.strideWidth - s.padLeft + kx * s.dilationWidth;
          if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
          for (int64_t n = 0; n < s.images; ++n) {
            for (int64_t o = 0; o < s.outChannels; ++o) {
              for (int64_t c = 0; c < inputs; ++c) {
                const int64_t channel = o / outputs * inputs + c;
                const int64_t from = s.planar ? ((n * s.channels + channel) * s.height + y) * s.width + x
                                              : ((y * s.width + x) * s.images + n) * s.channels + channel;
                each(from, ((o * inputs + c) * s.kernelHeight + ky) * s.kernelWidth + kx,
                     ((oy * s.outWidth + ox) * s.images + n) * s.outChannels + o);
              }
            }
          }
        }
      }
    }
  }
}

// A sum in float64 and that of its terms' sizes, for a bound on the error of a sum in float32.
struct Sum {
  double value = 0, size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

void checkSums(const std::vector<Sum>& expected, const Floats& actual, const char* what) {
  bool good = expected.size() == actual.size();
  for (size_t i = 0; good && i < expected.size(); ++i)
    good = std::abs(static_cast<double>(actual[i]) - expected[i].value) <= 2e-6 * expected[i].size + 1e-30;
  test::check(good, what, __FILE__, __LINE__);
}

// Room behind a buffer that must not change.
constexpr size_t kGuard = 32;
constexpr float kUntouched = -12345;

template <typename Run>
Floats filled(int64_t count, const Floats& start, Run run) {
  Floats values(static_cast<size_t>(count) + kGuard, kUntouched);
  std::copy(start.begin(), start.end(), values.begin());
  run(values.data());
  for (size_t i = static_cast<size_t>(count); i < values.size(); ++i) CHECK(values[i] == kUntouched);
  values.resize(static_cast<size_t>(count));
  return values;
}

void checkShape(const Sizes& sizes) {
  const ConvShape shape = shapeOf(sizes);
  const int64_t pixels = shape.outHeight * shape.outWidth * shape.images;
  const int64_t inputs = shape.height * shape.width * shape.images * shape.channels;
  const int64_t outputs = pixels * shape.outChannels;
  const int64_t weights =
      shape.outChannels * shape.channels / shape.groups * shape.kernelHeight * shape.kernelWidth;
  const Floats x = noiseOf(inputs, 1), w = noiseOf(weights, 2), bias = noiseOf(shape.outChannels, 3);
  const Floats dy = noiseOf(outputs, 4), before = noiseOf(std::max(weights, inputs), 5);

  std::vector<Sum> y(static_cast<size_t>(outputs)), dx(static_cast<size_t>(inputs)),
      dw(static_cast<size_t>(weights)), db(static_cast<size_t>(shape.outChannels));
  for (size_t i = 0; i < y.size(); ++i) y[i].add(static_cast<double>(bias[i % bias.size()]));
  for (size_t i = 0; i < y.size(); ++i) db[i % db.size()].add(static_cast<double>(dy[i]));
  forProducts(shape, [&](int64_t xi, int64_t wi, int64_t yi) {
    const double value = static_cast<double>(x[static_cast<size_t>(xi)]);
    const double weight = static_cast<double>(w[static_cast<size_t>(wi)]);
    const double gradient = static_cast<double>(dy[static_cast<size_t>(yi)]);
    y[static_cast<size_t>(yi)].add(value * weight);
    dx[static_cast<size_t>(xi)].add(gradient * weight);
    dw[static_cast<size_t>(wi)].add(gradient * value);
  });
  std::vector<Sum> dxAdded = dx;
  for (size_t i = 0; i < dx.size(); ++i) dxAdded[i].add(static_cast<double>(before[i]));
  for (size_t i = 0; i < dw.size(); ++i) dw[i].add(static_cast<double>(before[i]));
  for (size_t i = 0; i < db.size(); ++i) db[i].add(static_cast<double>(before[i]));

  std::vector<Floats> first;
  for (const int threads : {1, 2, 7}) {
    TeamMemory memory(threads);
    std::vector<Floats> results;
    Team::run(threads, memory, [&](Team& team) {
      results.push_back(filled(outputs, {}, [&](float* out) {
        CHECK_OK(run(team, ConvArgs{shape, x.data(), w.data(), bias.data(), out}));
      }));
      checkSums(y, results.back(), "y");
      if (!shape.planar) {
        results.push_back(filled(inputs, {}, [&](float* out) {
          CHECK_OK(run(team, ConvInputGradientArgs{shape, dy.data(), w.data(), out, false}));
        }));
        checkSums(dx, results.back(), "dx");
        results.push_back(filled(inputs, Floats(before.begin(), before.begin() + inputs), [&](float* out) {
          CHECK_OK(run(team, ConvInputGradientArgs{shape, dy.data(), w.data(), out, true}));
        }));
        checkSums(dxAdded, results.back(), "dx added");
      }
      Floats sums(before.begin(), before.begin() + shape.outChannels);
      results.push_back(filled(weights, Floats(before.begin(), before.begin() + weights), [&](float* out) {
        CHECK_OK(run(team, ConvWeightGradientArgs{shape, x.data(), dy.data(), out, sums.data()}));
      }));
      checkSums(dw, results.back(), "dw");
      results.push_back(sums);
      checkSums(db, results.back(), "db");
    });
    if (first.empty()) first = results;
    CHECK(first == results);
  }
  if (test::failures() > 0) {
    std::fprintf(stderr,
                 "images %ld, %ld x %ld x %ld to %ld, groups %ld, kernel %ld x %ld, stride %ld x %ld\n",
                 static_cast<long>(shape.images), static_cast<long>(shape.height),
                 static_cast<long>(shape.width), static_cast<long>(shape.channels),
                 static_cast<long>(shape.outChannels), static_cast<long>(shape.groups),
                 static_cast<long>(shape.kernelHeight), static_cast<long>(shape.kernelWidth),
                 static_cast<long>(shape.strideHeight), static_cast<long>(shape.strideWidth));
    std::exit(test::report("conv"));
  }
}

// Tiles of every height and width, and what is left of them.
void tiles() {
  const ConvKernels& kernels = convKernels();
  const int64_t columns = int64_t{kernels.vectors} * kernels.width;
  for (int64_t images = 1; images <= 2 * kernels.rows + 1; ++images)
    checkShape({images, 2, 3, 3, 5, 1, {2, 2}, {1, 1}, {1, 1}, {1, 0}, {0, 1}});
  for (int64_t channels = 1; channels <= columns + kernels.width + 1; channels += channels < 20 ? 1 : 3) {
    checkShape({3, 2, 2, channels, 4, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
    checkShape({3, 2, 2, 4, channels, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
    checkShape({13, 1, 1, channels, channels});
    checkShape({5, 4, 3, channels, channels, channels, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
  }
}

void windows() {
  for (const int64_t images : {1, 4}) {
    for (const int64_t groups : {1, 2, 6}) {
      const auto check = [&](Sizes sizes) {
        sizes.images = images;
        sizes.groups = groups;
        checkShape(sizes);
        // As many outputs as inputs in a group, and several.
        sizes.outChannels = 18;
        checkShape(sizes);
      };
      check({1, 7, 6, 6, 6, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
      check({1, 7, 6, 6, 6, 1, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}});
      check({1, 8, 5, 6, 6, 1, {3, 2}, {2, 3}, {1, 2}, {0, 1}, {2, 0}});
      check({1, 9, 9, 6, 6, 1, {5, 5}, {2, 2}, {1, 1}, {2, 2}, {2, 2}});
      check({1, 9, 8, 6, 6, 1, {3, 3}, {1, 1}, {2, 3}, {2, 3}, {2, 3}});
      check({1, 6, 7, 6, 6, 1, {1, 1}, {2, 2}});
      check({1, 3, 3, 6, 6, 1, {7, 7}, {1, 1}, {1, 1}, {3, 3}, {3, 3}});
      check({1, 5, 4, 6, 6, 1, {2, 1}, {3, 3}, {1, 1}, {3, 4}, {3, 3}});  // windows without a pixel
    }
  }
  // A depthwise convolution with several outputs a channel, and more taps than a vector is wide.
  checkShape({2, 5, 5, 3, 6, 3, {5, 5}, {1, 1}, {1, 1}, {2, 2}, {2, 2}});
}

void planar() {
  for (const int64_t images : {1, 3, 13}) {
    for (const int64_t channels : {1, 3, 5}) {
      checkShape({images, 9, 8, channels, 7, 1, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}, true});
      checkShape({images, 11, 12, channels, 35, 1, {7, 7}, {2, 2}, {1, 1}, {3, 3}, {3, 3}, true});
      checkShape({images, 8, 8, channels, 18, 1, {4, 4}, {4, 4}, {1, 1}, {0, 0}, {0, 0}, true});
      checkShape({images, 6, 7, channels, 3, 1, {2, 3}, {1, 3}, {3, 1}, {0, 2}, {3, 1}, true});
    }
  }
}

// Shapes that Winograd's algorithm takes, forward or backward: with tiles that are cut, far and no padding, few and many
// images, and more of the weights than of the images as well as less.
void winograd() {
  const auto check = [](int64_t images, int64_t height, int64_t width, int64_t channels, int64_t outChannels,
                        int64_t before, int64_t behind) {
    const Sizes sizes = {images, height, width,  channels,         outChannels,     1,
                         {3, 3}, {1, 1}, {1, 1}, {before, before}, {behind, behind}};
    CHECK(winogradPays(shapeOf(sizes)));
    checkShape(sizes);
  };
  check(1, 8, 8, 40, 48, 1, 1);
  check(3, 15, 13, 64, 33, 1, 1);
  check(2, 12, 10, 50, 70, 0, 0);
  check(2, 10, 10, 35, 40, 2, 0);
  check(5, 7, 8, 100, 77, 0, 2);
  check(33, 8, 8, 36, 40, 1, 1);
  check(2, 4, 4, 130, 150, 1, 1);
  check(40, 4, 4, 40, 200, 1, 1);
  check(1, 30, 30, 40, 40, 1, 1);
}

// Sizes at which work is parted: panels in blocks, pixels and rows in parts.
void parts() {
  checkShape({8, 9, 9, 40, 24, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
  checkShape({3, 3, 3, 200, 140, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
  checkShape({600, 3, 2, 24, 17, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
  checkShape({40, 12, 12, 20, 40});
  checkShape({33, 20, 20, 24, 24, 24, {5, 5}, {2, 2}, {1, 1}, {2, 2}, {2, 2}});
  checkShape({16, 32, 32, 3, 20, 1, {7, 7}, {2, 2}, {1, 1}, {3, 3}, {3, 3}, true});
}

}  // namespace
}  // namespace clipcid

int main() {
  clipcid::tiles();
  clipcid::windows();
  clipcid::planar();
  clipcid::winograd();
  clipcid::parts();
  return clipcid::test::report("conv");
}
