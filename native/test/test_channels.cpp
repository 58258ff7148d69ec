// Batch normalisation, pooling and what else goes by channel, against float64, with several numbers of threads; and that
// these leave the same bits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/ops/conv.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

using Floats = std::vector<float>;

constexpr int kThreads[] = {1, 2, 7};

Floats noiseOf(int64_t count, uint64_t stream, float scale = 1, float shift = 0) {
  Floats values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = scale * test::noise(stream, i) + shift;
  return values;
}

double wide(float value) { return static_cast<double>(value); }

// `most` is the size of what cancels on the way, where that is over the largest result.
void checkNear(const std::vector<double>& expected, const Floats& actual, double bound, const char* what,
               double most = 0) {
  bool good = expected.size() == actual.size();
  for (const double value : expected) most = std::max(most, std::abs(value));
  for (size_t i = 0; good && i < expected.size(); ++i)
    good = std::abs(wide(actual[i]) - expected[i]) <= bound * (std::abs(expected[i]) + 0.1 * most) + 1e-30;
  test::check(good, what, __FILE__, __LINE__);
}

double activated(Activation activation, double z) {
  if (activation == Activation::kRelu) return std::max(z, 0.0);
  if (activation == Activation::kHardSwish) return z * std::clamp(z / 6 + 0.5, 0.0, 1.0);
  return z;
}

double slopeOf(Activation activation, double z) {
  if (activation == Activation::kRelu) return z > 0 ? 1 : 0;
  if (activation == Activation::kHardSwish) return z <= -3 ? 0 : z < 3 ? z / 3 + 0.5 : 1;
  return 1;
}

struct NormCase {
  int64_t rows, channels;
  Activation activation = Activation::kNone;
  bool residual = false, given = false, aliased = false;
  float shift = 0.5f;  // of the data, in deviations
};

void batchNorm(const NormCase& c) {
  constexpr double kBound = 2e-5;
  constexpr float kEpsilon = 1e-5f;
  const int64_t count = c.rows * c.channels;
  const Floats x = noiseOf(count, 1, 2, 2 * c.shift), gamma = noiseOf(c.channels, 2, 0.3f, 1);
  const Floats beta = noiseOf(c.channels, 3), residual = noiseOf(count, 4), dy = noiseOf(count, 5);
  const Floats before = noiseOf(2 * c.channels, 6);
  const Floats givenMean = noiseOf(c.channels, 7), givenVariance = noiseOf(c.channels, 8, 0.1f, 1);
  const size_t channels = static_cast<size_t>(c.channels);

  const auto n = static_cast<double>(c.rows);
  std::vector<double> mean(channels), variance(channels), y(x.size()), g(x.size()), dx(x.size()),
      dGamma(channels), dBeta(channels), sums(channels), moments(channels);
  for (size_t i = 0; i < x.size(); ++i) mean[i % channels] += wide(x[i]) / n;
  for (size_t i = 0; i < x.size(); ++i)
    variance[i % channels] += std::pow(wide(x[i]) - mean[i % channels], 2) / n;
  if (c.given) {
    mean.assign(givenMean.begin(), givenMean.end());
    variance.assign(givenVariance.begin(), givenVariance.end());
  }
  const auto inverse = [&](size_t channel) { return 1 / std::sqrt(variance[channel] + wide(kEpsilon)); };
  std::vector<double> z(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t at = i % channels;
    z[i] = (wide(x[i]) - mean[at]) * inverse(at) * wide(gamma[at]) + wide(beta[at]);
    if (c.residual) z[i] += wide(residual[i]);
    y[i] = activated(c.activation, z[i]);
    g[i] = wide(dy[i]) * slopeOf(c.activation, z[i]);
    sums[at] += g[i];
    moments[at] += g[i] * (wide(x[i]) - mean[at]);
  }
  for (size_t at = 0; at < channels; ++at) {
    dGamma[at] = wide(before[at]) + moments[at] * inverse(at);
    dBeta[at] = wide(before[channels + at]) + sums[at];
  }
  double most = 0, mostOfSums = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t at = i % channels;
    mostOfSums =
        std::max({mostOfSums, std::abs(g[i]), std::abs(g[i] * (wide(x[i]) - mean[at]) * inverse(at))});
    most = std::max(most, std::abs(wide(gamma[at]) * inverse(at) * g[i]));
    const double own =
        c.given ? 0 : sums[at] / n + (wide(x[i]) - mean[at]) * std::pow(inverse(at), 2) * moments[at] / n;
    dx[i] = wide(gamma[at]) * inverse(at) * (g[i] - own);
  }

  std::vector<Floats> first;
  for (const int threads : kThreads) {
    TeamMemory memory(threads);
    std::vector<Floats> results;
    Team::run(threads, memory, [&](Team& team) {
      Floats ownMean = c.given ? givenMean : Floats(channels),
             ownVariance = c.given ? givenVariance : Floats(channels);
      Floats out = c.aliased ? x : Floats(x.size());
      BatchNormArgs args;
      args.rows = c.rows;
      args.channels = c.channels;
      args.epsilon = kEpsilon;
      args.activation = c.activation;
      args.given = c.given;
      args.x = c.aliased ? out.data() : x.data();
      args.gamma = gamma.data();
      args.beta = beta.data();
      args.residual = c.residual ? residual.data() : nullptr;
      args.y = out.data();
      args.mean = ownMean.data();
      args.variance = ownVariance.data();
      CHECK_OK(run(team, args));
      checkNear(mean, ownMean, kBound, "mean");
      checkNear(variance, ownVariance, kBound, "variance");
      checkNear(y, out, kBound, "y");

      Floats dInput = c.aliased ? dy : Floats(x.size()), dResidual(x.size());
      Floats dGammaBeta = before;
      BatchNormGradientArgs back;
      back.rows = c.rows;
      back.channels = c.channels;
      back.epsilon = kEpsilon;
      back.activation = c.activation;
      back.given = c.given;
      back.dy = c.aliased ? dInput.data() : dy.data();
      back.x = x.data();
      back.gamma = gamma.data();
      back.beta = beta.data();
      back.mean = ownMean.data();
      back.variance = ownVariance.data();
      if (c.residual && c.activation == Activation::kRelu) back.y = out.data();
      if (c.residual && c.activation == Activation::kHardSwish) back.residual = residual.data();
      back.dx = dInput.data();
      back.dResidual = c.residual ? dResidual.data() : nullptr;
      back.dGamma = dGammaBeta.data();
      back.dBeta = dGammaBeta.data() + channels;
      CHECK_OK(run(team, back));
      checkNear(dx, dInput, kBound, "dx", most);
      if (c.residual) checkNear(g, dResidual, kBound, "dResidual");
      checkNear(dGamma, Floats(dGammaBeta.begin(), dGammaBeta.begin() + c.channels), kBound, "dGamma",
                mostOfSums);
      checkNear(dBeta, Floats(dGammaBeta.begin() + c.channels, dGammaBeta.end()), kBound, "dBeta",
                mostOfSums);
      results = {ownMean, ownVariance, out, dInput, dResidual, dGammaBeta};
    });
    if (first.empty()) first = results;
    CHECK(first == results);
  }
}

