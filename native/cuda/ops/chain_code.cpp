#include "cuda/ops/chain_code.h"

#include <algorithm>
#include <cstdint>

namespace clipcid::cuda {
namespace {

constexpr int kNever = -1;

int operandsOf(Step step) {
  if (step < Step::kAdd) return 1;
  return step < Step::kSelect ? 2 : 3;
}

ChainSource sourceOf(const Chain& chain, const ChainInput& input) {
  ChainSource source = {};
  source.data = input.data;
  source.type = input.type;
  const int last = chain.axes - 1;
  std::copy(input.strides, input.strides + kMostChainAxes, source.strides);
  // Rows that lie evenly: each axis' stride is that of the next, times its size.
  bool none = true, even = true, aligned = true;
  for (int axis = 0; axis < last; ++axis) {
    if (chain.dims[axis] == 1) continue;
    none = none && input.strides[axis] == 0;
    aligned = aligned && input.strides[axis] % kChainLanes == 0;
  }
  int64_t pitch = kNever, rows = 1;
  for (int axis = last - 1; axis >= 0; --axis) {
    if (chain.dims[axis] == 1) continue;
    if (pitch == kNever) {
      pitch = input.strides[axis];
    } else {
      even = even && input.strides[axis] == pitch * rows;
    }
    rows *= chain.dims[axis];
  }
  source.reach = none ? RowReach::kNone : even ? RowReach::kPitch : RowReach::kAxes;
  source.pitch = none ? 0 : pitch;
  source.vector = input.type == ElementType::kFloat32 && input.strides[last] == 1 && aligned &&
                  chain.dims[last] % kChainLanes == 0 && reinterpret_cast<uintptr_t>(input.data) % 16 == 0;
  return source;
}

// Axes that every operand strides over evenly are one, the columns' with `columns` only.
Chain merged(const Chain& chain, bool columns) {
  Chain result = chain;
  for (int axis = result.axes - (columns ? 2 : 3); axis >= 0; --axis) {
    bool even = true;
    for (int i = 0; i < result.inputs; ++i) {
      const int64_t* strides = result.input[i].strides;
      even = even && (result.dims[axis] == 1 || strides[axis] == strides[axis + 1] * result.dims[axis + 1]);
    }
    if (!even) continue;
    result.dims[axis] *= result.dims[axis + 1];
    for (int i = 0; i < result.inputs; ++i) result.input[i].strides[axis] = result.input[i].strides[axis + 1];
    for (int later = axis + 1; later + 1 < result.axes; ++later) {
      result.dims[later] = result.dims[later + 1];
      for (int i = 0; i < result.inputs; ++i)
        result.input[i].strides[later] = result.input[i].strides[later + 1];
    }
    --result.axes;
  }
  return result;
}

}  // namespace

ChainProgram chainProgram(const Chain& given, bool keepsColumns) {
  const Chain chain = merged(given, !keepsColumns);
  ChainProgram program = {};
  program.axes = chain.axes;
  program.inputs = chain.inputs;
  program.outputs = chain.outputs;
  program.rows = chain.rows();
  program.columns = chain.columns();
  std::copy(chain.dims, chain.dims + kMostChainAxes, program.dims);
  for (int i = 0; i < chain.inputs; ++i) program.input[i] = sourceOf(chain, chain.input[i]);

  // By operand (ops.h): when it is read last, and its slot from its first use on.
  constexpr int kOperands = kMostChainInputs + kMostChainSteps;
  int last[kOperands], slot[kOperands];
  std::fill_n(last, kOperands, kNever);
  std::fill_n(slot, kOperands, kNever);
  const auto read = [&](uint8_t operand, int when) {
    if (operand != kNumber) last[operand] = std::max(last[operand], when);
  };
  for (int s = 0; s < chain.steps; ++s) {
    const ChainStep& step = chain.step[s];
    const int count = operandsOf(step.step);
    read(step.a, s);
    if (count > 1) read(step.b, s);
    if (count > 2) read(step.c, s);
  }
  for (int o = 0; o < chain.outputs; ++o) read(chain.output[o].from, chain.steps);

  bool taken[kOperands + 1] = {};
  const auto takeSlot = [&] {
    int free = 0;
    while (taken[free]) ++free;
    taken[free] = true;
    program.slots = std::max(program.slots, free + 1);
    return free;
  };
  const auto bring = [&](uint8_t operand) -> uint8_t {
    if (operand == kNumber) return kChainNumber;
    if (slot[operand] == kNever) {  // an input: steps have theirs from when they were made
      slot[operand] = takeSlot();
      program.code[program.steps++] = {kLoadStep, operand, 0, 0, static_cast<uint8_t>(slot[operand]), 0, 0};
    }
    return static_cast<uint8_t>(slot[operand]);
  };
  for (int s = 0; s < chain.steps; ++s) {
    const ChainStep& step = chain.step[s];
    const int count = operandsOf(step.step);
    ChainCode code = {};
    code.step = static_cast<uint8_t>(step.step);
    code.a = bring(step.a);
    code.b = count > 1 ? bring(step.b) : kChainNumber;
    code.c = count > 2 ? bring(step.c) : kChainNumber;
    code.p = step.p;
    code.q = step.q;
    // A thread reads its operands before it writes: a slot read last here may take the result.
    for (int operand = 0; operand < kOperands; ++operand) {
      if (slot[operand] != kNever && last[operand] == s) taken[slot[operand]] = false;
    }
    const int made = kMostChainInputs + s;
    slot[made] = takeSlot();
    if (last[made] == kNever) taken[slot[made]] = false;  // nobody reads it
    code.to = static_cast<uint8_t>(slot[made]);
    program.code[program.steps++] = code;
  }
  for (int o = 0; o < chain.outputs; ++o) {
    const ChainOutput& output = chain.output[o];
    ChainTarget& target = program.output[o];
    target.data = output.data;
    target.type = output.type;
    target.from = bring(output.from);
    target.vector = output.type == ElementType::kFloat32 && program.columns % kChainLanes == 0 &&
                    reinterpret_cast<uintptr_t>(output.data) % 16 == 0;
  }
  return program;
}

bool fitsProduct(const ChainProgram& program) {
  constexpr int kMostSlots = 6;
  if (program.slots > kMostSlots) return false;
  for (int s = 0; s < program.steps; ++s) {
    const auto step = static_cast<Step>(program.code[s].step);
    if (program.code[s].step == kLoadStep) continue;
    switch (step) {
      case Step::kCopy:
      case Step::kSigmoid:
      case Step::kTanh:
      case Step::kRelu:
      case Step::kHardSwish:
      case Step::kGelu:
      case Step::kQuickGelu:
      case Step::kAdd:
      case Step::kSubtract:
      case Step::kMultiply:
      case Step::kGeluGradient:
      case Step::kQuickGeluGradient:
      case Step::kHardSwishGradient:
      case Step::kMultiplyAdd:
      case Step::kGreater:
      case Step::kSelect:
        break;
      default:
        return false;
    }
  }
  return true;
}

}  // namespace clipcid::cuda
