// One side of a product, in blocks that are on the device as stored and encoded at the same time: a single block where all of
// it fits, which is kept for later calls; otherwise as many as the memory says, brought and encoded while others are compared.
#pragma once

#include "cuda/plan.h"
#include "cuda/prepared.h"

namespace clipcid::cuda {

class OperandBlocks {
 public:
  // Holds `slots` blocks at the same time, 1 or 2.
  OperandBlocks(const Context& context, Session& session, const CudaPrepared& rows, const Encoding& encoding,
                int slots);
  OperandBlocks(const OperandBlocks&) = delete;
  OperandBlocks& operator=(const OperandBlocks&) = delete;
  ~OperandBlocks();

  // How many rows of a block there is room for; all of them, when they stay on the device.
  Status fitting(int64_t* rows);
  // Blocks of at most so many rows.
  Status begin(int64_t mostRows);
  Status begin() {
    int64_t rows = 0;
    CLIPCID_TRY(fitting(&rows));
    return begin(rows);
  }
  int64_t count() const { return blocks_; }
  int64_t blockRows() const { return blockRows_; }

  struct Block {
    int64_t begin = 0, count = 0;
    DeviceRows stored;
    EncodedView encoded;
  };
  // The block, for what is queued on the session's stream from now on. Blocks come in any order; one more than there are slots
  // takes the place of the oldest.
  Status get(int64_t block, Block* out);
  // Begins to bring a block, while the session's stream is busy with another.
  Status prefetch(int64_t block);

 private:
  struct Slot {
    int64_t block = -1;
    Buffer<char> stored;
    EncodedRows encoded;
    OwnedEvent ready, used;
    bool wasUsed = false;
  };

  Status load(int64_t block);

  const Context& context_;
  Session& session_;
  const CudaPrepared& rows_;
  const Encoding encoding_;
  Session copies_;
  Uploader uploader_;
  std::shared_ptr<const EncodedRows> whole_;
  int64_t blocks_ = 0, blockRows_ = 0;
  std::vector<Slot> slots_;
  size_t next_ = 0;   // slot that is loaded next
  size_t given_ = 0;  // slot that was given last
  bool any_ = false;
};

}  // namespace clipcid::cuda