void batchNorms() {
  for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kHardSwish}) {
    for (const bool residual : {false, true}) {
      for (const bool given : {false, true}) {
        for (const int64_t channels : {1, 3, 16, 24, 37}) {
          for (const int64_t rows : {2, 7, 97}) batchNorm({rows, channels, activation, residual, given});
        }
        batchNorm({3000, 24, activation, residual, given, true});
      }
    }
  }
  // In several chunks; one channel and more than a chunk holds; a mean far from zero.
  batchNorm({50000, 1});
  batchNorm({40, 5003, Activation::kRelu});
  batchNorm({9000, 16, Activation::kHardSwish, false, false, false, 10});
  // A channel without variance is beta everywhere.
  const Floats x(64, 3), one(16, 1), beta(16, 0.25f);
  Floats y(64), mean(16), variance(16);
  TeamMemory memory(1);
  Team::run(1, memory, [&](Team& team) {
    BatchNormArgs args;
    args.rows = 4;
    args.channels = 16;
    args.x = x.data();
    args.gamma = one.data();
    args.beta = beta.data();
    args.y = y.data();
    args.mean = mean.data();
    args.variance = variance.data();
    CHECK_OK(run(team, args));
  });
  CHECK(y == Floats(64, 0.25f) && mean == Floats(16, 3) && variance == Floats(16, 0));
}

void columnSums() {
  for (const int64_t channels : {1, 5, 16, 33}) {
    const int64_t rows = 5000;
    const Floats x = noiseOf(rows * channels, 1), before = noiseOf(channels, 2);
    std::vector<double> expected(before.begin(), before.end());
    for (size_t i = 0; i < x.size(); ++i) expected[i % before.size()] += wide(x[i]);
    TeamMemory memory(3);
    Team::run(3, memory, [&](Team& team) {
      Floats sums = before;
      addColumnSums(team, x.data(), rows, channels, sums.data());
      checkNear(expected, sums, 1e-5, "column sums");
    });
  }
}

