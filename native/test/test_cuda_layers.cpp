// Attention, convolutions, batch norms and pooling on the emulated device against the CPU's, in both precisions, and the same to the
// bit in whatever order threads run.
#include "operations.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

// --- Attention

void attentions() {
  struct Case {
    int64_t batch, queries, keys, heads, depth;
    bool packed, causal, masked;
  };
  const Case cases[] = {
      {1, 1, 1, 1, 4, false, false, false},   {2, 50, 50, 2, 64, true, false, false},
      {1, 77, 77, 2, 32, true, true, false},  {1, 65, 33, 1, 20, false, false, true},
      {1, 34, 34, 1, 128, false, true, true}, {1, 9, 40, 2, 130, false, false, true},
      {1, 70, 70, 1, 96, true, false, false},
  };
  for (const Case& one : cases) {
    const int64_t width = one.heads * one.depth, row = one.packed ? 3 * width : width;
    const int64_t q = 0, k = one.packed ? width : one.batch * one.queries * row;
    const int64_t v = one.packed ? 2 * width : k + one.batch * one.keys * row;
    const int64_t inputs = one.packed ? one.batch * one.queries * row : v + one.batch * one.keys * row;
    const int64_t mask = 2 * inputs, masks = one.batch * one.queries * one.keys;
    const int64_t y = mask + masks, all = one.batch * one.queries * width, dy = y + all, lse = dy + all,
                  total = lse + one.batch * one.heads * one.queries;
    std::vector<float> arena = noises(total, 15);
    const Make make = [&](float* base) -> std::vector<Operation> {
      AttentionArgs args;
      args.shape = {};
      AttentionShape& shape = args.shape;
      shape.batch = one.batch;
      shape.queries = one.queries;
      shape.keys = one.keys;
      shape.heads = one.heads;
      shape.depth = one.depth;
      shape.rowQ = shape.rowK = shape.rowV = row;
      shape.scale = 1 / std::sqrt(static_cast<float>(one.depth));
      shape.causal = one.causal;
      shape.maskStrides[0] = one.queries * one.keys;
      shape.maskStrides[2] = one.keys;
      args.q = base + q;
      args.k = base + k;
      args.v = base + v;
      args.mask = one.masked ? base + mask : nullptr;
      args.y = base + y;
      args.lse = base + lse;
      AttentionGradientArgs back;
      back.shape = shape;
      back.dy = base + dy;
      back.q = args.q;
      back.k = args.k;
      back.v = args.v;
      back.mask = args.mask;
      back.y = args.y;
      back.lse = args.lse;
      back.dq = base + inputs + q;
      back.dk = base + inputs + k;
      back.dv = base + inputs + v;
      return {args, back};
    };
    const std::string name = "attention of depth " + std::to_string(one.depth);
    compare(name, arena, make, {{y, all, 1e-5}, {lse, total - lse, 1e-5}, {inputs, inputs, 2e-5}});
    compare(name + ", bfloat16", arena, make,
            {{y, all, kRounded}, {lse, total - lse, kRounded}, {inputs, inputs, 2 * kRounded}}, false);
  }
}

// --- Images

