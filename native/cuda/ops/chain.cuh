// Runs a chain over four elements of a thread. See chain_code.h.
#pragma once

#include "cuda/ops/chain_code.h"
#include "cuda/ops/math.cuh"

namespace clipcid::cuda {

// Where a thread's elements are: row and column of the first, and how many there are. With `whole` all are of one row.
struct ChainAt {
  int64_t row, column;
  int count;
  bool whole;
};

CLIPCID_DEVICE float floatAt(ElementType type, const void* data, int64_t at) {
  switch (type) {
    case ElementType::kFloat32:
      return static_cast<const float*>(data)[at];
    case ElementType::kInt64:
      return static_cast<float>(static_cast<const int64_t*>(data)[at]);
    case ElementType::kInt32:
      return static_cast<float>(static_cast<const int32_t*>(data)[at]);
    default:
      return static_cast<float>(static_cast<const uint8_t*>(data)[at]);
  }
}

// The quotient, by the short division where it is enough.
CLIPCID_DEVICE int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<int64_t>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
  return a / b;
}

CLIPCID_DEVICE int32_t quotient(int32_t a, int32_t b) { return a / b; }

CLIPCID_DEVICE int64_t rowOffset(const ChainProgram& program, const ChainSource& source, int64_t row) {
  if (source.reach == RowReach::kNone) return 0;
  if (source.reach == RowReach::kPitch) return row * source.pitch;
  int64_t offset = 0;
  for (int axis = program.axes - 2; axis >= 0; --axis) {
    const int64_t rest = quotient(row, program.dims[axis]);
    offset += (row - rest * program.dims[axis]) * source.strides[axis];
    row = rest;
  }
  return offset;
}

CLIPCID_DEVICE Floats4 loadSource(const ChainProgram& program, int input, const ChainAt& at) {
  const ChainSource& source = program.input[input];
  const int64_t stride = source.strides[program.axes - 1];
  if (at.whole) {
    const int64_t first = rowOffset(program, source, at.row) + at.column * stride;
    if (source.vector && at.count == kChainLanes)
      return *reinterpret_cast<const Floats4*>(static_cast<const float*>(source.data) + first);
    if (stride == 0) {
      const float value = floatAt(source.type, source.data, first);
      return {value, value, value, value};
    }
    Floats4 values = {0, 0, 0, 0};
    float* lanes = &values.x;
#pragma unroll
    for (int lane = 0; lane < kChainLanes; ++lane) {
      if (lane < at.count) lanes[lane] = floatAt(source.type, source.data, first + lane * stride);
    }
    return values;
  }
  Floats4 values = {0, 0, 0, 0};
  float* lanes = &values.x;
#pragma unroll
  for (int lane = 0; lane < kChainLanes; ++lane) {
    if (lane >= at.count) continue;
    const int64_t column = at.column + lane, over = quotient(column, program.columns);
    const int64_t first = rowOffset(program, source, at.row + over);
    lanes[lane] = floatAt(source.type, source.data, first + (column - over * program.columns) * stride);
  }
  return values;
}

CLIPCID_DEVICE void setTarget(const ChainTarget& target, int64_t at, float value) {
  switch (target.type) {
    case ElementType::kFloat32:
      static_cast<float*>(target.data)[at] = value;
      break;
    case ElementType::kInt64:
      static_cast<int64_t*>(target.data)[at] = static_cast<int64_t>(value);
      break;
    case ElementType::kInt32:
      static_cast<int32_t*>(target.data)[at] = static_cast<int32_t>(value);
      break;
    default:
      static_cast<uint8_t*>(target.data)[at] = value != 0 ? 1 : 0;
  }
}

CLIPCID_DEVICE void storeTarget(const ChainProgram& program, const ChainTarget& target, const ChainAt& at,
                                const Floats4& values) {
  const int64_t first = at.row * program.columns + at.column;
  if (target.vector && at.count == kChainLanes) {
    *reinterpret_cast<Floats4*>(static_cast<float*>(target.data) + first) = values;
    return;
  }
  const float* lanes = &values.x;
#pragma unroll
  for (int lane = 0; lane < kChainLanes; ++lane) {
    if (lane < at.count) setTarget(target, first + lane, lanes[lane]);
  }
}

template <typename Function>
CLIPCID_DEVICE Floats4 eachLane(const Floats4& a, Function function) {
  return {function(a.x), function(a.y), function(a.z), function(a.w)};
}
template <typename Function>
CLIPCID_DEVICE Floats4 eachLane(const Floats4& a, const Floats4& b, Function function) {
  return {function(a.x, b.x), function(a.y, b.y), function(a.z, b.z), function(a.w, b.w)};
}

