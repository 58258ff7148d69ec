// How fast the convolutions of two networks are, layer by layer: milliseconds, and GFLOP/s of the products that are not
// with padding, where sums over the windows make them.
//
//   bench_conv [threads, 2] [images, 32] [pixels, 64]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/aligned.h"
#include "cpu/ops/ops.h"
#include "cpu/ops/taps.h"
#include "cpu/peak.h"

namespace clipcid {
namespace {

constexpr int64_t kCold = 24 << 20;  // floats

struct Layer {
  const char* name;
  int64_t count, size, channels, outChannels, kernel, stride, groups;
};

// torchvision's resnet18 and mobilenet_v3_small.
constexpr Layer kResnet[] = {
    {"stem", 1, 64, 3, 64, 7, 2, 1},          {"layer1", 4, 16, 64, 64, 3, 1, 1},
    {"layer2.0", 1, 16, 64, 128, 3, 2, 1},    {"layer2.down", 1, 16, 64, 128, 1, 2, 1},
    {"layer2", 3, 8, 128, 128, 3, 1, 1},      {"layer3.0", 1, 8, 128, 256, 3, 2, 1},
    {"layer3.down", 1, 8, 128, 256, 1, 2, 1}, {"layer3", 3, 4, 256, 256, 3, 1, 1},
    {"layer4.0", 1, 4, 256, 512, 3, 2, 1},    {"layer4.down", 1, 4, 256, 512, 1, 2, 1},
    {"layer4", 3, 2, 512, 512, 3, 1, 1},
};
constexpr Layer kMobilenet[] = {
    {"stem", 1, 64, 3, 16, 3, 2, 1},         {"1.depth", 1, 32, 16, 16, 3, 2, 16},
    {"1.se", 1, 1, 16, 8, 1, 1, 1},          {"1.project", 1, 16, 16, 16, 1, 1, 1},
    {"2.expand", 1, 16, 16, 72, 1, 1, 1},    {"2.depth", 1, 16, 72, 72, 3, 2, 72},
    {"2.project", 1, 8, 72, 24, 1, 1, 1},    {"3.expand", 1, 8, 24, 88, 1, 1, 1},
    {"3.depth", 1, 8, 88, 88, 3, 1, 88},     {"3.project", 1, 8, 88, 24, 1, 1, 1},
    {"4.expand", 1, 8, 24, 96, 1, 1, 1},     {"4.depth", 1, 8, 96, 96, 5, 2, 96},
    {"4.se", 1, 1, 96, 24, 1, 1, 1},         {"4.project", 1, 4, 96, 40, 1, 1, 1},
    {"5.expand", 2, 4, 40, 240, 1, 1, 1},    {"5.depth", 2, 4, 240, 240, 5, 1, 240},
    {"5.se", 4, 1, 240, 64, 1, 1, 1},        {"5.project", 2, 4, 240, 40, 1, 1, 1},
    {"7.expand", 1, 4, 40, 120, 1, 1, 1},    {"7.depth", 1, 4, 120, 120, 5, 1, 120},
    {"7.project", 1, 4, 120, 48, 1, 1, 1},   {"8.expand", 1, 4, 48, 144, 1, 1, 1},
    {"8.depth", 1, 4, 144, 144, 5, 1, 144},  {"8.project", 1, 4, 144, 48, 1, 1, 1},
    {"9.expand", 1, 4, 48, 288, 1, 1, 1},    {"9.depth", 1, 4, 288, 288, 5, 2, 288},
    {"9.project", 1, 2, 288, 96, 1, 1, 1},   {"10.expand", 3, 2, 96, 576, 1, 1, 1},
    {"10.depth", 2, 2, 576, 576, 5, 1, 576}, {"10.se", 4, 1, 576, 144, 1, 1, 1},
    {"10.project", 2, 2, 576, 96, 1, 1, 1},
};

ConvShape shapeOf(const Layer& layer, int64_t images, int64_t pixels) {
  // Of squeeze and excitation there is one pixel, whatever the image.
  const int64_t size = layer.size == 1 ? 1 : layer.size * pixels / 64;
  ConvShape shape;
  shape.images = images;
  shape.height = shape.width = size;
  shape.channels = layer.channels;
  shape.outChannels = layer.outChannels;
  shape.groups = layer.groups;
  shape.kernelHeight = shape.kernelWidth = layer.kernel;
  shape.strideHeight = shape.strideWidth = layer.stride;
  shape.padTop = shape.padLeft = layer.kernel / 2;
  shape.outHeight = shape.outWidth = (size + 2 * (layer.kernel / 2) - layer.kernel) / layer.stride + 1;
  shape.planar = layer.channels == 3;
  return shape;
}

// Multiply-adds of the pass forward.
double workOf(const ConvShape& shape) {
  const Taps taps =
      Taps::forward({shape.height, shape.outHeight, shape.kernelHeight, shape.strideHeight, 1, shape.padTop});
  double along = 0;
  for (int64_t i = 0; i < taps.targets(); ++i) along += static_cast<double>(taps.of(i).size());
  return along * along *
         static_cast<double>(shape.images * shape.channels / shape.groups * shape.outChannels);
}

template <typename Run>
double best(Team& team, Run run) {
  using Clock = std::chrono::steady_clock;
  double least = 1e9;
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(100);
  for (int round = 0; round < 5 || Clock::now() < end; ++round) {
    const Clock::time_point begin = Clock::now();
    if (!run(team).ok()) std::abort();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return least;
}

template <size_t kLayers>
void measure(Team& team, const char* name, const Layer (&layers)[kLayers], int64_t images, int64_t pixels) {
  std::printf("%-12s %4s %28s %28s %28s\n", name, "", "forward, ms and GFLOP/s", "input", "weights");
  double total[3] = {}, work = 0;
  for (const Layer& layer : layers) {
    const ConvShape s = shapeOf(layer, images, pixels);
    const int64_t inputs = s.height * s.width * s.images * s.channels;
    const int64_t outputs = s.outHeight * s.outWidth * s.images * s.outChannels;
    const int64_t weights = s.outChannels * s.channels / s.groups * s.kernelHeight * s.kernelWidth;
    // Of a step's weights few are in the caches when they are wanted: there are many copies, one after the other.
    const int64_t copies = std::clamp<int64_t>(kCold / weights, 2, 64);
    AlignedArray<float> x(inputs), y(outputs), w(copies * weights), dw(copies * weights);
    int64_t copy = 0;
    const auto next = [&] { return (copy = (copy + 1) % copies) * weights; };
    for (int64_t i = 0; i < inputs; ++i) x.get()[i] = 1e-3f * static_cast<float>(i % 7);
    for (int64_t i = 0; i < copies * weights; ++i)
      w.get()[i] = dw.get()[i] = 1e-3f * static_cast<float>(i % 5);
    const double seconds[3] = {
        best(team,
             [&](Team& on) {
               return run(on, ConvArgs{s, x.get(), w.get() + next(), nullptr, y.get()});
             }),
        s.planar ? 0
                 : best(team,
                        [&](Team& on) {
                          return run(on, ConvInputGradientArgs{s, y.get(), w.get() + next(), x.get(), false});
                        }),
        best(team,
             [&](Team& on) {
               return run(on, ConvWeightGradientArgs{s, x.get(), y.get(), dw.get() + next(), nullptr});
             }),
    };
    std::printf("%-12s %4ld", layer.name, static_cast<long>(layer.count));
    for (int i = 0; i < 3; ++i) {
      std::printf(" %18.3f %9.0f", 1e3 * seconds[i], seconds[i] == 0 ? 0 : 2e-9 * workOf(s) / seconds[i]);
      total[i] += static_cast<double>(layer.count) * seconds[i];
    }
    work += static_cast<double>(layer.count) * workOf(s);
    std::printf("\n");
  }
  const double all = total[0] + total[1] + total[2];
  std::printf("all %13s %18.3f %28.3f %28.3f\n%.3f ms, %.0f GFLOP/s\n\n", "", 1e3 * total[0], 1e3 * total[1],
              1e3 * total[2], 1e3 * all, 6e-9 * work / all);
}

}  // namespace
}  // namespace clipcid

int main(int argc, char** argv) {
  using namespace clipcid;
  const auto argument = [&](int index, int fallback) {
    return argc > index ? std::atoi(argv[index]) : fallback;
  };
  const int threads = argument(1, 2), images = argument(2, 32), pixels = argument(3, 64);
  Context context;
  context.threads = threads;
  Peak peak;
  if (!measurePeak(context, &peak).ok()) return 1;
  std::printf("%d threads, float32 peak %.0f GFLOP/s\n\n", threads, peak.float32);
  TeamMemory memory(threads);
  Team::run(threads, memory, [&](Team& team) {
    measure(team, "ResNet-18", kResnet, images, pixels);
    measure(team, "MobileNetV3", kMobilenet, images, pixels);
  });
  return 0;
}
