#include "cpu/ops/chain.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/integer_step.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

bool isStep(uint8_t operand) { return operand >= kMostChainInputs && operand != kNumber; }

int operandsOf(Step step) {
  if (step < Step::kAdd) return 1;
  return step < Step::kSelect ? 2 : 3;
}

template <typename T>
T at(const ChainInput& input, int64_t index) {
  switch (input.type) {
    case ElementType::kFloat32:
      return static_cast<T>(static_cast<const float*>(input.data)[index]);
    case ElementType::kInt64:
      return static_cast<T>(static_cast<const int64_t*>(input.data)[index]);
    case ElementType::kInt32:
      return static_cast<T>(static_cast<const int32_t*>(input.data)[index]);
    default:
      return static_cast<T>(static_cast<const uint8_t*>(input.data)[index]);
  }
}

template <typename T>
void set(const ChainOutput& output, int64_t index, T value) {
  switch (output.type) {
    case ElementType::kFloat32:
      static_cast<float*>(output.data)[index] = static_cast<float>(value);
      break;
    case ElementType::kInt64:
      static_cast<int64_t*>(output.data)[index] = static_cast<int64_t>(value);
      break;
    case ElementType::kInt32:
      static_cast<int32_t*>(output.data)[index] = static_cast<int32_t>(value);
      break;
    default:
      static_cast<uint8_t*>(output.data)[index] = value != 0 ? 1 : 0;
  }
}

}  // namespace

ChainRunner::ChainRunner(const Chain& chain) : chain_(chain), simd_(simd()) {
  if (chain.integers) return;
  findPair();
  // After its last use a step's slot is free again.
  int lastUse[kMostChainSteps];
  for (int s = 0; s < chain.steps; ++s) lastUse[s] = s;
  int inputUse[kMostChainInputs] = {};
  const auto use = [&](uint8_t operand, int s) {
    if (s == value_ || s == gradient_) s = std::max(value_, gradient_);
    if (isStep(operand)) {
      lastUse[operand - kMostChainInputs] = std::max(lastUse[operand - kMostChainInputs], s);
    } else if (operand != kNumber) {
      inputUse[operand] = std::max(inputUse[operand], s);
    }
  };
  for (int s = 0; s < chain.steps; ++s) {
    const ChainStep& step = chain.step[s];
    const int count = operandsOf(step.step);
    use(step.a, s);
    if (count > 1) use(step.b, s);
    if (count > 2) use(step.c, s);
  }
  for (int o = 0; o < chain.outputs; ++o) use(chain.output[o].from, chain.steps);
  for (int i = 0; i < chain.inputs; ++i) {
    const ChainInput& input = chain.input[i];
    const int64_t stride = input.strides[chain.axes - 1];
    if (input.type != ElementType::kFloat32 || (stride != 0 && stride != 1)) input_[i].slot = slots_++;
  }
  bool taken[kMostChainSteps + kMostChainInputs] = {};
  const int first = slots_;
  for (int s = 0; s < chain.steps; ++s) {
    for (int before = 0; before < s; ++before) {
      if (lastUse[before] < s && step_[before].slot != kNone) taken[step_[before].slot] = false;
    }
    // A result goes where it is wanted, unless a later step or output reads what lies there.
    for (int o = 0; o < chain.outputs && step_[s].output == kNone; ++o) {
      const ChainOutput& output = chain.output[o];
      if (output.from != kMostChainInputs + s || output.type != ElementType::kFloat32) continue;
      bool free = true;
      for (int i = 0; i < chain.inputs; ++i) {
        if (chain.input[i].data == output.data && inputUse[i] > s) free = false;
      }
      if (free) step_[s].output = o;
    }
    if (step_[s].output != kNone) continue;
    int slot = first;
    while (taken[slot]) ++slot;
    taken[slot] = true;
    step_[s].slot = slot;
    slots_ = std::max(slots_, slot + 1);
  }
}

void ChainRunner::findPair() {
  const auto reads = [&](int s, int result) {
    const ChainStep& step = chain_.step[s];
    const int count = operandsOf(step.step);
    const auto is = [&](uint8_t operand) { return operand == kMostChainInputs + result; };
    return is(step.a) || (count > 1 && is(step.b)) || (count > 2 && is(step.c));
  };
  for (int v = 0; v < chain_.steps; ++v) {
    const ChainStep& value = chain_.step[v];
    if (value.step != Step::kGelu && value.step != Step::kQuickGelu) continue;
    const Step wanted = value.step == Step::kGelu ? Step::kGeluGradient : Step::kQuickGeluGradient;
    for (int g = 0; g < chain_.steps; ++g) {
      const ChainStep& gradient = chain_.step[g];
      if (gradient.step != wanted || gradient.b != value.a || value.a == kNumber) continue;
      if (value.step == Step::kQuickGelu && gradient.p != value.p) continue;
      bool apart = true;
      for (int s = std::min(v, g) + 1; s <= std::max(v, g); ++s) apart = apart && !reads(s, std::min(v, g));
      if (!apart) continue;
      value_ = v, gradient_ = g;
      return;
    }
  }
}

void ChainRunner::row(int64_t row, int64_t from, int64_t to, float* memory) const {
  int64_t offsets[kMostChainInputs] = {};
  int64_t rest = row;
  for (int axis = chain_.axes - 2; axis >= 0; --axis) {
    const int64_t at = rest % chain_.dims[axis];
    rest /= chain_.dims[axis];
    for (int i = 0; i < chain_.inputs; ++i) offsets[i] += at * chain_.input[i].strides[axis];
  }
  const int64_t base = row * chain_.columns();
  if (chain_.integers) return integers(offsets, base, from, to - from);
  for (; from < to; from += kBlock) block(offsets, base, from, std::min(kBlock, to - from), memory);
}

