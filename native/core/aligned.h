// Cache-aligned memory that is not cleared.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace clipcid {

// Throws std::bad_alloc.
template <typename T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
#if defined(__linux__)
    // Large pages: fewer faults, fewer misses of the translation, and caches whose sets are used evenly.
    constexpr size_t kHuge = size_t{2} << 20;
    if (bytes >= 2 * kHuge) {
      void* memory = nullptr;
      if (posix_memalign(&memory, kHuge, (bytes + 4095) / 4096 * 4096) != 0) throw std::bad_alloc();
      data_.reset(static_cast<T*>(memory));
      // Where the system refuses, the memory is as good as any.
      (void)madvise(data_.get(), bytes / kHuge * kHuge, MADV_HUGEPAGE);
      return;
    }
#endif
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
    if (!data_) throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }
  bool empty() const { return !data_; }

 private:
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace clipcid