// One step. `kAll`: also those that behind products nobody needs.
template <bool kAll>
CLIPCID_DEVICE Floats4 applyStep(const ChainCode& code, const Floats4& a, const Floats4& b,
                                 const Floats4& c) {
  const float p = code.p, q = code.q;
  const auto step = static_cast<Step>(code.step);
  if constexpr (kAll) {
    switch (step) {
      case Step::kNegate:
        return eachLane(a, [](float x) { return -x; });
      case Step::kAbsolute:
        return eachLane(a, [](float x) { return fabsf(x); });
      case Step::kSign:
        return eachLane(a, [](float x) { return x != x ? x : x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; });
      case Step::kSquareRoot:
        return eachLane(a, [](float x) { return sqrtf(x); });
      case Step::kReciprocal:
        return eachLane(a, [](float x) { return 1.0f / x; });
      case Step::kExponential:
        return eachLane(a, [](float x) { return expf(x); });
      case Step::kLogarithm:
        return eachLane(a, [](float x) { return logf(x); });
      case Step::kSine:
        return eachLane(a, [](float x) { return sineOf(x, 0); });
      case Step::kCosine:
        return eachLane(a, [](float x) { return sineOf(x, 1); });
      case Step::kFloor:
        return eachLane(a, [](float x) { return floorf(x); });
      case Step::kCeil:
        return eachLane(a, [](float x) { return ceilf(x); });
      case Step::kErf:
        return eachLane(a, [](float x) { return erff(x); });
      case Step::kSoftplus:
        return eachLane(a, [](float x) { return softplusOf(x); });
      case Step::kLeakyRelu:
        return eachLane(a, [p](float x) { return x < 0 ? x * p : x; });
      case Step::kElu:
        return eachLane(a, [p](float x) { return x < 0 ? p * expm1f(x) : x; });
      case Step::kHardSigmoid:
        return eachLane(a, [p, q](float x) { return x != x ? x : fmaxf(fminf(fmaf(x, p, q), 1.0f), 0.0f); });
      case Step::kNot:
        return eachLane(a, [](float x) { return x == 0 ? 1.0f : 0.0f; });
      case Step::kDivide:
        return eachLane(a, b, [](float x, float y) { return x / y; });
      case Step::kPower:
        return eachLane(a, b, [](float x, float y) { return powf(x, y); });
      case Step::kModulo:
        return eachLane(a, b, [](float x, float y) { return x - floorf(x / y) * y; });
      case Step::kMinimum:
        return eachLane(a, b, [](float x, float y) { return x != x ? x : y < x || y != y ? y : x; });
      case Step::kMaximum:
        return eachLane(a, b, [](float x, float y) { return x != x ? x : y > x || y != y ? y : x; });
      case Step::kEqual:
        return eachLane(a, b, [](float x, float y) { return x == y ? 1.0f : 0.0f; });
      case Step::kLess:
        return eachLane(a, b, [](float x, float y) { return x < y ? 1.0f : 0.0f; });
      case Step::kLessOrEqual:
        return eachLane(a, b, [](float x, float y) { return x <= y ? 1.0f : 0.0f; });
      case Step::kGreaterOrEqual:
        return eachLane(a, b, [](float x, float y) { return x >= y ? 1.0f : 0.0f; });
      case Step::kAnd:
        return eachLane(a, b, [](float x, float y) { return x != 0 && y != 0 ? 1.0f : 0.0f; });
      case Step::kOr:
        return eachLane(a, b, [](float x, float y) { return x != 0 || y != 0 ? 1.0f : 0.0f; });
      default:
        break;
    }
  }
  switch (step) {
    case Step::kTanh:
      return eachLane(a, [](float x) { return tanhf(x); });
    case Step::kSigmoid:
      return eachLane(a, [](float x) { return sigmoidOf(x); });
    case Step::kRelu:
      return eachLane(a, [](float x) { return x < 0 ? 0.0f : x; });
    case Step::kHardSwish:
      return eachLane(
          a, [](float x) { return x != x ? x : x * fmaxf(fminf(fmaf(x, 1.0f / 6, 0.5f), 1.0f), 0.0f); });
    case Step::kGelu:
      return eachLane(a, [](float x) { return x * normalDistribution(x); });
    case Step::kQuickGelu:
      return eachLane(a, [p](float x) { return x * sigmoidOf(x * p); });
    case Step::kAdd:
      return eachLane(a, b, [](float x, float y) { return x + y; });
    case Step::kSubtract:
      return eachLane(a, b, [](float x, float y) { return x - y; });
    case Step::kMultiply:
      return eachLane(a, b, [](float x, float y) { return x * y; });
    case Step::kGreater:
      return eachLane(a, b, [](float x, float y) { return x > y ? 1.0f : 0.0f; });
    case Step::kGeluGradient:
      return eachLane(
          a, b, [](float dy, float x) { return dy * fmaf(x, normalDensity(x), normalDistribution(x)); });
    case Step::kQuickGeluGradient:
      return eachLane(a, b, [p](float dy, float x) {
        const float scaled = x * p, s = sigmoidOf(scaled);
        return dy * (s * fmaf(scaled, 1.0f - s, 1.0f));
      });
    case Step::kHardSwishGradient:
      return eachLane(a, b, [](float dy, float x) {
        const float slope = x < 3.0f ? fmaf(x, 1.0f / 3, 0.5f) : 1.0f;
        return x > -3.0f ? dy * slope : 0.0f;
      });
    case Step::kSelect:
      return {a.x != 0 ? b.x : c.x, a.y != 0 ? b.y : c.y, a.z != 0 ? b.z : c.z, a.w != 0 ? b.w : c.w};
    case Step::kMultiplyAdd:
      return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w)};
    default:
      return a;
  }
}

// `slots`: program.slots runs of `threads` Floats4, of which a thread has its own. `load(input)` gives an input's elements.
template <bool kAll, typename Load>
CLIPCID_DEVICE void runChain(const ChainProgram& program, Floats4* slots, int threads, int thread,
                             const ChainAt& at, Load load) {
  for (int s = 0; s < program.steps; ++s) {
    const ChainCode& code = program.code[s];
    Floats4 result;
    if (code.step == kLoadStep) {
      result = load(code.a);
    } else {
      const auto operand = [&](uint8_t slot) -> Floats4 {
        if (slot == kChainNumber) return {code.p, code.p, code.p, code.p};
        return slots[slot * threads + thread];
      };
      result = applyStep<kAll>(code, operand(code.a), operand(code.b), operand(code.c));
    }
    slots[code.to * threads + thread] = result;
  }
  for (int o = 0; o < program.outputs; ++o) {
    const ChainTarget& target = program.output[o];
    storeTarget(program, target, at, slots[target.from * threads + thread]);
  }
}

}  // namespace clipcid::cuda
