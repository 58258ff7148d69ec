// The GPU's products, chains, sums and moves on the emulated device against the CPU's, over sizes on either side of the edges of
// tiles, and the same to the bit in whatever order threads run.
#include "operations.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

// --- Products

void products() {
  struct Case {
    int64_t m, n, k;
    int64_t padA = 0, padB = 0, padC = 0;
  };
  const Case cases[] = {{1, 1, 1},    {5, 7, 1100}, {64, 64, 32},  {65, 63, 33, 3, 1, 5},
                        {130, 4, 40}, {17, 200, 8}, {300, 132, 65}};
  for (const Case& one : cases) {
    for (int turned = 0; turned < 4; ++turned) {
      if (turned % 3 != 0 && one.m * one.n > 20000) continue;
      ProductArgs args;
      args.m = one.m;
      args.n = one.n;
      args.k = one.k;
      args.transposeA = turned % 2 == 1;
      args.transposeB = turned / 2 == 1;
      args.rowA = (args.transposeA ? one.m : one.k) + one.padA;
      args.rowB = (args.transposeB ? one.k : one.n) + one.padB;
      args.rowC = one.n + one.padC;
      args.alpha = 0.5f;
      args.accumulate = turned == 1;
      const int64_t sizeA = (args.transposeA ? one.k : one.m) * args.rowA;
      const int64_t sizeB = (args.transposeB ? one.n : one.k) * args.rowB, sizeC = one.m * args.rowC;
      std::vector<float> arena = noises(sizeA + sizeB + sizeC, 3);
      const Make make = [&](float* base) -> std::vector<Operation> {
        ProductArgs own = args;
        own.a = base;
        own.b = base + sizeA;
        own.c = base + sizeA + sizeB;
        return {own};
      };
      const std::string name = "product " + std::to_string(one.m) + "x" + std::to_string(one.n) + "x" +
                               std::to_string(one.k) + " " + std::to_string(turned);
      std::vector<Output> outputs[2];
      for (int64_t row = 0; row < one.m; ++row) {
        const int64_t at = sizeA + sizeB + row * args.rowC;
        outputs[0].push_back({at, one.n, one.n < 8 ? 3e-5 : 1e-5});
        outputs[1].push_back({at, one.n, one.n < 8 ? 0.2 : 4e-2});
      }
      compare(name, arena, make, outputs[0], true);
      compare(name + " of bfloat16", arena, make, outputs[1], false);
    }
  }
}

void batches() {
  // Heads side by side: scores [2, 3] of 5 x 6 with depth 4.
  ProductArgs args;
  args.batches[0] = 2;
  args.batches[1] = 3;
  args.batchA[0] = 5 * 12;
  args.batchA[1] = 4;
  args.batchB[0] = 6 * 12;
  args.batchB[1] = 4;
  args.batchC[0] = 3 * 30;
  args.batchC[1] = 30;
  args.m = 5;
  args.n = 6;
  args.k = 4;
  args.rowA = args.rowB = 12;
  args.rowC = 6;
  args.transposeB = true;
  const int64_t sizeA = 120, sizeB = 144;
  const std::vector<float> arena = noises(sizeA + sizeB + 180, 4);
  compare("batches", arena,
          [&](float* base) -> std::vector<Operation> {
            ProductArgs own = args;
            own.a = base;
            own.b = base + sizeA;
            own.c = base + sizeA + sizeB;
            return {own};
          },
          {{sizeA + sizeB, 180, kExact}});
  // A right side is read as it lies.
  const std::unique_ptr<Runner> runner = runnerOf(emulatedBackend());
  CHECK(runner->packedFloats(6, 4, Precision::kFloat32) == 0);
  CHECK(runner->run(contextOf(2), nullptr, [](Queue& queue) { return queue.run(PackArgs{}); }).code ==
        Code::kInternal);
}

// c = a b^T of dense matrices, with a chain behind it that is still to be said.
ProductArgs chainedProduct(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  ProductArgs args;
  args.m = m;
  args.n = n;
  args.k = k;
  args.rowA = k;
  args.rowB = k;
  args.transposeB = true;
  args.rowC = n;
  args.a = a;
  args.b = b;
  args.c = c;
  args.chained = true;
  return args;
}

