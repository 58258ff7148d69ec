// What an operation is queued with: the device, the stream, and memory for what it makes on the way.
#pragma once

#include <memory>
#include <vector>

#include "cuda/memory.h"

namespace clipcid::cuda {

// Memory of one operation at a time, on one stream: the next operation takes the same. It grows, and never shrinks; an operation that
// had it grow once finds all it takes in one block the next time `settle` was called before.
class Scratch {
 public:
  explicit Scratch(std::shared_ptr<Budget> budget = std::make_shared<Budget>(0))
      : budget_(std::move(budget)) {}

  // What was taken is free again for what is queued from here on.
  void begin() {
    used_ = taken_ = 0;
    outgrown_.clear();
  }
  // 256-byte aligned. Fails where it would have to grow and may not.
  Status take(int64_t bytes, Stream stream, char** out);
  template <typename T>
  Status take(int64_t count, Stream stream, T** out) {
    char* memory = nullptr;
    CLIPCID_TRY(take(count * static_cast<int64_t>(sizeof(T)), stream, &memory));
    *out = reinterpret_cast<T*>(memory);
    return {};
  }
  // Makes the block as large as the most that an operation took so far; nothing that was taken is used any more.
  Status settle(Stream stream);
  // While a graph is noted down, which keeps its addresses.
  void mayGrow(bool may) { mayGrow_ = may; }
  // Grows with each allocation: what was noted down before refers to memory that is gone.
  int64_t generation() const { return generation_; }

 private:
  std::shared_ptr<Budget> budget_;
  BudgetedBuffer block_;
  std::vector<BudgetedBuffer> outgrown_;  // still in use by the operation at hand
  int64_t used_ = 0;                      // of the block
  int64_t taken_ = 0;  // by the operation at hand, of this block and of those that it outgrew
  int64_t most_ = 0;   // of all operations
  int64_t generation_ = 0;
  bool mayGrow_ = true;
};

// A fault of a run's data, on the device: whichever was noted first. Of all zeros there is none.
struct DataFault {
  int32_t kind;  // 1: an index out of range
  int32_t reserved;
  int64_t value, at, size;  // which, where, of how many rows
};

struct Work {
  const Device& device;
  Stream stream;
  Scratch& scratch;
  DataFault* fault;

  template <typename T>
  Status take(int64_t count, T** out) const {
    return scratch.take(count, stream, out);
  }
};

}  // namespace clipcid::cuda