void ChainRunner::block(const int64_t* offsets, int64_t base, int64_t from, int64_t count,
                        float* memory) const {
  const float* data[kMostChainInputs];
  int64_t steps[kMostChainInputs];
  for (int i = 0; i < chain_.inputs; ++i) {
    const ChainInput& input = chain_.input[i];
    const int64_t stride = input.strides[chain_.axes - 1];
    const int64_t first = offsets[i] + from * stride;
    steps[i] = 1;
    if (input_[i].slot == kNone) {
      data[i] = static_cast<const float*>(input.data) + first;
      steps[i] = stride;
      continue;
    }
    float* to = memory + input_[i].slot * kBlock;
    data[i] = to;
    if (stride == 0) {
      to[0] = at<float>(input, first);
      steps[i] = 0;
    } else {
      for (int64_t j = 0; j < count; ++j) to[j] = at<float>(input, first + j * stride);
    }
  }
  const auto result = [&](int s) {
    const Place& place = step_[s];
    return place.output == kNone ? memory + place.slot * kBlock
                                 : static_cast<float*>(chain_.output[place.output].data) + base + from;
  };
  for (int at = 0; at < chain_.steps; ++at) {
    const bool paired = value_ != kNone && (at == value_ || at == gradient_);
    if (paired && at < std::max(value_, gradient_)) continue;
    const int s = paired ? gradient_ : at;
    const ChainStep& step = chain_.step[s];
    StepCall call;
    const auto operand = [&](uint8_t number, const float** run, int64_t* stride) {
      if (number == kNumber) {
        *run = &step.p;
        *stride = 0;
      } else if (isStep(number)) {
        *run = result(number - kMostChainInputs);
        *stride = 1;
      } else {
        *run = data[number];
        *stride = steps[number];
      }
    };
    const int operands = operandsOf(step.step);
    operand(step.a, &call.a, &call.stepA);
    if (operands > 1) operand(step.b, &call.b, &call.stepB);
    if (operands > 2) operand(step.c, &call.c, &call.stepC);
    call.p = step.p;
    call.q = step.q;
    call.to = result(s);
    call.count = count;
    if (!paired) {
      simd_.steps[static_cast<int>(step.step)](call);
    } else {
      const bool gelu = step.step == Step::kGeluGradient;
      (gelu ? simd_.geluWithGradient : simd_.quickGeluWithGradient)(call, result(value_));
    }
  }
  for (int o = 0; o < chain_.outputs; ++o) {
    const ChainOutput& output = chain_.output[o];
    const float* source;
    int64_t stride = 1;
    if (isStep(output.from)) {
      if (step_[output.from - kMostChainInputs].output == o) continue;
      source = result(output.from - kMostChainInputs);
    } else {
      source = data[output.from];
      stride = steps[output.from];
    }
    if (output.type == ElementType::kFloat32 && stride == 1) {
      std::memmove(static_cast<float*>(output.data) + base + from, source,
                   static_cast<size_t>(count) * sizeof(float));
    } else {
      for (int64_t j = 0; j < count; ++j) set(output, base + from + j, source[j * stride]);
    }
  }
}

void ChainRunner::integers(const int64_t* offsets, int64_t base, int64_t from, int64_t count) const {
  int64_t values[kMostChainSteps];
  for (int64_t j = from; j < from + count; ++j) {
    const auto operand = [&](const ChainStep* step, uint8_t number) -> int64_t {
      if (number == kNumber) return static_cast<int64_t>(step->p);
      if (isStep(number)) return values[number - kMostChainInputs];
      return at<int64_t>(chain_.input[number],
                         offsets[number] + j * chain_.input[number].strides[chain_.axes - 1]);
    };
    for (int s = 0; s < chain_.steps; ++s) {
      const ChainStep& step = chain_.step[s];
      const int operands = operandsOf(step.step);
      values[s] = integerStep(step.step, operand(&step, step.a), operands > 1 ? operand(&step, step.b) : 0,
                              operands > 2 ? operand(&step, step.c) : 0);
    }
    for (int o = 0; o < chain_.outputs; ++o)
      set(chain_.output[o], base + j, operand(nullptr, chain_.output[o].from));
  }
}

Status run(Team& team, const ChainArgs& args) {
  const ChainRunner runner(args.chain);
  const int64_t rows = args.chain.rows(), columns = args.chain.columns();
  team.own(runner.floats());
  // Some tasks a thread, of enough elements to be worth the while.
  constexpr int64_t kTask = 1 << 13, kUnit = 64;
  const int64_t most = std::min<int64_t>(4 * team.threads(), (rows * columns + kTask - 1) / kTask);
  const int64_t tasks = std::max<int64_t>(1, most);
  if (rows >= tasks) {
    team.each(tasks, [&](int64_t task, int worker) {
      for (int64_t row = task * rows / tasks; row < (task + 1) * rows / tasks; ++row)
        runner.row(row, 0, columns, team.of(worker));
    });
    return {};
  }
  const int64_t parts = std::max<int64_t>(1, std::min(tasks / rows, columns / kUnit));
  const int64_t size = (columns / parts + kUnit - 1) / kUnit * kUnit;
  const int64_t cuts = (columns + size - 1) / size;
  team.each(rows * cuts, [&](int64_t task, int worker) {
    const int64_t from = task % cuts * size;
    runner.row(task / cuts, from, std::min(columns, from + size), team.of(worker));
  });
  return {};
}

}  // namespace clipcid