// A product and what follows it: bias, gelu that keeps what went in, and a residual.
void chained() {
  for (const int64_t n : {12, 70, 7}) {
    const int64_t m = 66, k = 20;
    const int64_t a = 0, b = a + m * k, bias = b + n * k, residual = bias + n, before = residual + m * n,
                  after = before + m * n, total = after + m * n;
    const std::vector<float> arena = noises(total, 5);
    for (const bool rare : {false, true}) {
      const Make make = [&](float* base) -> std::vector<Operation> {
        ProductArgs args = chainedProduct(m, n, k, base + a, base + b, base + before);
        Chain& chain = args.chain;
        chain.axes = 3;
        chain.dims[0] = 6;
        chain.dims[1] = 11;
        chain.dims[2] = n;
        chain.inputs = 3;
        chain.input[0].data = args.c;
        chain.input[1].data = base + bias;
        chain.input[2].data = base + residual;
        for (const int i : {0, 2}) {
          chain.input[i].strides[0] = 11 * n;
          chain.input[i].strides[1] = n;
          chain.input[i].strides[2] = 1;
        }
        chain.input[1].strides[2] = 1;
        chain.steps = 3;
        chain.step[0] = {Step::kAdd, 0, 1, kNumber, 0, 0};
        chain.step[1] = {rare ? Step::kSoftplus : Step::kGelu, kMostChainInputs, kNumber, kNumber, 0, 0};
        chain.step[2] = {Step::kAdd, kMostChainInputs + 1, 2, kNumber, 0, 0};
        chain.outputs = 2;
        chain.output[0] = {ElementType::kFloat32, kMostChainInputs, base + before};
        chain.output[1] = {ElementType::kFloat32, kMostChainInputs + 2, base + after};
        return {args};
      };
      const std::vector<Output> outputs = {{before, m * n, kExact}, {after, m * n, kExact}};
      compare("chained product", arena, make, outputs);
      compare("chained product of bfloat16", arena, make,
              {{before, m * n, kRounded}, {after, m * n, kRounded}}, false);
    }
  }
}

// A chain whose slots leave no room for the large tile in the 99 KB of 8.6 runs behind the product there.
void crowded() {
  const int64_t m = 330, n = 130, k = 20;
  const int64_t a = 0, b = a + m * k, other = b + n * k, out = other + m * n;
  const std::vector<float> arena = noises(out + 4 * m * n, 8);
  const Make make = [&](float* base) -> std::vector<Operation> {
    ProductArgs args = chainedProduct(m, n, k, base + a, base + b, base + out);
    Chain& chain = args.chain;
    chain.axes = 2;
    chain.dims[0] = m;
    chain.dims[1] = n;
    chain.inputs = 2;
    chain.input[0].data = args.c;
    chain.input[1].data = base + other;
    for (int i = 0; i < 2; ++i) {
      chain.input[i].strides[0] = n;
      chain.input[i].strides[1] = 1;
    }
    chain.steps = 4;
    chain.step[0] = {Step::kAdd, 0, 1, kNumber, 0, 0};
    for (uint8_t s = 1; s < 4; ++s)
      chain.step[s] = {Step::kMultiply, static_cast<uint8_t>(kMostChainInputs + s - 1), 1, kNumber, 0, 0};
    chain.outputs = 4;
    for (uint8_t o = 0; o < 4; ++o)
      chain.output[o] = {ElementType::kFloat32, static_cast<uint8_t>(kMostChainInputs + o),
                         base + out + o * m * n};
    return {args};
  };
  const std::vector<float> expected = onBackend(cpuBackend(), arena, make, Precision::kFloat32);
  for (const int device : {0, 1}) {
    const std::vector<float> actual = onBackend(emulatedBackend(device), arena, make, Precision::kBfloat16);
    for (int64_t o = 0; o < 4; ++o)
      CHECK(relativeError(&actual[out + o * m * n], &expected[out + o * m * n], m * n) < kRounded);
  }
}

// --- Chains

void steps() {
  constexpr int64_t kCount = 1003;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<float> arena = noises(4 * kCount, 6);
    const auto kind = static_cast<Step>(step);
    for (int64_t i = 0; i < kCount; ++i) {
      float& a = arena[static_cast<size_t>(i)];
      if (kind == Step::kLogarithm || kind == Step::kSquareRoot || kind == Step::kPower)
        a = std::abs(a) + 0.01f;
      if (kind == Step::kSine || kind == Step::kCosine) a *= 100;
      if (kind >= Step::kEqual && kind <= Step::kGreaterOrEqual && i % 3 == 0)
        a = arena[static_cast<size_t>(kCount + i)];
      if ((kind == Step::kSelect || kind == Step::kAnd || kind == Step::kOr || kind == Step::kNot) &&
          i % 2 == 0)
        a = 0;
    }
    compare("step " + std::to_string(step), arena,
            [&](float* base) -> std::vector<Operation> {
              ChainArgs args;
              Chain& chain = args.chain;
              chain.dims[0] = kCount;
              chain.inputs = 3;
              for (int i = 0; i < 3; ++i) {
                chain.input[i].data = base + i * kCount;
                chain.input[i].strides[0] = 1;
              }
              chain.steps = 1;
              chain.step[0] = {kind, 0, 1, 2, 0.75f, 0.25f};
              chain.outputs = 1;
              chain.output[0] = {ElementType::kFloat32, kMostChainInputs, base + 3 * kCount};
              return {args};
            },
            {{3 * kCount, kCount, 2e-6}});
  }
}

