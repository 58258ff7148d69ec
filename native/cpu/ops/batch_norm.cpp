// Batch normalisation, with the residual and the activation that follow it.
//
// Forward: every chunk of rows gives its mean and the squares around it, in two passes while it is near; they are put
// together in float64; a second pass over the data writes y. Backward: one pass for the two sums, one for dx. Chunks
// depend on the shape alone, so results do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/ops/channel_kernels.h"
#include "cpu/ops/conv.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

constexpr int64_t kChunk = 16 << 10;  // floats, about
constexpr int64_t kMostChunks = 64;
// Columns that sums are kept of, at least: fewer would make each addition wait for the one before.
constexpr int64_t kLeastPeriod = 128;

// [rows, channels] in chunks of rows.
struct Layout {
  Layout(int64_t rows, int64_t channels) : rows(rows), channels(channels) {
    const int64_t least = std::lcm<int64_t>(channels, kMostWidth);
    period = least * ((kLeastPeriod + least - 1) / least);
    chunks =
        std::clamp<int64_t>(rows * channels / kChunk, 1, std::min(kMostChunks, std::max<int64_t>(rows, 1)));
  }
  int64_t begin(int64_t chunk) const { return rows * chunk / chunks; }
  int64_t size(int64_t chunk) const { return begin(chunk + 1) - begin(chunk); }

  void repeat(const float* values, float* out) const {
    std::copy(values, values + channels, out);
    for (int64_t i = channels; i < period; ++i) out[i] = out[i - channels];
  }
  // Of what was summed up by column of a period.
  void fold(float* sums) const {
    for (int64_t i = channels; i < period; ++i) sums[i % channels] += sums[i];
  }

  int64_t rows, channels, period, chunks;
};

// Mean and variance of every channel.
void statistics(Team& team, const Layout& layout, const float* x, float* mean, float* variance) {
  const ChannelKernels& kernels = channelKernels();
  const int64_t channels = layout.channels;
  team.own(2 * layout.period);
  float* parts = team.shared(layout.chunks * 2 * channels);  // mean and squares of each chunk
  team.each(layout.chunks, [&](int64_t chunk, int worker) {
    float* sums = team.of(worker);
    float* centre = sums + layout.period;
    float* part = parts + chunk * 2 * channels;
    const float* from = x + layout.begin(chunk) * channels;
    const int64_t length = layout.size(chunk) * channels;
    kernels.sums(from, length, layout.period, sums);
    layout.fold(sums);
    const float inverse = 1.0f / static_cast<float>(layout.size(chunk));
    for (int64_t c = 0; c < channels; ++c) part[c] = sums[c] * inverse;
    layout.repeat(part, centre);
    kernels.squares(from, centre, length, layout.period, sums);
    layout.fold(sums);
    std::copy(sums, sums + channels, part + channels);
  });
  std::vector<double> total(static_cast<size_t>(2 * channels), 0.0);
  double* means = total.data();
  double* squares = means + channels;
  for (int64_t chunk = 0; chunk < layout.chunks; ++chunk) {
    const double share = static_cast<double>(layout.size(chunk)) / static_cast<double>(layout.rows);
    const float* part = parts + chunk * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) means[c] += share * static_cast<double>(part[c]);
  }
  for (int64_t chunk = 0; chunk < layout.chunks; ++chunk) {
    const auto count = static_cast<double>(layout.size(chunk));
    const float* part = parts + chunk * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double apart = static_cast<double>(part[c]) - means[c];
      squares[c] += static_cast<double>(part[channels + c]) + count * apart * apart;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(means[c]);
    variance[c] = static_cast<float>(squares[c] / static_cast<double>(layout.rows));
  }
}

double inverseDeviation(float variance, float epsilon) {
  return 1 / std::sqrt(static_cast<double>(variance) + static_cast<double>(epsilon));
}

// Fills 3 periods of `tables` with what `normalize` needs; `line` holds the channels.
template <typename Args>
Normalization normalization(const Layout& layout, const Args& args, float* tables, float* line) {
  layout.repeat(args.mean, tables);
  for (int64_t c = 0; c < layout.channels; ++c) {
    const double gamma = static_cast<double>(args.gamma[c]);
    line[c] = static_cast<float>(gamma * inverseDeviation(args.variance[c], args.epsilon));
  }
  layout.repeat(line, tables + layout.period);
  layout.repeat(args.beta, tables + 2 * layout.period);
  return {args.activation, tables, tables + layout.period, tables + 2 * layout.period, nullptr};
}

}  // namespace

