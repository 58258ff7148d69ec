// The CPU's operations of transformers against plain loops in float64, for the instruction set in use (CLIP_CID_SIMD).
#include <algorithm>
#include <functional>
#include <limits>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/ops/ops.h"
#include "cpu/ops/simd.h"

namespace clipcid {
namespace {

std::vector<float> noises(int64_t count, uint64_t stream, float scale = 1) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = scale * test::noise(stream, i);
  return values;
}

template <typename Args>
void runOn(int threads, const Args& args) {
  TeamMemory memory(threads);
  Team::run(threads, memory, [&](Team& team) { CHECK_OK(run(team, args)); });
}

// Norm of the difference over that of what is expected.
double relativeError(const float* actual, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = static_cast<double>(actual[i]) - expected[i];
    difference += error * error;
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-300));
}

// --- Steps

struct StepCase {
  Step step;
  std::function<double(double a, double b, double c)> expected;
  double least = -20, most = 20;  // of a
  double bound = 4e-7;            // relative to |expected| + floor
  double floor = 1e-7;
};

void steps() {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto phi = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  const auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); };
  const std::vector<StepCase> cases = {
      {Step::kExponential, [](double a, double, double) { return std::exp(a); }, -80, 88.5},
      {Step::kLogarithm, [](double a, double, double) { return std::log(a); }, 1e-6, 1e6},
      {Step::kSine, [](double a, double, double) { return std::sin(a); }},
      {Step::kCosine, [](double a, double, double) { return std::cos(a); }},
      {Step::kTanh, [](double a, double, double) { return std::tanh(a); }},
      {Step::kSigmoid, [&](double a, double, double) { return sigmoid(a); }, -80, 80},
      {Step::kErf, [](double a, double, double) { return std::erf(a); }, -5, 5},
      {Step::kSoftplus,
       [](double a, double, double) {
         return a > 0 ? a + std::log1p(std::exp(-a)) : std::log1p(std::exp(a));
       }},
      {Step::kGelu, [&](double a, double, double) { return a * phi(a); }, -6, 6, 2e-6},
      {Step::kGeluGradient, [&](double a, double b, double) { return a * (phi(b) + b * density(b)); }, -6, 6,
       2e-6, 0.1},
      {Step::kQuickGelu, [&](double a, double, double) { return a * sigmoid(0.75 * a); }, -20, 20, 1e-6},
      {Step::kQuickGeluGradient,
       [&](double a, double b, double) {
         const double s = sigmoid(0.75 * b);
         return a * (s + 0.75 * b * s * (1 - s));
       },
       -20, 20, 3e-6, 0.1},
      {Step::kSquareRoot, [](double a, double, double) { return std::sqrt(a); }, 0, 1e6},
      {Step::kReciprocal, [](double a, double, double) { return 1 / a; }, 0.1, 100},
      {Step::kRelu, [](double a, double, double) { return std::max(a, 0.0); }},
      {Step::kLeakyRelu, [](double a, double, double) { return a < 0 ? 0.75 * a : a; }},
      {Step::kElu, [](double a, double, double) { return a < 0 ? 0.75 * std::expm1(a) : a; }, -20, 20, 1e-6},
      {Step::kHardSigmoid, [](double a, double, double) { return std::clamp(0.75 * a + 0.25, 0.0, 1.0); }},
      {Step::kHardSwish, [](double a, double, double) { return a * std::clamp(a / 6 + 0.5, 0.0, 1.0); }, -8,
       8, 1e-6, 0.1},
      {Step::kAbsolute, [](double a, double, double) { return std::abs(a); }},
      {Step::kSign, [](double a, double, double) { return (a > 0) - (a < 0); }},
      {Step::kFloor, [](double a, double, double) { return std::floor(a); }},
      {Step::kCeil, [](double a, double, double) { return std::ceil(a); }},
      {Step::kAdd, [](double a, double b, double) { return a + b; }},
      {Step::kSubtract, [](double a, double b, double) { return a - b; }},
      {Step::kMultiply, [](double a, double b, double) { return a * b; }},
      {Step::kDivide, [](double a, double b, double) { return a / b; }},
      {Step::kPower, [](double a, double b, double) { return std::pow(a, b); }, 0.1, 20, 1e-6},
      {Step::kModulo,
       [](double a, double b, double) {
         return a - std::floor(static_cast<double>(static_cast<float>(a) / static_cast<float>(b))) * b;
       },
       -20, 20, 1e-5, 1},
      {Step::kMinimum, [](double a, double b, double) { return std::min(a, b); }},
      {Step::kMaximum, [](double a, double b, double) { return std::max(a, b); }},
      {Step::kLess, [](double a, double b, double) { return a < b; }},
      {Step::kGreaterOrEqual, [](double a, double b, double) { return a >= b; }},
      {Step::kSelect, [](double a, double b, double c) { return a != 0 ? b : c; }},
      {Step::kMultiplyAdd, [](double a, double b, double c) { return a * b + c; }, -20, 20, 1e-6, 1},
  };
  for (const StepCase& one : cases) {
    // Lengths about those of vectors; the last elements are a vector's part.
    for (const int64_t count : {1, 7, 16, 1003}) {
      std::vector<float> a(static_cast<size_t>(count)), out(a.size() + 1, -7.5f);
      const std::vector<float> b = noises(count, 2, 2), c = noises(count, 3, 2);
      for (size_t i = 0; i < a.size(); ++i) {
        const double share = (static_cast<double>(i) + 0.5) / static_cast<double>(count);
        a[i] = static_cast<float>(one.least + share * (one.most - one.least));
      }
      for (const int64_t step : {1, 0}) {
        StepCall call;
        call.a = a.data();
        call.b = b.data();
        call.c = c.data();
        call.stepB = step;
        call.p = 0.75f;
        call.q = 0.25f;
        call.to = out.data();
        call.count = count;
        simd().steps[static_cast<int>(one.step)](call);
        double worst = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          const double expected = one.expected(a[i], b[step == 0 ? 0 : i], c[i]);
          const double error = std::abs(static_cast<double>(out[i]) - expected);
          worst = std::max(worst, error / (std::abs(expected) + one.floor));
        }
        if (!(worst < one.bound)) std::fprintf(stderr, "step %d: %g\n", static_cast<int>(one.step), worst);
        CHECK(worst < one.bound);
        CHECK(out.back() == -7.5f);
      }
    }
  }
  // What is not a number stays so.
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Step step : {Step::kExponential, Step::kLogarithm, Step::kTanh, Step::kSigmoid, Step::kErf,
                          Step::kRelu, Step::kHardSwish, Step::kGelu, Step::kMaximum, Step::kSign}) {
    const float nan = std::numeric_limits<float>::quiet_NaN(), one = 1;
    float out = 0;
    StepCall call;
    call.a = &nan;
    call.b = &one;
    call.to = &out;
    call.count = 1;
    simd().steps[static_cast<int>(step)](call);
    CHECK(std::isnan(out));
  }
  const auto at = [](Step step, float x) {
    float out = 0;
    StepCall call;
    call.a = &x;
    call.to = &out;
    call.count = 1;
    simd().steps[static_cast<int>(step)](call);
    return out;
  };
  CHECK(at(Step::kExponential, 100) == infinity);
  CHECK(at(Step::kExponential, -200) == 0);
  CHECK(at(Step::kLogarithm, 0) == -infinity);
  CHECK(std::isnan(at(Step::kLogarithm, -1)));
  CHECK(at(Step::kTanh, 50) == 1 && at(Step::kTanh, -50) == -1);
}