// Four axes, operands that broadcast, other types, results in place, and more slots than a wide block has room for.
void chains() {
  for (const int64_t columns : {4, 5, 64}) {
    const int64_t rows = 2 * 3 * 5, count = rows * columns;
    std::vector<float> arena = noises(5 * count + 2 * columns, 7);
    std::vector<int64_t> whole(static_cast<size_t>(columns));
    for (size_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<int64_t>(i) - 2;
    setInt64(arena, 4 * count, whole);
    compare("chain of four axes", arena,
            [&](float* base) -> std::vector<Operation> {
              ChainArgs args;
              Chain& chain = args.chain;
              chain.axes = 4;
              const int64_t dims[4] = {2, 3, 5, columns};
              std::copy(dims, dims + 4, chain.dims);
              chain.inputs = 4;
              chain.input[0].data = base;  // dense
              chain.input[0].strides[0] = 15 * columns;
              chain.input[0].strides[1] = 5 * columns;
              chain.input[0].strides[2] = columns;
              chain.input[0].strides[3] = 1;
              chain.input[1].data = base + count;  // turned
              chain.input[1].strides[0] = 1;
              chain.input[1].strides[1] = 2;
              chain.input[1].strides[2] = 6 * columns;
              chain.input[1].strides[3] = 6;
              chain.input[2].type = ElementType::kInt64;
              chain.input[2].data = base + 4 * count;
              chain.input[2].strides[3] = 1;
              chain.input[3].data = base + 2 * count;  // one a row of the third axis
              chain.input[3].strides[2] = 1;
              int at = 0;
              for (; at < 30; ++at)
                chain.step[at] = {Step::kMultiplyAdd,
                                  static_cast<uint8_t>(at % 4),
                                  static_cast<uint8_t>((at + 1) % 4),
                                  static_cast<uint8_t>(at < 1 ? 2 : kMostChainInputs + at - 1),
                                  0,
                                  0};
              // All of them are read once more at the end.
              for (; at < 40; ++at)
                chain.step[at] = {Step::kSubtract,
                                  static_cast<uint8_t>(kMostChainInputs + at - 30),
                                  static_cast<uint8_t>(kMostChainInputs + at - 1),
                                  kNumber,
                                  0,
                                  0};
              chain.steps = at;
              chain.outputs = 3;
              chain.output[0] = {ElementType::kFloat32, kMostChainInputs + 39, base};
              chain.output[1] = {ElementType::kFloat32, kMostChainInputs + 10, base + 3 * count};
              chain.output[2] = {ElementType::kInt32, 2, base + 4 * count + 2 * columns};
              return {args};
            },
            {{0, count, 1e-5}, {3 * count, count, 1e-5}, {4 * count + 2 * columns, count, 0}});
  }
}

void integers() {
  constexpr int64_t kCount = 37;
  std::vector<float> arena(8 * kCount + 8);
  std::vector<int64_t> a(kCount), b(kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    a[static_cast<size_t>(i)] = i * i - 300;
    b[static_cast<size_t>(i)] = i % 7 - 3;
  }
  setInt64(arena, 0, a);
  setInt64(arena, 2 * kCount, b);
  for (const Step step :
       {Step::kAdd, Step::kDivide, Step::kModulo, Step::kLess, Step::kSelect, Step::kMaximum}) {
    compare("integers", arena,
            [&](float* base) -> std::vector<Operation> {
              ChainArgs args;
              Chain& chain = args.chain;
              chain.integers = true;
              chain.dims[0] = kCount;
              chain.inputs = 2;
              for (int i = 0; i < 2; ++i) {
                chain.input[i].type = ElementType::kInt64;
                chain.input[i].data = base + i * 2 * kCount;
                chain.input[i].strides[0] = 1;
              }
              chain.steps = 2;
              chain.step[0] = {step, 0, 1, 0, 0, 0};
              chain.step[1] = {Step::kAdd, kMostChainInputs, kNumber, kNumber, 5, 0};
              chain.outputs = 2;
              chain.output[0] = {ElementType::kInt64, kMostChainInputs + 1, base + 4 * kCount};
              chain.output[1] = {ElementType::kBool, kMostChainInputs, base + 6 * kCount};
              return {args};
            },
            {{4 * kCount, 2 * kCount, 0}, {6 * kCount, (kCount + 3) / 4, 0}});
  }
}

// --- Rows

void norms() {
  for (const auto& [rows, size] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {9, 33}, {200, 40}}) {
    const int64_t all = rows * size;
    // x, dy, residual, y, dx: all; gamma, beta, dGamma, dBeta: size; mean, inverse: rows.
    const int64_t x = 0, dy = all, residual = 2 * all, y = 3 * all, dx = 4 * all, gamma = 5 * all,
                  beta = gamma + size, dGamma = beta + size, dBeta = dGamma + size, mean = dBeta + size,
                  inverse = mean + rows, total = inverse + rows;
    const std::vector<float> arena = noises(total, 8);
    compare("layer norm", arena,
            [&](float* base) -> std::vector<Operation> {
              LayerNormArgs args;
              args.rows = rows;
              args.size = size;
              args.x = base + x;
              args.gamma = base + gamma;
              args.beta = size == 33 ? nullptr : base + beta;
              args.y = base + y;
              args.mean = base + mean;
              args.inverse = base + inverse;
              LayerNormGradientArgs back;
              back.rows = rows;
              back.size = size;
              back.dy = base + dy;
              back.x = base + x;
              back.gamma = base + gamma;
              back.mean = base + mean;
              back.inverse = base + inverse;
              back.residual = size == 33 ? nullptr : base + residual;
              back.dx = base + dx;
              back.dGamma = base + dGamma;
              back.dBeta = base + dBeta;
              return {args, back};
            },
            {{y, all, 1e-5},
             {dx, all, 1e-5},
             {dGamma, size, 1e-5},
             {dBeta, size, 1e-5},
             {mean, rows, 1e-5},
             {inverse, rows, 1e-5}});
  }
}

