// The numbers of each operation in their order, and how far each operand reaches. The writer's side is
// ts/src/program/native/encode.ts.
#include "core/program_reader.h"

namespace clipcid {
namespace {

// Elements that strides reach over dims: one beyond the last.
Extent reach(const int64_t* dims, const int64_t* strides, int axes) {
  Extent last = 0;
  for (int axis = 0; axis < axes; ++axis) last = last + Extent(dims[axis] - 1) * Extent(strides[axis]);
  return last + Extent(1);
}

void readChain(Reader& r, Chain& chain) {
  chain.integers = r.flag();
  chain.axes = static_cast<int>(r.integer(1, kMostChainAxes));
  Extent count = 1;
  for (int axis = 0; axis < chain.axes; ++axis) {
    chain.dims[axis] = r.size();
    count = count * Extent(chain.dims[axis]);
  }
  chain.inputs = static_cast<int>(r.integer(0, kMostChainInputs));
  for (int i = 0; i < chain.inputs; ++i) {
    ChainInput& input = chain.input[i];
    input.type = r.choice(ElementType::kBool);
    for (int axis = 0; axis < chain.axes; ++axis) input.strides[axis] = r.stride();
    r.untyped(input.data, reach(chain.dims, input.strides, chain.axes), input.type);
  }
  chain.steps = static_cast<int>(r.integer(0, kMostChainSteps));
  const auto operand = [&](int s) {
    const int64_t value = r.integer(0, kNumber);
    const bool input = value < chain.inputs;
    const bool step = value >= kMostChainInputs && value < kMostChainInputs + s;
    r.require(input || step || value == kNumber, "a step has no such operand");
    return static_cast<uint8_t>(value);
  };
  for (int s = 0; s < chain.steps; ++s) {
    ChainStep& step = chain.step[s];
    step.step = r.choice(static_cast<Step>(kSteps - 1));
    step.a = operand(s);
    step.b = operand(s);
    step.c = operand(s);
    step.p = r.number();
    step.q = r.number();
  }
  chain.outputs = static_cast<int>(r.integer(1, kMostChainOutputs));
  for (int o = 0; o < chain.outputs; ++o) {
    ChainOutput& output = chain.output[o];
    output.type = r.choice(ElementType::kBool);
    output.from = operand(chain.steps);
    r.require(output.from != kNumber, "an output is no operand");
    r.untyped(output.data, count, output.type);
  }
}

Extent matrix(int64_t rows, int64_t columns, int64_t row) {
  return Extent(rows - 1) * Extent(row) + Extent(columns);
}

}  // namespace

void read(Reader& r, ChainArgs& args) { readChain(r, args.chain); }

void read(Reader& r, ProductArgs& args) {
  Extent reachA = 0, reachB = 0, reachC = 0;
  for (int level = 0; level < 2; ++level) {
    args.batches[level] = r.integer(1, 1 << 22);
    args.batchA[level] = r.stride();
    args.batchB[level] = r.stride();
    args.batchC[level] = r.stride();
    const Extent last = args.batches[level] - 1;
    reachA = reachA + last * Extent(args.batchA[level]);
    reachB = reachB + last * Extent(args.batchB[level]);
    reachC = reachC + last * Extent(args.batchC[level]);
  }
  args.m = r.size();
  args.n = r.size();
  args.k = r.size();
  args.rowA = r.stride();
  args.rowB = r.stride();
  args.rowC = r.stride();
  args.transposeA = r.flag();
  args.transposeB = r.flag();
  args.packedB = r.flag();
  args.accumulate = r.flag();
  args.precision = r.choice(Precision::kBfloat16);
  args.alpha = r.number();
  const bool one = args.batches[0] == 1 && args.batches[1] == 1;
  r.require(Extent(args.batches[0] * args.batches[1]).value() < 1 << 24, "there are too many matrices");
  r.require(args.rowC >= args.n, "rows overlap");
  r.operand(args.a, reachA + (args.transposeA ? matrix(args.k, args.m, args.rowA)
                                              : matrix(args.m, args.k, args.rowA)));
  if (args.packedB) {
    r.require(one, "a packed product has batches");
    const int64_t floats = r.size();
    args.packedFloats = floats;
    r.operand(args.b, Extent(floats));
  } else {
    r.operand(args.b, reachB + (args.transposeB ? matrix(args.n, args.k, args.rowB)
                                                : matrix(args.k, args.n, args.rowB)));
  }
  r.operand(args.c, reachC + matrix(args.m, args.n, args.rowC));
  args.chained = r.flag();
  if (!args.chained) return;
  r.require(one && !args.accumulate && args.rowC == args.n, "a product with a chain is not dense");
  readChain(r, args.chain);
  Extent rows = 1;
  for (int axis = 0; axis + 1 < args.chain.axes; ++axis) rows = rows * Extent(args.chain.dims[axis]);
  r.require(args.chain.columns() == args.n && rows.value() == args.m && !args.chain.integers,
            "the chain is not of the product's shape");
}

void read(Reader& r, PackArgs& args) {
  args.n = r.size();
  args.k = r.size();
  args.row = r.stride();
  args.transpose = r.flag();
  args.precision = r.choice(Precision::kBfloat16);
  args.packedFloats = r.size();
  r.operand(args.b, args.transpose ? matrix(args.n, args.k, args.row) : matrix(args.k, args.n, args.row));
  r.operand(args.packed, Extent(args.packedFloats));
}

void read(Reader& r, LayerNormArgs& args) {
  args.rows = r.size();
  args.size = r.size();
  args.epsilon = r.number();
  const Extent all = Extent(args.rows) * Extent(args.size);
  r.operand(args.x, all);
  r.operand(args.gamma, args.size);
  r.operand(args.beta, args.size, true);
  r.operand(args.y, all);
  r.operand(args.mean, args.rows, true);
  r.operand(args.inverse, args.rows, true);
}

void read(Reader& r, LayerNormGradientArgs& args) {
  args.rows = r.size();
  args.size = r.size();
  const Extent all = Extent(args.rows) * Extent(args.size);
  r.operand(args.dy, all);
  r.operand(args.x, all);
  r.operand(args.gamma, args.size);
  r.operand(args.mean, args.rows);
  r.operand(args.inverse, args.rows);
  r.operand(args.residual, all, true);
  r.operand(args.dx, all, true);
  r.operand(args.dGamma, args.size, true);
  r.operand(args.dBeta, args.size, true);
}

namespace {

struct AttentionReach {
  Extent q, k, v, mask, y, lse;
};

AttentionReach readAttention(Reader& r, AttentionShape& shape) {
  shape.batch = r.integer(1, 1 << 22);
  shape.queries = r.integer(1, 1 << 20);
  shape.keys = r.integer(1, 1 << 20);
  shape.heads = r.integer(1, 1 << 12);
  shape.depth = r.integer(1, 1 << 12);
  shape.rowQ = r.stride();
  shape.rowK = r.stride();
  shape.rowV = r.stride();
  shape.scale = r.number();
  shape.causal = r.flag();
  shape.precision = r.choice(Precision::kBfloat16);
  for (int64_t& stride : shape.maskStrides) stride = r.stride();
  r.require(!shape.causal || shape.queries == shape.keys, "a causal mask is not square");
  r.require(shape.batch * shape.heads < 1 << 24, "there are too many heads");
  const Extent width = Extent(shape.heads) * Extent(shape.depth);
  const auto rows = [&](int64_t tokens, int64_t row) {
    return (Extent(shape.batch) * Extent(tokens) + Extent(-1)) * Extent(row) + width;
  };
  const Extent all = Extent(shape.batch) * Extent(shape.queries);
  return {rows(shape.queries, shape.rowQ),
          rows(shape.keys, shape.rowK),
          rows(shape.keys, shape.rowV),
          Extent(shape.batch - 1) * Extent(shape.maskStrides[0]) +
              Extent(shape.heads - 1) * Extent(shape.maskStrides[1]) +
              Extent(shape.queries - 1) * Extent(shape.maskStrides[2]) + Extent(shape.keys),
          all * width,
          all * Extent(shape.heads)};
}

}  // namespace

void read(Reader& r, AttentionArgs& args) {
  const AttentionReach reach = readAttention(r, args.shape);
  r.operand(args.q, reach.q);
  r.operand(args.k, reach.k);
  r.operand(args.v, reach.v);
  r.operand(args.mask, reach.mask, true);
  r.operand(args.y, reach.y);
  r.operand(args.lse, reach.lse, true);
}

void read(Reader& r, AttentionGradientArgs& args) {
  const AttentionReach reach = readAttention(r, args.shape);
  r.operand(args.dy, reach.y);
  r.operand(args.q, reach.q);
  r.operand(args.k, reach.k);
  r.operand(args.v, reach.v);
  r.operand(args.mask, reach.mask, true);
  r.operand(args.y, reach.y);
  r.operand(args.lse, reach.lse);
  r.operand(args.dq, reach.q);
  r.operand(args.dk, reach.k);
  r.operand(args.dv, reach.v);
}

void read(Reader& r, SoftmaxRowsArgs& args) {
  args.outer = r.size();
  args.size = r.size();
  args.inner = r.size();
  args.logarithm = r.flag();
  const Extent all = Extent(args.outer) * Extent(args.size) * Extent(args.inner);
  r.operand(args.x, all);
  r.operand(args.y, all);
}

void read(Reader& r, SoftmaxRowsGradientArgs& args) {
  args.outer = r.size();
  args.size = r.size();
  args.inner = r.size();
  args.logarithm = r.flag();
  const Extent all = Extent(args.outer) * Extent(args.size) * Extent(args.inner);
  r.operand(args.dy, all);
  r.operand(args.y, all);
  r.operand(args.dx, all);
}

void read(Reader& r, ReduceArgs& args) {
  args.outer = r.size();
  args.size = r.size();
  args.inner = r.size();
  args.reduction = r.choice(Reduction::kLogSumExp);
  args.scale = r.number();
  args.accumulate = r.flag();
  const Extent kept = Extent(args.outer) * Extent(args.inner);
  r.operand(args.x, kept * Extent(args.size));
  r.operand(args.y, kept);
}

void read(Reader& r, ArgumentArgs& args) {
  args.outer = r.size();
  args.size = r.size();
  args.inner = r.size();
  args.type = r.choice(ElementType::kBool);
  args.least = r.flag();
  args.last = r.flag();
  const Extent kept = Extent(args.outer) * Extent(args.inner);
  r.untyped(args.x, kept * Extent(args.size), args.type);
  r.operand(args.y, kept);
}

void read(Reader& r, CopyArgs& args) {
  args.type = r.choice(ElementType::kBool);
  args.axes = static_cast<int>(r.integer(1, kMostAxes));
  for (int axis = 0; axis < args.axes; ++axis) {
    args.dims[axis] = r.size();
    args.fromStrides[axis] = r.stride();
    args.toStrides[axis] = r.stride();
  }
  r.untyped(args.from, reach(args.dims, args.fromStrides, args.axes), args.type);
  r.untyped(args.to, reach(args.dims, args.toStrides, args.axes), args.type);
}

void read(Reader& r, FillArgs& args) {
  args.type = r.choice(ElementType::kBool);
  args.count = r.size();
  args.value = r.real();
  r.untyped(args.to, args.count, args.type);
}

void read(Reader& r, GatherRowsArgs& args) {
  args.outer = r.size();
  args.size = r.size();
  args.inner = r.size();
  args.count = r.size();
  args.indexType = r.choice(ElementType::kInt32);
  args.apart = r.flag();
  const auto type = r.choice(ElementType::kBool);
  args.bytes = elementSize(type);
  r.require(args.indexType != ElementType::kFloat32, "indices are not whole numbers");
  const Extent outer = args.outer, inner = args.inner, count = args.count;
  r.untyped(args.x, outer * Extent(args.size) * inner, type);
  r.untyped(args.indices, args.apart ? outer * count : count, args.indexType);
  r.untyped(args.y, outer * count * inner, type);
}

void read(Reader& r, ScatterRowsArgs& args) {
  args.outer = r.size();
  args.size = r.size();
  args.inner = r.size();
  args.count = r.size();
  args.indexType = r.choice(ElementType::kInt32);
  args.apart = r.flag();
  args.accumulate = r.flag();
  r.require(args.indexType != ElementType::kFloat32, "indices are not whole numbers");
  const Extent outer = args.outer, inner = args.inner, count = args.count;
  r.operand(args.rows, outer * count * inner);
  r.untyped(args.indices, args.apart ? outer * count : count, args.indexType);
  r.operand(args.y, outer * Extent(args.size) * inner);
}

}  // namespace clipcid