// A function and its gradient at the same place run as one step: to the bit what each makes alone, in whatever order they stand,
// over memory of its own or an operand's, and where a step between them reads the first.
void pairs() {
  const int64_t rows = 3, columns = 1003, count = rows * columns;
  const std::vector<float> dy = noises(count, 41, 3), x = noises(count, 42, 4);
  for (const auto& [function, slope] :
       {std::pair(Step::kGelu, Step::kGeluGradient), {Step::kQuickGelu, Step::kQuickGeluGradient}}) {
    std::vector<float> value(x.size()), gradient(x.size()), sum(x.size());
    StepCall call;
    call.p = 1.702f;
    call.count = count;
    call.a = x.data();
    call.to = value.data();
    simd().steps[static_cast<int>(function)](call);
    call.a = dy.data();
    call.b = x.data();
    call.to = gradient.data();
    simd().steps[static_cast<int>(slope)](call);
    for (size_t i = 0; i < x.size(); ++i) sum[i] = value[i] + gradient[i];
    for (int form = 0; form < 5; ++form) {
      std::vector<float> inputs[2] = {dy, x}, values(x.size()), gradients(x.size()), sums(x.size());
      const bool inPlace = form == 2 || form == 4, functionFirst = form == 1 || form == 3 || form == 4;
      ChainArgs args;
      Chain& chain = args.chain;
      chain.axes = 2;
      chain.dims[0] = rows, chain.dims[1] = columns;
      chain.inputs = 2;
      for (int i = 0; i < 2; ++i) {
        chain.input[i].strides[0] = columns, chain.input[i].strides[1] = 1;
        chain.input[i].data = inputs[i].data();
      }
      const auto step = [&](Step kind, uint8_t a, uint8_t b = 0) {
        ChainStep& made = chain.step[chain.steps++];
        made.step = kind, made.a = a, made.b = b, made.p = 1.702f;
        return static_cast<uint8_t>(kMostChainInputs + chain.steps - 1);
      };
      const auto output = [&](uint8_t from, float* to) {
        ChainOutput& made = chain.output[chain.outputs++];
        made.from = from, made.data = to;
      };
      uint8_t first = functionFirst ? step(function, 1) : step(slope, 0, 1);
      // Read before the other one runs.
      const uint8_t between = form == 3 ? step(Step::kNegate, first) : first;
      const uint8_t second = functionFirst ? step(slope, 0, 1) : step(function, 1);
      const uint8_t made =
          form == 3 ? step(Step::kSubtract, second, between) : step(Step::kAdd, first, second);
      output(functionFirst ? first : second, inPlace ? inputs[1].data() : values.data());
      output(functionFirst ? second : first, inPlace ? inputs[0].data() : gradients.data());
      output(made, sums.data());
      runOn(2, args);
      CHECK((inPlace ? inputs[1] : values) == value);
      CHECK((inPlace ? inputs[0] : gradients) == gradient);
      for (size_t i = 0; i < sum.size(); ++i) CHECK(sums[i] == sum[i]);
    }
  }
}

