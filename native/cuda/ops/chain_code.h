// Chains as kernels run them: steps over slots of shared memory, so that what one step made the next one finds near.
#pragma once

#include "clipcid/ops.h"

namespace clipcid::cuda {

// Elements that a thread works on at once: they follow each other.
constexpr int kChainLanes = 4;
constexpr uint8_t kLoadStep = kSteps;  // a step more: brings input `a`
constexpr int kMostChainCode = kMostChainSteps + kMostChainInputs;
// An operand that is the step's number p.
constexpr uint8_t kChainNumber = 255;

struct ChainCode {
  uint8_t step;
  uint8_t a, b, c;  // slots, or kChainNumber
  uint8_t to;       // slot
  float p, q;
};

enum class RowReach : uint8_t {
  kNone,   // every row has the same elements
  kPitch,  // they lie `pitch` elements after those of the row before
  kAxes,   // anyhow
};

struct ChainSource {
  const void* data;
  ElementType type;
  RowReach reach;
  // Four elements of a row are four in memory, and aligned.
  bool vector;
  int64_t pitch;                    // of kPitch
  int64_t strides[kMostChainAxes];  // the last is that of the columns
};

struct ChainTarget {
  void* data;
  ElementType type;
  bool vector;
  uint8_t from;  // slot
};

struct ChainProgram {
  int32_t axes, inputs, outputs, steps, slots;
  int64_t rows, columns;
  int64_t dims[kMostChainAxes];
  ChainCode code[kMostChainCode];
  ChainSource input[kMostChainInputs];
  ChainTarget output[kMostChainOutputs];
};

// `keepsColumns`: its rows are those of the chain, rather than as long as they may be.
ChainProgram chainProgram(const Chain& chain, bool keepsColumns);

// Whether a product's kernel has all of its steps.
bool fitsProduct(const ChainProgram& program);

}  // namespace clipcid::cuda
