// Bytes between the host and a device, in pieces of pinned memory: the host fills or empties some while others are under way, so
// that much goes through little of it.
#pragma once

#include "cuda/memory.h"

namespace clipcid::cuda {

// On one stream, of one caller at a time.
class Pieces {
 public:
  explicit Pieces(Device& device) : device_(device) {}
  // All that went through is under way no more by then.
  ~Pieces();
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  // Returns when `from` has been read; the bytes arrive in the order of the stream.
  Status send(char* to, const void* from, int64_t bytes, Stream stream);
  // Returns when `to` holds what lies at `from` when the stream comes to it.
  Status fetch(void* to, const char* from, int64_t bytes, Stream stream);

 private:
  static constexpr int kPieces = 4;

  Status begin();

  Device& device_;
  Pinned<char> memory_;  // of the device's staging, from the first use on
  OwnedEvent passed_[kPieces];
  bool used_[kPieces] = {};
  int next_ = 0;
};

}  // namespace clipcid::cuda