// --- Products

struct ProductCase {
  int64_t m, n, k;
  bool transposeA = false, transposeB = false, accumulate = false, packed = false, chained = false;
  int64_t outer = 1, inner = 1;
};

void product(const ProductCase& one, Precision precision, int threads) {
  const auto& [m, n, k, transposeA, transposeB, accumulate, packed, chained, outer, inner] = one;
  const int64_t batch = outer * inner;
  const int64_t rowA = (transposeA ? m : k) + 3, rowB = (transposeB ? k : n) + 5, rowC = chained ? n : n + 2;
  const int64_t sizeA = (transposeA ? k : m) * rowA, sizeB = (transposeB ? n : k) * rowB, sizeC = m * rowC;
  const std::vector<float> a = noises(batch * sizeA, 11), b = noises(batch * sizeB, 12);
  const std::vector<float> before = noises(batch * sizeC, 13), bias = noises(n, 14),
                           other = noises(m * n, 15);
  std::vector<float> c = before;
  ProductArgs args;
  args.batches[0] = outer;
  args.batches[1] = inner;
  args.batchA[0] = inner * sizeA;
  args.batchA[1] = sizeA;
  args.batchB[0] = inner * sizeB;
  args.batchB[1] = sizeB;
  args.batchC[0] = inner * sizeC;
  args.batchC[1] = sizeC;
  args.m = m;
  args.n = n;
  args.k = k;
  args.rowA = rowA;
  args.rowB = rowB;
  args.rowC = rowC;
  args.transposeA = transposeA;
  args.transposeB = transposeB;
  args.accumulate = accumulate;
  args.precision = precision;
  args.alpha = 0.5f;
  args.a = a.data();
  args.b = b.data();
  args.c = c.data();
  AlignedArray<float> panel(packedFloats(n, k, precision));
  if (packed) {
    PackArgs pack;
    pack.n = n;
    pack.k = k;
    pack.row = rowB;
    pack.transpose = transposeB;
    pack.precision = precision;
    pack.packedFloats = packedFloats(n, k, precision);
    pack.b = b.data();
    pack.packed = panel.get();
    runOn(threads, pack);
    args.packedB = true;
    args.packedFloats = pack.packedFloats;
    args.b = panel.get();
  }
  std::vector<float> second(static_cast<size_t>(m * n));
  if (chained) {
    // c = relu(product + bias), second = c + other
    args.chained = true;
    Chain& chain = args.chain;
    chain.axes = 2;
    chain.dims[0] = m;
    chain.dims[1] = n;
    chain.inputs = 3;
    chain.input[0].data = c.data();
    chain.input[1].data = bias.data();
    chain.input[2].data = other.data();
    for (const int i : {0, 2}) chain.input[i].strides[0] = n;
    for (const int i : {0, 1, 2}) chain.input[i].strides[1] = 1;
    chain.steps = 3;
    chain.step[0] = {Step::kAdd, 0, 1, kNumber, 0, 0};
    chain.step[1] = {Step::kRelu, kMostChainInputs, kNumber, kNumber, 0, 0};
    chain.step[2] = {Step::kAdd, kMostChainInputs + 1, 2, kNumber, 0, 0};
    chain.outputs = 2;
    chain.output[0] = {ElementType::kFloat32, kMostChainInputs + 1, c.data()};
    chain.output[1] = {ElementType::kFloat32, kMostChainInputs + 2, second.data()};
  }
  runOn(threads, args);
  std::vector<double> expected(c.size()), expectedSecond(second.size());
  for (size_t i = 0; i < c.size(); ++i) expected[i] = before[i];
  for (int64_t at = 0; at < batch; ++at) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          const float x = a[static_cast<size_t>(at * sizeA + (transposeA ? l * rowA + i : i * rowA + l))];
          const float y = b[static_cast<size_t>(at * sizeB + (transposeB ? j * rowB + l : l * rowB + j))];
          sum += static_cast<double>(x) * static_cast<double>(y);
        }
        double& to = expected[static_cast<size_t>(at * sizeC + i * rowC + j)];
        to = 0.5 * sum + (accumulate ? to : 0);
        if (chained) {
          to = std::max(0.0, to + bias[static_cast<size_t>(j)]);
          expectedSecond[static_cast<size_t>(i * n + j)] = to + other[static_cast<size_t>(i * n + j)];
        }
      }
    }
  }
  // Of the norm: elements that are rounded to 8 bits are up to 2^-8 off, and cancel.
  const double bound = precision == Precision::kBfloat16 ? 8e-3 : 2e-6;
  CHECK(relativeError(c.data(), expected) < bound);
  if (chained) CHECK(relativeError(second.data(), expectedSecond) < bound);
  // Between rows nothing is written.
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = n; j < rowC; ++j)
      CHECK(c[static_cast<size_t>(i * rowC + j)] == before[static_cast<size_t>(i * rowC + j)]);
  }
}

