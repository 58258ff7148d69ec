// Memory of the emulated device: what lies before and behind it cannot be touched, what is left of its last page is watched,
// and fresh memory holds nothing that a kernel could take for data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace clipcid::emulator {

class GuardedMemory {
 public:
  // Room for `bytes`; what is handed out begins at a multiple of `alignment`, which is at most a page.
  GuardedMemory(size_t bytes, size_t alignment);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // The first `bytes` of what is as near to the guard behind it as the alignment allows, filled with a pattern by seed.
  char* begin(size_t bytes, uint64_t seed);
  // Whether nothing was written between the end of that and the guard.
  bool intact() const;
  // Any use is a fault from now on.
  void retire();

 private:
  char* pages_;
  size_t pageBytes_;  // without the guards
  size_t alignment_;
  char* handedOut_ = nullptr;
  size_t bytes_ = 0;
};

// Fills memory with a pattern that is NaN as float16, float32 and float64, and a large index.
void poison(void* memory, size_t bytes, uint64_t seed);

// Makes faults in guarded memory say which kernel and thread it was. Idempotent.
void reportFaults();

}  // namespace clipcid::emulator