void softmaxes() {
  for (const auto& [outer, size, inner] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 1, 1}, {9, 77, 1}, {3, 33, 1}, {2, 5, 7}}) {
    const int64_t all = outer * size * inner;
    const std::vector<float> arena = noises(4 * all, 9);
    for (const bool logarithm : {false, true}) {
      compare("softmax", arena,
              [&](float* base) -> std::vector<Operation> {
                SoftmaxRowsArgs args;
                args.outer = outer;
                args.size = size;
                args.inner = inner;
                args.logarithm = logarithm;
                args.x = base;
                args.y = base + all;
                SoftmaxRowsGradientArgs back;
                back.outer = outer;
                back.size = size;
                back.inner = inner;
                back.logarithm = logarithm;
                back.dy = base + 2 * all;
                back.y = base + all;
                back.dx = base + 3 * all;
                return {args, back};
              },
              {{all, all, 1e-5}, {3 * all, all, 1e-5}});
    }
  }
}

void reductions() {
  for (const auto& [outer, size, inner] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 1, 1}, {4, 300, 1}, {3, 5, 70}, {1, 700, 33}, {1, 130, 1000}}) {
    const int64_t all = outer * size * inner, kept = outer * inner;
    const std::vector<float> arena = noises(all + 3 * kept, 10);
    for (int kind = 0; kind <= 4; ++kind) {
      const auto reduction = static_cast<Reduction>(kind);
      compare("reduction " + std::to_string(kind), arena,
              [&](float* base) -> std::vector<Operation> {
                ReduceArgs args;
                args.outer = outer;
                args.size = size;
                args.inner = inner;
                args.reduction = reduction;
                args.scale = kind < 2 ? 0.25f : 1;
                args.accumulate = kind == 0;
                args.x = base;
                args.y = base + all;
                return {args};
              },
              {{all, kept, kind == 2 || kind == 3 ? 0 : 2e-6}});
    }
    if (all % 2 != 0 || kept % 2 != 0) continue;
    compare("place of the largest", arena,
            [&](float* base) -> std::vector<Operation> {
              ArgumentArgs args;
              args.outer = outer;
              args.size = size;
              args.inner = inner;
              args.least = inner > 1;
              args.x = base;
              args.y = reinterpret_cast<int64_t*>(base + all);
              return {args};
            },
            {{all, 2 * kept, 0}});
  }
}

// --- Moves