void products(Precision precision) {
  for (const int threads : {1, 3}) {
    for (const bool transposeA : {false, true}) {
      for (const bool transposeB : {false, true}) {
        for (const bool accumulate : {false, true}) {
          product({1, 1, 1, transposeA, transposeB, accumulate}, precision, threads);
          product({37, 45, 70, transposeA, transposeB, accumulate}, precision, threads);
          product({300, 100, 1500, transposeA, transposeB, accumulate}, precision, threads);
          product({9, 17, 33, transposeA, transposeB, accumulate, false, false, 3, 5}, precision, threads);
        }
      }
    }
    for (const bool transposeB : {false, true}) {
      product({130, 70, 50, false, transposeB, false, true}, precision, threads);
      product({130, 2100, 1100, false, transposeB, false, true}, precision, threads);
      product({130, 70, 1100, false, transposeB, false, true, true}, precision, threads);
    }
    product({65, 96, 20, false, false, false, false, true}, precision, threads);
    product({65, 2300, 20, false, true, false, false, true}, precision, threads);
  }
}

// --- Attention

struct AttentionCase {
  int64_t batch, queries, keys, heads, depth;
  bool causal = false, masked = false, packed = false;
};

void attention(const AttentionCase& one, int threads) {
  const auto& [batch, queries, keys, heads, depth, causal, masked, packed] = one;
  const int64_t width = heads * depth, row = packed ? 3 * width : width;
  const std::vector<float> q = noises(batch * queries * row, 21), others = noises(2 * batch * keys * row, 22);
  const std::vector<float> mask = noises(batch * queries * keys, 23, 2),
                           dy = noises(batch * queries * width, 24);
  AttentionArgs args;
  AttentionShape& shape = args.shape;
  shape.batch = batch;
  shape.queries = queries;
  shape.keys = keys;
  shape.heads = heads;
  shape.depth = depth;
  shape.rowQ = shape.rowK = shape.rowV = row;
  shape.scale = 0.3f;
  shape.causal = causal;
  args.q = q.data();
  args.k = packed ? q.data() + width : others.data();
  args.v = packed ? q.data() + 2 * width : others.data() + batch * keys * row;
  if (masked) {
    args.mask = mask.data();
    shape.maskStrides[0] = queries * keys;
    shape.maskStrides[2] = keys;
  }
  std::vector<float> y(static_cast<size_t>(batch * queries * width)),
      lse(static_cast<size_t>(batch * heads * queries));
  args.y = y.data();
  args.lse = lse.data();
  runOn(threads, args);

  std::vector<float> dq(q.size(), 7), dk(others.size() / 2, 7), dv(others.size() / 2, 7);
  AttentionGradientArgs gradient;
  gradient.shape = shape;
  gradient.dy = dy.data();
  gradient.q = args.q;
  gradient.k = args.k;
  gradient.v = args.v;
  gradient.mask = args.mask;
  gradient.y = y.data();
  gradient.lse = lse.data();
  gradient.dq = dq.data();
  gradient.dk = packed ? dq.data() + width : dk.data();
  gradient.dv = packed ? dq.data() + 2 * width : dv.data();
  runOn(threads, gradient);

  std::vector<double> expectedY(y.size()), expectedQ, expectedK, expectedV;
  std::vector<float> actualQ, actualK, actualV;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      const auto at = [&](const float* base, int64_t rows, int64_t i, int64_t d) {
        return static_cast<double>(base[(b * rows + i) * row + h * depth + d]);
      };
      const auto given = [&](int64_t i, int64_t d) {
        return static_cast<double>(dy[static_cast<size_t>((b * queries + i) * width + h * depth + d)]);
      };
      std::vector<double> p(static_cast<size_t>(queries * keys)), ds(p.size());
      for (int64_t i = 0; i < queries; ++i) {
        double most = -INFINITY, sum = 0;
        const int64_t seen = causal ? i + 1 : keys;
        for (int64_t j = 0; j < seen; ++j) {
          double score = 0;
          for (int64_t d = 0; d < depth; ++d) score += at(args.q, queries, i, d) * at(args.k, keys, j, d);
          score *= static_cast<double>(shape.scale);
          if (masked) score += static_cast<double>(mask[static_cast<size_t>((b * queries + i) * keys + j)]);
          p[static_cast<size_t>(i * keys + j)] = score;
          most = std::max(most, score);
        }
        for (int64_t j = 0; j < seen; ++j) sum += std::exp(p[static_cast<size_t>(i * keys + j)] - most);
        for (int64_t j = 0; j < seen; ++j) {
          double& value = p[static_cast<size_t>(i * keys + j)];
          value = std::exp(value - most) / sum;
        }
        CHECK(std::abs(static_cast<double>(lse[static_cast<size_t>((b * heads + h) * queries + i)]) - most -
                       std::log(sum)) < 1e-5);
        for (int64_t d = 0; d < depth; ++d) {
          double total = 0;
          for (int64_t j = 0; j < seen; ++j)
            total += p[static_cast<size_t>(i * keys + j)] * at(args.v, keys, j, d);
          expectedY[static_cast<size_t>((b * queries + i) * width + h * depth + d)] = total;
        }
        double delta = 0;
        std::vector<double> dp(static_cast<size_t>(keys));
        for (int64_t j = 0; j < seen; ++j) {
          for (int64_t d = 0; d < depth; ++d)
            dp[static_cast<size_t>(j)] += given(i, d) * at(args.v, keys, j, d);
          delta += dp[static_cast<size_t>(j)] * p[static_cast<size_t>(i * keys + j)];
        }
        for (int64_t j = 0; j < seen; ++j)
          ds[static_cast<size_t>(i * keys + j)] =
              p[static_cast<size_t>(i * keys + j)] * (dp[static_cast<size_t>(j)] - delta);
      }
      for (int64_t i = 0; i < queries; ++i) {
        for (int64_t d = 0; d < depth; ++d) {
          double sum = 0;
          for (int64_t j = 0; j < keys; ++j)
            sum += ds[static_cast<size_t>(i * keys + j)] * at(args.k, keys, j, d);
          expectedQ.push_back(sum * static_cast<double>(shape.scale));
          actualQ.push_back(gradient.dq[(b * queries + i) * row + h * depth + d]);
        }
      }
      for (int64_t j = 0; j < keys; ++j) {
        for (int64_t d = 0; d < depth; ++d) {
          double sumK = 0, sumV = 0;
          for (int64_t i = 0; i < queries; ++i) {
            sumK += ds[static_cast<size_t>(i * keys + j)] * at(args.q, queries, i, d);
            sumV += p[static_cast<size_t>(i * keys + j)] * given(i, d);
          }
          expectedK.push_back(sumK * static_cast<double>(shape.scale));
          expectedV.push_back(sumV);
          actualK.push_back(gradient.dk[(b * keys + j) * row + h * depth + d]);
          actualV.push_back(gradient.dv[(b * keys + j) * row + h * depth + d]);
        }
      }
    }
  }
  CHECK(relativeError(y.data(), expectedY) < 2e-6);
  CHECK(relativeError(actualQ.data(), expectedQ) < 2e-5);
  CHECK(relativeError(actualK.data(), expectedK) < 2e-5);
  CHECK(relativeError(actualV.data(), expectedV) < 2e-6);
}

