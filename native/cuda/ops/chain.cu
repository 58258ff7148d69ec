// In: up to twelve operands with strides. Out: up to six dense results over the same elements.
//
// A thread has four elements that follow each other, and one place in each slot of shared memory: a step reads its operands'
// slots and writes its own. Steps are the same for all threads, so that nothing diverges; results leave when all is done,
// so that a result may take an operand's memory. Whole numbers are computed one at a time, in int64. Bound by memory: each operand and
// each result once. Not yet measured.
#include <algorithm>

#include "core/integer_step.h"
#include "cuda/launch.cuh"
#include "cuda/ops/chain.cuh"
#include "cuda/ops/ops.h"

namespace clipcid::cuda {
namespace {

constexpr size_t kMostShared = 48 << 10;
constexpr int kMostThreads = 256;

__global__ void __launch_bounds__(kMostThreads) chainKernel(const __grid_constant__ ChainProgram program) {
  auto* slots = reinterpret_cast<Floats4*>(sharedMemory());
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int64_t count = program.rows * program.columns;
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + thread) * kChainLanes; first < count;
       first += static_cast<int64_t>(gridDim.x) * threads * kChainLanes) {
    ChainAt at;
    at.row = quotient(first, program.columns);
    at.column = first - at.row * program.columns;
    at.count = count - first < kChainLanes ? static_cast<int>(count - first) : kChainLanes;
    at.whole = at.column + at.count <= program.columns;
    runChain<true>(program, slots, threads, thread, at,
                   [&](int input) { return loadSource(program, input, at); });
  }
}

CLIPCID_DEVICE int64_t integerAt(ElementType type, const void* data, int64_t at) {
  switch (type) {
    case ElementType::kFloat32:
      return static_cast<int64_t>(static_cast<const float*>(data)[at]);
    case ElementType::kInt64:
      return static_cast<const int64_t*>(data)[at];
    case ElementType::kInt32:
      return static_cast<const int32_t*>(data)[at];
    default:
      return static_cast<const uint8_t*>(data)[at];
  }
}

CLIPCID_DEVICE void setInteger(const ChainTarget& target, int64_t at, int64_t value) {
  switch (target.type) {
    case ElementType::kFloat32:
      static_cast<float*>(target.data)[at] = static_cast<float>(value);
      break;
    case ElementType::kInt64:
      static_cast<int64_t*>(target.data)[at] = value;
      break;
    case ElementType::kInt32:
      static_cast<int32_t*>(target.data)[at] = static_cast<int32_t>(value);
      break;
    default:
      static_cast<uint8_t*>(target.data)[at] = value != 0 ? 1 : 0;
  }
}

__global__ void __launch_bounds__(kMostThreads)
    integerChainKernel(const __grid_constant__ ChainProgram program) {
  auto* slots = reinterpret_cast<int64_t*>(sharedMemory());
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int64_t count = program.rows * program.columns;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * threads + thread; index < count;
       index += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t row = quotient(index, program.columns), column = index - row * program.columns;
    for (int s = 0; s < program.steps; ++s) {
      const ChainCode& code = program.code[s];
      int64_t result;
      if (code.step == kLoadStep) {
        const ChainSource& source = program.input[code.a];
        result = integerAt(source.type, source.data,
                           rowOffset(program, source, row) + column * source.strides[program.axes - 1]);
      } else {
        const auto operand = [&](uint8_t slot) {
          return slot == kChainNumber ? static_cast<int64_t>(code.p) : slots[slot * threads + thread];
        };
        result = integerStep(static_cast<Step>(code.step), operand(code.a), operand(code.b), operand(code.c));
      }
      slots[code.to * threads + thread] = result;
    }
    for (int o = 0; o < program.outputs; ++o)
      setInteger(program.output[o], index, slots[program.output[o].from * threads + thread]);
  }
}

}  // namespace

Status run(const Work& work, const ChainArgs& args) {
  const ChainProgram program = chainProgram(args.chain, false);
  const size_t each = args.chain.integers ? sizeof(int64_t) : sizeof(Floats4);
  const int lanes = args.chain.integers ? 1 : kChainLanes;
  int threads = kMostThreads;
  while (threads > kWarp && static_cast<size_t>(threads * program.slots) * each > kMostShared) threads /= 2;
  // Some turns a thread where there is much: the steps are read again for each.
  const int64_t runs = (program.rows * program.columns + lanes * threads - 1) / (lanes * threads);
  const int64_t most = static_cast<int64_t>(work.device.properties.multiprocessors) * 32;
  const Launch how = {.grid = static_cast<unsigned>(std::min(runs, most)),
                      .block = static_cast<unsigned>(threads),
                      .shared = static_cast<size_t>(threads * std::max(program.slots, 1)) * each,
                      .stream = work.stream};
  if (args.chain.integers) return CLIPCID_LAUNCH(integerChainKernel, how, program);
  return CLIPCID_LAUNCH(chainKernel, how, program);
}

}  // namespace clipcid::cuda