void copies() {
  struct Case {
    std::vector<int64_t> dims, from, to;
  };
  const Case cases[] = {
      {{7}, {1}, {1}},
      {{3, 40, 50}, {2000, 1, 40}, {2000, 50, 1}},  // turned in squares
      {{4, 3, 5}, {1, 20, 4}, {15, 5, 1}},          // turned, small
      {{2, 33, 9, 10}, {2970, 10, 330, 1}, {2970, 90, 10, 1}},
      {{6, 10}, {0, 1}, {10, 1}},  // repeated
      {{5, 4}, {8, 2}, {4, 1}},
  };
  for (const Case& one : cases) {
    int64_t reach = 1, target = 1;
    for (size_t i = 0; i < one.dims.size(); ++i) {
      reach += (one.dims[i] - 1) * one.from[i];
      target += (one.dims[i] - 1) * one.to[i];
    }
    for (const ElementType type : {ElementType::kFloat32, ElementType::kInt64, ElementType::kBool}) {
      const int64_t each = elementSize(type);
      const int64_t from = (reach * each + 15) / 16 * 4, to = (target * each + 3) / 4;
      const std::vector<float> arena = noises(from + to, 11);
      compare("copy", arena,
              [&](float* base) -> std::vector<Operation> {
                CopyArgs args;
                args.type = type;
                args.axes = static_cast<int>(one.dims.size());
                for (size_t i = 0; i < one.dims.size(); ++i) {
                  args.dims[i] = one.dims[i];
                  args.fromStrides[i] = one.from[i];
                  args.toStrides[i] = one.to[i];
                }
                args.from = base;
                args.to = base + from;
                return {args};
              },
              {{from, to, 0}});
    }
  }
  const std::vector<float> arena = noises(64, 12);
  for (const ElementType type : {ElementType::kFloat32, ElementType::kInt64, ElementType::kBool}) {
    compare("fill", arena,
            [&](float* base) -> std::vector<Operation> {
              FillArgs args;
              args.type = type;
              args.count = 20;
              args.value = 1;
              args.to = base + 8;
              return {args};
            },
            {{8, 20 * elementSize(type) / 4, 0}});
  }
}

void gathers() {
  struct Case {
    int64_t outer, size, inner, count;
    bool apart;
  };
  for (const Case& one :
       {Case{1, 7, 5, 9, false}, Case{3, 6, 8, 4, false}, Case{4, 6, 3, 2, true},
        Case{1, 40, 300, 150, false}, Case{1, 3, 4, 3000, false}, Case{1, 900, 2, 5000, false}}) {
    const int64_t entries = one.apart ? one.outer * one.count : one.count;
    const int64_t x = 0, y = one.outer * one.size * one.inner, rows = y + one.outer * one.count * one.inner;
    int64_t indices = rows + one.outer * one.count * one.inner;
    indices += indices % 2;
    const int64_t sum = indices + 2 * entries, total = sum + one.outer * one.size * one.inner;
    std::vector<float> arena = noises(total, 13);
    std::vector<int64_t> values(static_cast<size_t>(entries));
    for (size_t i = 0; i < values.size(); ++i) {
      // Some rows often, some never.
      const auto drawn = static_cast<int64_t>(philox64(5, 1, i) % static_cast<uint64_t>(one.size));
      values[i] = i % 3 == 0 ? 1 : i % 5 == 0 ? drawn - one.size : drawn;
    }
    setInt64(arena, indices, values);
    for (const bool accumulate : {false, true}) {
      compare("gather and scatter", arena,
              [&](float* base) -> std::vector<Operation> {
                GatherRowsArgs gather;
                gather.outer = one.outer;
                gather.size = one.size;
                gather.inner = one.inner;
                gather.count = one.count;
                gather.apart = one.apart;
                gather.x = base + x;
                gather.indices = base + indices;
                gather.y = base + y;
                ScatterRowsArgs scatter;
                scatter.outer = one.outer;
                scatter.size = one.size;
                scatter.inner = one.inner;
                scatter.count = one.count;
                scatter.apart = one.apart;
                scatter.accumulate = accumulate;
                scatter.rows = base + rows;
                scatter.indices = base + indices;
                scatter.y = base + sum;
                return {gather, scatter};
              },
              {{y, one.outer * one.count * one.inner, 0}, {sum, one.outer * one.size * one.inner, 2e-6}});
    }
  }
}

}  // namespace

int main() {
  emulator::options().devices = {emulator::deviceOf(80), emulator::deviceOf(86)};
  // Also as tensor cores sum up that cut off what does not fit.
  for (const Rounding rounding : {Rounding::kTruncated, Rounding::kExact}) {
    emulator::options().rounding = rounding;
    products();
  }
  batches();
  chained();
  crowded();
  steps();
  chains();
  integers();
  norms();
  softmaxes();
  reductions();
  copies();
  gathers();
  return report("operations on the emulated device");
}