void attentions() {
  for (const int threads : {1, 3}) {
    attention({2, 1, 1, 1, 1}, threads);
    attention({2, 5, 5, 2, 3}, threads);
    attention({3, 1, 65, 2, 64}, threads);
    attention({2, 1, 19, 3, 24, false, true}, threads);
    attention({1, 7, 19, 2, 8, false, true}, threads);
    attention({2, 50, 50, 3, 64, false, false, true}, threads);
    attention({2, 65, 65, 1, 24, false, true, true}, threads);
    attention({1, 77, 77, 2, 64, true, false, true}, threads);
    attention({1, 6, 6, 2, 4, true}, threads);
    attention({1, 12, 12, 1, 16, true}, threads);
    attention({1, 197, 197, 1, 40, true}, threads);
    attention({1, 197, 197, 1, 64}, threads);
  }
}

// --- Norms, softmaxes and reductions

void layerNorms(int64_t rows, int64_t size, int threads) {
  const std::vector<float> x = noises(rows * size, 31, 3), gamma = noises(size, 32), beta = noises(size, 33);
  const std::vector<float> dy = noises(rows * size, 34), residual = noises(rows * size, 35);
  const size_t count = x.size();
  std::vector<float> y(count), mean(static_cast<size_t>(rows)), inverse(mean.size()), dx(count);
  std::vector<float> dGamma = noises(size, 36), dBeta = noises(size, 37);
  std::vector<double> expectedY(count), expectedX(count), expectedGamma, expectedBeta;
  for (const float value : dGamma) expectedGamma.push_back(value);
  for (const float value : dBeta) expectedBeta.push_back(value);
  LayerNormArgs args;
  args.rows = rows;
  args.size = size;
  args.epsilon = 1e-3f;
  args.x = x.data();
  args.gamma = gamma.data();
  args.beta = beta.data();
  args.y = y.data();
  args.mean = mean.data();
  args.inverse = inverse.data();
  runOn(threads, args);
  LayerNormGradientArgs gradient;
  gradient.rows = rows;
  gradient.size = size;
  gradient.dy = dy.data();
  gradient.x = x.data();
  gradient.gamma = gamma.data();
  gradient.mean = mean.data();
  gradient.inverse = inverse.data();
  gradient.residual = residual.data();
  gradient.dx = dx.data();
  gradient.dGamma = dGamma.data();
  gradient.dBeta = dBeta.data();
  runOn(threads, gradient);
  const auto n = static_cast<double>(size);
  for (int64_t row = 0; row < rows; ++row) {
    const auto at = [&](const std::vector<float>& values, int64_t i) {
      return static_cast<double>(values[static_cast<size_t>(row * size + i)]);
    };
    double m = 0, variance = 0, direct = 0, along = 0;
    for (int64_t i = 0; i < size; ++i) m += at(x, i) / n;
    for (int64_t i = 0; i < size; ++i) variance += (at(x, i) - m) * (at(x, i) - m) / n;
    const double s = 1 / std::sqrt(variance + static_cast<double>(args.epsilon));
    for (int64_t i = 0; i < size; ++i) {
      const double unit = (at(x, i) - m) * s, g = static_cast<double>(gamma[static_cast<size_t>(i)]);
      expectedY[static_cast<size_t>(row * size + i)] =
          unit * g + static_cast<double>(beta[static_cast<size_t>(i)]);
      expectedGamma[static_cast<size_t>(i)] += at(dy, i) * unit;
      expectedBeta[static_cast<size_t>(i)] += at(dy, i);
      direct += g * at(dy, i) / n;
      along += g * at(dy, i) * unit / n;
    }
    for (int64_t i = 0; i < size; ++i) {
      const double unit = (at(x, i) - m) * s, g = static_cast<double>(gamma[static_cast<size_t>(i)]);
      expectedX[static_cast<size_t>(row * size + i)] =
          s * (g * at(dy, i) - direct - unit * along) + at(residual, i);
    }
  }
  CHECK(relativeError(y.data(), expectedY) < 1e-6);
  CHECK(relativeError(dx.data(), expectedX) < 3e-6);
  CHECK(relativeError(dGamma.data(), expectedGamma) < 3e-6);
  CHECK(relativeError(dBeta.data(), expectedBeta) < 3e-6);
}