PoolShape poolOf(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t kernel,
                 int64_t stride, int64_t dilation, int64_t pad) {
  PoolShape shape;
  shape.images = images;
  shape.height = height;
  shape.width = width;
  shape.channels = channels;
  shape.kernelHeight = shape.kernelWidth = kernel;
  shape.strideHeight = shape.strideWidth = stride;
  shape.dilationHeight = shape.dilationWidth = dilation;
  shape.padTop = shape.padLeft = pad;
  shape.outHeight = (height + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  shape.outWidth = (width + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  return shape;
}

// Calls each(output, tap, input) for what is in a window, of one element of the slabs.
template <typename Each>
void forWindows(const PoolShape& s, Each each) {
  const int64_t slab = s.images * s.channels;
  for (int64_t at = 0; at < s.outHeight * s.outWidth * slab; ++at) {
    const int64_t pixel = at / slab;
    for (int64_t tap = 0; tap < s.kernelHeight * s.kernelWidth; ++tap) {
      const int64_t y =
          pixel / s.outWidth * s.strideHeight - s.padTop + tap / s.kernelWidth * s.dilationHeight;
      const int64_t x =
          pixel % s.outWidth * s.strideWidth - s.padLeft + tap % s.kernelWidth * s.dilationWidth;
      if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
      each(static_cast<size_t>(at), tap, static_cast<size_t>((y * s.width + x) * slab + at % slab));
    }
  }
}

void pools(const PoolShape& shape) {
  const int64_t slab = shape.images * shape.channels;
  const int64_t inputs = shape.height * shape.width * slab, outputs = shape.outHeight * shape.outWidth * slab;
  Floats x = noiseOf(inputs, 1);
  for (float& value : x) value = std::round(2 * value);  // many are equal
  const Floats dy = noiseOf(outputs, 2);
  Floats most(static_cast<size_t>(outputs), -1e30f);
  std::vector<uint16_t> which(most.size());
  std::vector<size_t> from(most.size());
  forWindows(shape, [&](size_t output, int64_t tap, size_t input) {
    if (x[input] <= most[output]) return;
    most[output] = x[input];
    which[output] = static_cast<uint16_t>(tap);
    from[output] = input;
  });
  std::vector<double> dMost(x.size());
  for (size_t i = 0; i < from.size(); ++i) dMost[from[i]] += wide(dy[i]);
  TeamMemory memory(3);
  Team::run(3, memory, [&](Team& team) {
    Floats y(most.size()), dx(x.size());
    std::vector<uint16_t> taps(most.size());
    CHECK_OK(run(team, MaxPoolArgs{shape, x.data(), y.data(), taps.data()}));
    CHECK(y == most && taps == which);
    CHECK_OK(run(team, MaxPoolGradientArgs{shape, dy.data(), taps.data(), dx.data()}));
    checkNear(dMost, dx, 1e-6, "gradient of a maximum");
  });
  for (const bool padding : {false, true}) {
    std::vector<double> mean(most.size()), dMean(x.size()), counts(most.size());
    forWindows(shape, [&](size_t output, int64_t, size_t) { counts[output] += 1; });
    if (padding) counts.assign(counts.size(), static_cast<double>(shape.kernelHeight * shape.kernelWidth));
    forWindows(shape, [&](size_t output, int64_t, size_t input) {
      mean[output] += wide(x[input]) / counts[output];
      dMean[input] += wide(dy[output]) / counts[output];
    });
    Team::run(3, memory, [&](Team& team) {
      Floats y(most.size()), dx(x.size());
      CHECK_OK(run(team, AveragePoolArgs{shape, padding, x.data(), y.data()}));
      checkNear(mean, y, 1e-5, "mean");
      CHECK_OK(run(team, AveragePoolGradientArgs{shape, padding, dy.data(), dx.data()}));
      checkNear(dMean, dx, 1e-5, "gradient of a mean");
    });
  }
}

}  // namespace
}  // namespace clipcid

int main() {
  using namespace clipcid;
  batchNorms();
  columnSums();
  pools(poolOf(3, 7, 6, 5, 3, 2, 1, 1));
  pools(poolOf(2, 9, 9, 24, 2, 2, 1, 0));
  pools(poolOf(1, 6, 6, 7, 3, 1, 2, 2));
  pools(poolOf(5, 4, 4, 17, 4, 1, 1, 0));
  pools(poolOf(40, 12, 12, 70, 3, 2, 1, 1));
  return test::report("channels");
}