void convolutions() {
  struct Case {
    ConvShape shape;
    const char* name;
  };
  const auto shapeOf = [](int64_t images, int64_t side, int64_t in, int64_t out, int64_t groups,
                          int64_t kernel, int64_t stride, int64_t pad, int64_t dilation = 1) {
    ConvShape shape;
    shape.images = images;
    shape.height = side;
    shape.width = side + 1;
    shape.channels = in;
    shape.outChannels = out;
    shape.groups = groups;
    shape.kernelHeight = kernel;
    shape.kernelWidth = kernel;
    shape.strideHeight = shape.strideWidth = stride;
    shape.dilationHeight = shape.dilationWidth = dilation;
    shape.padTop = shape.padLeft = pad;
    const int64_t reach = dilation * (kernel - 1) + 1;
    shape.outHeight = (shape.height + 2 * pad - reach) / stride + 1;
    shape.outWidth = (shape.width + 2 * pad - reach) / stride + 1;
    return shape;
  };
  const Case cases[] = {
      {shapeOf(2, 7, 8, 16, 1, 3, 1, 1), "3x3"},
      {shapeOf(3, 6, 16, 8, 1, 1, 1, 0), "1x1"},
      {shapeOf(1, 9, 5, 7, 1, 3, 2, 1), "stride"},
      {shapeOf(2, 8, 12, 8, 4, 3, 1, 2, 2), "groups and dilation"},
      {shapeOf(2, 7, 6, 6, 6, 3, 2, 1), "depthwise"},
      {shapeOf(2, 8, 3, 4, 1, 4, 4, 0), "patches"},
      {shapeOf(1, 12, 8, 70, 1, 3, 1, 1), "many channels"},
  };
  for (const Case& one : cases) {
    for (const bool planar : {false, true}) {
      ConvShape shape = one.shape;
      if (planar && (shape.groups > 1 || shape.dilationWidth > 1)) continue;
      shape.planar = planar;
      const int64_t xs = shape.images * shape.height * shape.width * shape.channels;
      const int64_t ys = shape.images * shape.outHeight * shape.outWidth * shape.outChannels;
      const int64_t ws =
          shape.outChannels * shape.channels / shape.groups * shape.kernelHeight * shape.kernelWidth;
      const int64_t x = 0, dx = xs, y = 2 * xs, dy = y + ys, w = dy + ys, dw = w + ws, bias = dw + ws,
                    dBias = bias + shape.outChannels, total = dBias + shape.outChannels;
      const std::vector<float> arena = noises(total, 16);
      const Make make = [&](float* base) -> std::vector<Operation> {
        ConvArgs args;
        args.shape = shape;
        args.x = base + x;
        args.weights = base + w;
        args.bias = shape.kernelHeight == 1 ? nullptr : base + bias;
        args.y = base + y;
        ConvInputGradientArgs input;
        input.shape = shape;
        input.dy = base + dy;
        input.weights = base + w;
        input.dx = base + dx;
        input.add = shape.strideHeight > 1;
        ConvWeightGradientArgs weights;
        weights.shape = shape;
        weights.x = base + x;
        weights.dy = base + dy;
        weights.dWeights = base + dw;
        weights.dBias = base + dBias;
        if (planar) return {args, weights};
        return {args, input, weights};
      };
      const std::string name = std::string("convolution, ") + one.name + (planar ? ", planar" : "");
      std::vector<Output> outputs = {{y, ys, 1e-5}, {dw, ws, 1e-5}, {dBias, shape.outChannels, 1e-5}};
      if (!planar) outputs.push_back({dx, xs, 1e-5});
      compare(name, arena, make, outputs);
      for (Output& output : outputs) output.bound = kRounded;
      compare(name + ", bfloat16", arena, make, outputs, false);
    }
  }
}