void reductions(int64_t outer, int64_t size, int64_t inner, int threads) {
  const std::vector<float> x = noises(outer * size * inner, 41, 2), dy = noises(outer * size * inner, 42);
  const auto at = [&](const std::vector<float>& values, int64_t o, int64_t i, int64_t n) {
    return static_cast<double>(values[static_cast<size_t>((o * size + i) * inner + n)]);
  };
  for (const Reduction kind : {Reduction::kSum, Reduction::kSumOfSquares, Reduction::kMaximum,
                               Reduction::kMinimum, Reduction::kLogSumExp}) {
    const bool sum = kind == Reduction::kSum || kind == Reduction::kSumOfSquares;
    std::vector<float> y = noises(outer * inner, 43);
    std::vector<double> expected(y.size());
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t n = 0; n < inner; ++n) {
        double value = kind == Reduction::kMaximum ? -INFINITY : (kind == Reduction::kMinimum ? INFINITY : 0);
        for (int64_t i = 0; i < size; ++i) {
          const double element = at(x, o, i, n);
          if (kind == Reduction::kMaximum) value = std::max(value, element);
          if (kind == Reduction::kMinimum) value = std::min(value, element);
          if (kind == Reduction::kSum) value += element;
          if (kind == Reduction::kSumOfSquares) value += element * element;
          if (kind == Reduction::kLogSumExp) value += std::exp(element);
        }
        if (kind == Reduction::kLogSumExp) value = std::log(value);
        const auto place = static_cast<size_t>(o * inner + n);
        expected[place] = sum ? 0.25 * value + static_cast<double>(y[place]) : value;
      }
    }
    ReduceArgs args;
    args.outer = outer;
    args.size = size;
    args.inner = inner;
    args.reduction = kind;
    args.scale = 0.25f;
    args.accumulate = sum;
    args.x = x.data();
    args.y = y.data();
    runOn(threads, args);
    CHECK(relativeError(y.data(), expected) < 2e-6);
  }
  for (const bool logarithm : {false, true}) {
    std::vector<float> y(x.size()), dx(x.size());
    SoftmaxRowsArgs args;
    args.outer = outer;
    args.size = size;
    args.inner = inner;
    args.logarithm = logarithm;
    args.x = x.data();
    args.y = y.data();
    runOn(threads, args);
    SoftmaxRowsGradientArgs gradient;
    gradient.outer = outer;
    gradient.size = size;
    gradient.inner = inner;
    gradient.logarithm = logarithm;
    gradient.dy = dy.data();
    gradient.y = y.data();
    gradient.dx = dx.data();
    runOn(threads, gradient);
    std::vector<double> expectedY(x.size()), expectedX(x.size());
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t n = 0; n < inner; ++n) {
        double total = 0, along = 0, given = 0;
        for (int64_t i = 0; i < size; ++i) total += std::exp(at(x, o, i, n));
        for (int64_t i = 0; i < size; ++i) {
          along += at(dy, o, i, n) * std::exp(at(x, o, i, n)) / total;
          given += at(dy, o, i, n);
        }
        for (int64_t i = 0; i < size; ++i) {
          const double p = std::exp(at(x, o, i, n)) / total;
          const auto place = static_cast<size_t>((o * size + i) * inner + n);
          expectedY[place] = logarithm ? at(x, o, i, n) - std::log(total) : p;
          expectedX[place] = logarithm ? at(dy, o, i, n) - p * given : p * (at(dy, o, i, n) - along);
        }
      }
    }
    CHECK(relativeError(y.data(), expectedY) < 2e-6);
    CHECK(relativeError(dx.data(), expectedX) < 5e-6);
  }
}