Status run(Team& team, const BatchNormArgs& args) {
  if (args.rows == 0) return {};
  const ChannelKernels& kernels = channelKernels();
  const Layout layout(args.rows, args.channels);
  if (!args.given) statistics(team, layout, args.x, args.mean, args.variance);
  float* tables = team.shared(3 * layout.period + args.channels);
  const Normalization norm = normalization(layout, args, tables, tables + 3 * layout.period);
  team.each(layout.chunks, [&](int64_t chunk, int) {
    const int64_t from = layout.begin(chunk) * args.channels;
    Normalization own = norm;
    own.residual = args.residual == nullptr ? nullptr : args.residual + from;
    kernels.normalize(own, args.x + from, layout.size(chunk) * args.channels, layout.period, args.y + from);
  });
  return {};
}

Status run(Team& team, const BatchNormGradientArgs& args) {
  if (args.rows == 0) return {};
  const ChannelKernels& kernels = channelKernels();
  const Layout layout(args.rows, args.channels);
  const int64_t channels = args.channels;
  team.own(2 * layout.period);
  float* tables = team.shared(5 * layout.period + channels + layout.chunks * 2 * channels);
  float* slopes = tables + 3 * layout.period;
  float* offsets = slopes + layout.period;
  float* line = offsets + layout.period;
  float* parts = line + channels;
  Normalization norm = normalization(layout, args, tables, line);
  // Whether there was a residual shows in what came with the pass forward.
  const float* other = args.residual != nullptr ? args.residual : args.y;
  team.each(layout.chunks, [&](int64_t chunk, int worker) {
    const int64_t from = layout.begin(chunk) * channels;
    float* sums = team.of(worker);
    float* moments = sums + layout.period;
    Normalization own = norm;
    own.residual = other == nullptr ? nullptr : other + from;
    kernels.gradientSums(own, args.dy + from, args.x + from, args.y == nullptr ? nullptr : args.y + from,
                         layout.size(chunk) * channels, layout.period,
                         args.dResidual == nullptr ? nullptr : args.dResidual + from, sums, moments);
    layout.fold(sums);
    layout.fold(moments);
    std::copy(sums, sums + channels, parts + chunk * 2 * channels);
    std::copy(moments, moments + channels, parts + chunk * 2 * channels + channels);
  });
  std::vector<double> total(static_cast<size_t>(2 * channels), 0.0);
  for (int64_t chunk = 0; chunk < layout.chunks; ++chunk) {
    for (int64_t c = 0; c < 2 * channels; ++c)
      total[static_cast<size_t>(c)] += parts[chunk * 2 * channels + c];
  }
  const auto count = static_cast<double>(args.rows);
  for (int64_t c = 0; c < channels; ++c) {
    const double inverse = inverseDeviation(args.variance[c], args.epsilon);
    const double sum = total[static_cast<size_t>(c)], moment = total[static_cast<size_t>(channels + c)];
    args.dBeta[c] += static_cast<float>(sum);
    args.dGamma[c] += static_cast<float>(moment * inverse);
    const double factor = args.given ? 0 : -static_cast<double>(args.gamma[c]) * inverse / count;
    slopes[c] = static_cast<float>(factor * inverse * inverse * moment);
    offsets[c] = static_cast<float>(factor * sum);
  }
  for (int64_t i = channels; i < layout.period; ++i) {
    slopes[i] = slopes[i - channels];
    offsets[i] = offsets[i - channels];
  }
  const float* dy = args.dy;
  if (args.dResidual != nullptr) {
    norm.activation = Activation::kNone;
    dy = args.dResidual;
  }
  team.each(layout.chunks, [&](int64_t chunk, int) {
    const int64_t from = layout.begin(chunk) * channels;
    kernels.gradient(norm, slopes, offsets, dy + from, args.x + from, layout.size(chunk) * channels,
                     layout.period, args.dx + from);
  });
  return {};
}

void addColumnSums(Team& team, const float* x, int64_t rows, int64_t channels, float* sums) {
  const ChannelKernels& kernels = channelKernels();
  const Layout layout(rows, channels);
  float* parts = team.shared(layout.chunks * layout.period);
  team.each(layout.chunks, [&](int64_t chunk, int) {
    float* part = parts + chunk * layout.period;
    kernels.sums(x + layout.begin(chunk) * channels, layout.size(chunk) * channels, layout.period, part);
    layout.fold(part);
  });
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < layout.chunks; ++chunk)
      sum += static_cast<double>(parts[chunk * layout.period + c]);
    sums[c] += static_cast<float>(sum);
  }
}

}  // namespace clipcid