void batchNorms() {
  for (const auto& [rows, channels] : std::vector<std::pair<int64_t, int64_t>>{{5, 3}, {130, 33}, {700, 8}}) {
    const int64_t all = rows * channels;
    const int64_t x = 0, dy = all, residual = 2 * all, y = 3 * all, dx = 4 * all, dResidual = 5 * all,
                  gamma = 6 * all, beta = gamma + channels, mean = beta + channels,
                  variance = mean + channels, dGamma = variance + channels, dBeta = dGamma + channels,
                  total = dBeta + channels;
    std::vector<float> arena = noises(total, 17);
    for (int64_t c = 0; c < channels; ++c) {
      float& value = arena[static_cast<size_t>(variance + c)];
      value = std::abs(value) + 0.1f;
    }
    for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kHardSwish}) {
      for (int form = 0; form < 4; ++form) {
        const bool added = form % 2 == 1, given = form / 2 == 1;
        std::vector<Output> outputs = {
            {y, all, 1e-5}, {dx, all, 2e-5}, {dGamma, channels, 2e-5}, {dBeta, channels, 2e-5}};
        if (!given) outputs.push_back({mean, 2 * channels, 1e-5});
        if (added) outputs.push_back({dResidual, all, 1e-5});
        compare(
            "batch norm", arena,
            [&](float* base) -> std::vector<Operation> {
              BatchNormArgs args;
              args.rows = rows;
              args.channels = channels;
              args.activation = activation;
              args.given = given;
              args.x = base + x;
              args.gamma = base + gamma;
              args.beta = base + beta;
              args.residual = added ? base + residual : nullptr;
              args.y = base + y;
              args.mean = base + mean;
              args.variance = base + variance;
              BatchNormGradientArgs back;
              back.rows = rows;
              back.channels = channels;
              back.activation = activation;
              back.given = given;
              back.dy = base + dy;
              back.x = args.x;
              back.gamma = args.gamma;
              back.beta = args.beta;
              back.mean = args.mean;
              back.variance = args.variance;
              back.y = added && activation == Activation::kRelu ? args.y : nullptr;
              back.residual = added && activation == Activation::kHardSwish ? args.residual : nullptr;
              back.dx = base + dx;
              back.dResidual = added ? base + dResidual : nullptr;
              back.dGamma = base + dGamma;
              back.dBeta = base + dBeta;
              return {args, back};
            },
            outputs);
      }
    }
  }
}

void pools() {
  for (const auto& [kernel, stride, pad, dilation] :
       std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{
           {3, 2, 1, 1}, {2, 2, 0, 1}, {3, 1, 1, 2}, {7, 7, 0, 1}}) {
    PoolShape shape;
    shape.images = 2;
    shape.height = 7;
    shape.width = 8;
    shape.channels = 5;
    shape.kernelHeight = shape.kernelWidth = kernel;
    shape.strideHeight = shape.strideWidth = stride;
    shape.dilationHeight = shape.dilationWidth = dilation;
    shape.padTop = shape.padLeft = pad;
    const int64_t reach = dilation * (kernel - 1) + 1;
    shape.outHeight = (shape.height + 2 * pad - reach) / stride + 1;
    shape.outWidth = (shape.width + 2 * pad - reach) / stride + 1;
    const int64_t xs = 7 * 8 * 2 * 5, ys = shape.outHeight * shape.outWidth * 10;
    const int64_t x = 0, dx = xs, y = 2 * xs, dy = y + ys, taps = dy + ys, average = taps + (ys + 1) / 2,
                  dAverage = average + ys, total = dAverage + xs;
    const std::vector<float> arena = noises(total, 18);
    for (const bool padding : {false, true}) {
      compare("pooling", arena,
              [&](float* base) -> std::vector<Operation> {
                MaxPoolArgs most;
                most.shape = shape;
                most.x = base + x;
                most.y = base + y;
                most.taps = reinterpret_cast<uint16_t*>(base + taps);
                MaxPoolGradientArgs back;
                back.shape = shape;
                back.dy = base + dy;
                back.taps = most.taps;
                back.dx = base + dx;
                AveragePoolArgs mean;
                mean.shape = shape;
                mean.countPadding = padding;
                mean.x = base + x;
                mean.y = base + average;
                AveragePoolGradientArgs meanBack;
                meanBack.shape = shape;
                meanBack.countPadding = padding;
                meanBack.dy = base + dy;
                meanBack.dx = base + dAverage;
                return {most, back, mean, meanBack};
              },
              {{y, ys, 0}, {taps, ys / 2, 0}, {dx, xs, 1e-6}, {average, ys, 1e-6}, {dAverage, xs, 1e-6}});
    }
  }
}

}  // namespace

int main() {
  attentions();
  convolutions();
  batchNorms();
  pools();
  return report("layers on the emulated device");
}