// --- Moving, gathering, scattering

void moves(int threads) {
  const std::vector<float> x = noises(5 * 6 * 7 * 40, 51);
  std::vector<float> y(x.size(), 9);
  // [5, 6, 7, 40] to [7, 40, 6, 5], every second of the last axis of x into place.
  CopyArgs args;
  args.axes = 4;
  const int64_t dims[] = {5, 6, 7, 20}, from[] = {6 * 7 * 40, 7 * 40, 40, 2}, to[] = {1, 5, 40 * 30, 30};
  for (int axis = 0; axis < 4; ++axis) {
    args.dims[axis] = dims[axis];
    args.fromStrides[axis] = from[axis];
    args.toStrides[axis] = to[axis];
  }
  args.from = x.data();
  args.to = y.data();
  runOn(threads, args);
  int wrong = 0;
  for (int64_t a = 0; a < 5; ++a) {
    for (int64_t b = 0; b < 6; ++b) {
      for (int64_t c = 0; c < 7; ++c) {
        for (int64_t d = 0; d < 20; ++d) {
          const int64_t source = a * from[0] + b * from[1] + c * from[2] + d * from[3];
          const int64_t target = a * to[0] + b * to[1] + c * to[2] + d * to[3];
          wrong += y[static_cast<size_t>(target)] != x[static_cast<size_t>(source)];
        }
      }
    }
  }
  CHECK(wrong == 0);

  // Rows by index, and back; an index twice is added twice.
  const std::vector<int64_t> indices = {3, -1, 0, 3};
  std::vector<float> rows(4 * 100), table(5 * 100, 0.5f);
  GatherRowsArgs gather;
  gather.size = 5;
  gather.inner = 100;
  gather.count = 4;
  gather.x = x.data();
  gather.indices = indices.data();
  gather.y = rows.data();
  runOn(threads, gather);
  ScatterRowsArgs scatter;
  scatter.size = 5;
  scatter.inner = 100;
  scatter.count = 4;
  scatter.accumulate = true;
  scatter.rows = rows.data();
  scatter.indices = indices.data();
  scatter.y = table.data();
  runOn(threads, scatter);
  for (size_t j = 0; j < 100; ++j) {
    CHECK(rows[j] == x[300 + j] && rows[100 + j] == x[400 + j] && rows[200 + j] == x[j]);
    CHECK(table[300 + j] == 0.5f + x[300 + j] + x[300 + j] && table[100 + j] == 0.5f);
  }
  // One out of range is a fault, and nothing is read or written there.
  const std::vector<int64_t> wild = {0, 5};
  gather.count = 2;
  gather.indices = wild.data();
  TeamMemory memory(threads);
  Team::run(threads, memory, [&](Team& team) {
    const Status status = run(team, gather);
    CHECK(status.code == Code::kInvalidData &&
          status.message.find("Index 5 at element 1") != std::string::npos);
  });
}

