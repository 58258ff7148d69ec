// How a device runs programs: memory that stays on it, and operations one after the other.
#pragma once

#include <variant>

#include "ops.h"
#include "types.h"

namespace clipcid {

using Operation =
    std::variant<ChainArgs, ProductArgs, PackArgs, LayerNormArgs, LayerNormGradientArgs, AttentionArgs,
                 AttentionGradientArgs, SoftmaxRowsArgs, SoftmaxRowsGradientArgs, ReduceArgs, ArgumentArgs,
                 CopyArgs, FillArgs, GatherRowsArgs, ScatterRowsArgs, ConvArgs, ConvInputGradientArgs,
                 ConvWeightGradientArgs, BatchNormArgs, BatchNormGradientArgs, MaxPoolArgs,
                 MaxPoolGradientArgs, AveragePoolArgs, AveragePoolGradientArgs>;

// Takes operations in order. It may return before one is done; a failure of the data may show later, but not after the
// run has ended.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual Status run(const Operation& operation) = 0;

  // body(index, lane, queue) for every index in [0, count), which takes operations for the queue that it is given. Several
  // may run at the same time, in any order; a lane is below Runner::lanes() and belongs to one of them meanwhile. No index
  // is begun after a failure.
  using Body = std::function<Status(int64_t index, int lane, Queue& queue)>;
  virtual Status each(int64_t count, const Body& body) {
    for (int64_t index = 0; index < count; ++index) {
      Status status = body(index, 0, *this);
      if (!status.ok()) return status;
    }
    return {};
  }
};

// One program's place on a device, with what operations need beside their arguments. Of one caller at a time.
class Runner {
 public:
  virtual ~Runner() = default;

  // Memory of the device, 64-byte aligned and not cleared; it goes with the last reference.
  virtual Status allocate(int64_t bytes, std::shared_ptr<char>* out) = 0;
  // Between the host and the device; ordered with what runs.
  virtual Status write(char* to, const void* from, int64_t bytes) = 0;
  virtual Status read(void* to, const char* from, int64_t bytes) = 0;
  virtual Status clear(char* to, int64_t bytes) = 0;
  // Within the device.
  virtual Status copy(char* to, const char* from, int64_t bytes) = 0;

  // A cancelled context ends it between two operations.
  virtual Status run(const Context& context, const std::function<Status(Queue&)>& program) = 0;

  // How many indices of Queue::each run at the same time at most.
  virtual int lanes() const { return 1; }

  // Floats of what PackArgs makes.
  virtual int64_t packedFloats(int64_t n, int64_t k, Precision precision) const = 0;
};

}  // namespace clipcid
