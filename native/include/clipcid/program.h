// How a device runs programs: memory that stays on it, and operations one after the other.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
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

// Takes operations in order. It may return before one is done.
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

struct AdamwArgs;
class LossSteps;

// Bytes of the host on their way to a device.
class Sent {
 public:
  virtual ~Sent() = default;
};

// Names a run that may come again: runs of one name queue the same operations with the same pointers.
using RunName = std::array<uint64_t, 5>;

// One program's place on a device, with what operations need beside their arguments. Of one caller at a time.
class Runner {
 public:
  virtual ~Runner() = default;

  // Fails, where memory is not the host's, when so many bytes more are not to be had: "<what> needs ..., and ...: <remedy>".
  virtual Status require(int64_t /*bytes*/, const std::string& /*what*/, const std::string& /*remedy*/) {
    return {};
  }
  // Memory of the device, 64-byte aligned and not cleared; it goes with the last reference.
  virtual Status allocate(int64_t bytes, std::shared_ptr<char>* out) = 0;
  // Between the host and the device; ordered with what runs.
  virtual Status write(char* to, const void* from, int64_t bytes) = 0;
  virtual Status read(void* to, const char* from, int64_t bytes) = 0;
  virtual Status clear(char* to, int64_t bytes) = 0;
  // Within the device.
  virtual Status copy(char* to, const char* from, int64_t bytes) = 0;

  // Whether bytes can be on their way while other work runs. Then `send` begins it, from a thread of its own if need be, and has read them
  // when it returns; `land` puts them in place, once, ordered with what runs.
  virtual bool sends() const { return false; }
  virtual Status send(const void* /*from*/, int64_t /*bytes*/, std::shared_ptr<Sent>* /*out*/) {
    return {Code::kInternal, "This device sends nothing ahead"};
  }
  virtual Status land(Sent& /*sent*/, char* /*to*/) {
    return {Code::kInternal, "This device sends nothing ahead"};
  }

  // A cancelled context ends it between two operations. It may return before all is done, and a fault of the data show in a later
  // read or step, which then fails. With a name a device may keep how the operations are queued; null: it is run this once.
  virtual Status run(const Context& context, const RunName* name,
                     const std::function<Status(Queue&)>& program) = 0;

  // One step; pointers are to the device's memory.
  virtual Status adamw(const Context& context, const AdamwArgs& args) = 0;

  // How many indices of Queue::each run at the same time at most.
  virtual int lanes() const { return 1; }

  // Floats of what PackArgs makes; 0 where products read a right side as it lies, and nothing is packed.
  virtual int64_t packedFloats(int64_t n, int64_t k, Precision precision) const = 0;

  // Matrices of float32 that are handed out, of any content; their back end takes them too once what was queued on them is done.
  virtual Status matrix(int64_t rows, int64_t dim, std::shared_ptr<DeviceMatrix>* out) = 0;
  // Rows [row, row + rows) of one from dense rows of the device's memory, and to such.
  virtual Status put(DeviceMatrix& to, int64_t row, int64_t rows, const char* from) = 0;
  virtual Status take(const DeviceMatrix& from, int64_t row, int64_t rows, char* to) = 0;
  // All rows of one to those of another of its width, from `row` on.
  virtual Status copy(DeviceMatrix& to, int64_t row, const DeviceMatrix& from) = 0;
  // All of one to dense rows of the host.
  virtual Status read(void* to, const DeviceMatrix& from) = 0;
  // Of a loss over such matrices, in the order of what runs.
  virtual Status lossSteps(const Context& context, std::unique_ptr<LossSteps>* out) = 0;
};

}  // namespace clipcid