// Whole numbers are compared and added as such, beyond what a float32 holds.
void integers(int threads) {
  const std::vector<int64_t> a = {(int64_t{1} << 40) + 1, 7, -3}, b = {int64_t{1} << 40, 7, 5};
  std::vector<uint8_t> equal(3);
  std::vector<int64_t> sum(3);
  ChainArgs args;
  args.chain.integers = true;
  args.chain.dims[0] = 3;
  args.chain.inputs = 2;
  args.chain.input[0] = {ElementType::kInt64, {1}, a.data()};
  args.chain.input[1] = {ElementType::kInt64, {1}, b.data()};
  args.chain.steps = 2;
  args.chain.step[0] = {Step::kEqual, 0, 1, kNumber, 0, 0};
  args.chain.step[1] = {Step::kAdd, 0, 1, kNumber, 0, 0};
  args.chain.outputs = 2;
  args.chain.output[0] = {ElementType::kBool, kMostChainInputs, equal.data()};
  args.chain.output[1] = {ElementType::kInt64, kMostChainInputs + 1, sum.data()};
  runOn(threads, args);
  CHECK(equal[0] == 0 && equal[1] == 1 && equal[2] == 0);
  CHECK(sum[0] == (int64_t{1} << 41) + 1 && sum[1] == 14 && sum[2] == 2);
}

// A chain over broadcast operands, one of which its result takes the place of.
void chains(int threads) {
  const int64_t outer = 7, rows = 33, columns = 65;
  const std::vector<float> x = noises(outer * rows * columns, 61), row = noises(rows * columns, 62);
  const std::vector<float> column = noises(outer, 63);
  std::vector<float> y = x, z(x.size());
  ChainArgs args;
  Chain& chain = args.chain;
  chain.axes = 2;
  chain.dims[0] = outer;
  chain.dims[1] = rows * columns;
  chain.inputs = 3;
  chain.input[0] = {ElementType::kFloat32, {rows * columns, 1}, y.data()};
  chain.input[1] = {ElementType::kFloat32, {0, 1}, row.data()};
  chain.input[2] = {ElementType::kFloat32, {1, 0}, column.data()};
  chain.steps = 3;
  chain.step[0] = {Step::kAdd, 0, 1, kNumber, 0, 0};  // into y, which the last step still reads
  chain.step[1] = {Step::kMultiply, kMostChainInputs, 2, kNumber, 0, 0};  // into z
  chain.step[2] = {Step::kSubtract, kMostChainInputs + 1, 0, kNumber, 0, 0};
  chain.outputs = 2;
  chain.output[0] = {ElementType::kFloat32, kMostChainInputs, y.data()};
  chain.output[1] = {ElementType::kFloat32, kMostChainInputs + 2, z.data()};
  runOn(threads, args);
  int wrong = 0;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < rows * columns; ++i) {
      const auto at = static_cast<size_t>(o * rows * columns + i);
      const float sum = x[at] + row[static_cast<size_t>(i)];
      wrong += y[at] != sum;
      wrong += std::abs(z[at] - (sum * column[static_cast<size_t>(o)] - x[at])) > 1e-5f;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace clipcid

int main() {
  using namespace clipcid;
  steps();
  pairs();
  products(Precision::kFloat32);
  products(Precision::kBfloat16);
  attentions();
  for (const int threads : {1, 3}) {
    layerNorms(3, 5, threads);
    layerNorms(700, 192, threads);
    layerNorms(65, 770, threads);
    reductions(3, 5, 1, threads);
    reductions(2, 700, 33, threads);
    reductions(1, 3000, 300, threads);
    reductions(60, 4, 70, threads);
    moves(threads);
    integers(threads);
    chains(threads);
  }
  std::printf("%s, ", isaName());
  return test::report("ops");
}
