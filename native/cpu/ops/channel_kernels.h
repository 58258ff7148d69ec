// The inner loops of what goes by channel: batch norm with what follows it, pooling, and sums; compiled once for each
// instruction set and chosen once at run time.
//
// Data are `length` elements that lie channel by channel, [rows, channels] or part of it from a row's first channel on.
// What is by channel is repeated up to `period` elements, a multiple of both channels and kMostWidth.
#pragma once

#include <cstdint>

#include "clipcid/ops.h"

namespace clipcid {

// Whatever the instruction set, a vector divides this.
constexpr int kMostWidth = 16;

// z = (x - mean) scale + beta + residual; y = activation(z). Arrays of `period`; the residual of `length`, or null.
struct Normalization {
  Activation activation;
  const float* mean;
  const float* scale;
  const float* beta;
  const float* residual;
};

struct ChannelKernels {
  // sums[j] = sum of the x[i] with i = j mod period; squares: of (x[i] - mean[j])^2.
  void (*sums)(const float* x, int64_t length, int64_t period, float* sums);
  void (*squares)(const float* x, const float* mean, int64_t length, int64_t period, float* sums);

  void (*normalize)(const Normalization& norm, const float* x, int64_t length, int64_t period, float* y);
  // With g = dy activation'(z): sums[j] = sum of g, moments[j] = sum of g (x - mean); g, unless null, becomes g. `y` is
  // the result of `normalize`, read instead of the residual where the activation is kRelu.
  void (*gradientSums)(const Normalization& norm, const float* dy, const float* x, const float* y,
                       int64_t length, int64_t period, float* g, float* sums, float* moments);
  // dx = g scale + (x - mean) slope + offset, where g is dy where there is no activation, and else from it as above. dx
  // may be dy. norm.residual is null.
  void (*gradient)(const Normalization& norm, const float* slope, const float* offset, const float* dy,
                   const float* x, int64_t length, int64_t period, float* dx);

  // Slabs of `length` elements, one for each tap.
  //
  // y[i] = the largest sources[t][i]; which[i] = taps[t] of the first of those.
  void (*largest)(const float* const* sources, const uint16_t* taps, int64_t count, int64_t length, float* y,
                  uint16_t* which);
  // dx[i] = sum of the dys[t][i] for which whichs[t][i] is taps[t].
  void (*largestGradient)(const float* const* dys, const uint16_t* const* whichs, const uint16_t* taps,
                          int64_t count, int64_t length, float* dx);
  // y[i] = sum over t of factors[t] sources[t][i]
  void (*weighted)(const float* const* sources, const float* factors, int64_t count, int64_t length,
                   float* y);
};

const ChannelKernels& channelKernels();

// Those of one instruction set, by file.
const ChannelKernels& plainChannelKernels();
const ChannelKernels& avx2ChannelKernels();
const ChannelKernels& avx512ChannelKernels();
const ChannelKernels& neonChannelKernels();

}  // namespace clipcid
