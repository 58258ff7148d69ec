#include "emulator/guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "emulator/engine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace clipcid::emulator {
namespace {

constexpr unsigned char kCanary = 0xa5;
constexpr size_t kGuard = 1 << 20;  // before and behind

size_t pageSize() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t roundUp(size_t value, size_t to) { return (value + to - 1) / to * to; }

[[maybe_unused]] void onFault(int, siginfo_t* information, void*) {
  // Not much may be called here, but the process ends anyway, and a report is worth the risk.
  const Thread* thread = current;
  if (thread == nullptr) {
    std::fprintf(stderr, "emulated GPU: the host touches %p, which is no memory of its own\n",
                 information->si_addr);
  } else {
    const Block& block = *thread->block;
    const char* at = static_cast<const char*>(information->si_addr);
    const long long inShared = at - block.shared;
    std::fprintf(
        stderr,
        "emulated GPU: kernel %s, block (%u, %u, %u) thread %d: access to %p, which is outside of all memory",
        thread->group->shape().kernel, block.index.x, block.index.y, block.index.z, thread->linear,
        information->si_addr);
    if (inShared > -65536 && inShared < 1 << 20)
      std::fprintf(stderr, " (byte %lld of %zu of shared memory)", inShared, block.sharedBytes);
    std::fprintf(stderr, "\n");
  }
  std::signal(SIGSEGV, SIG_DFL);
  std::abort();
}

}  // namespace

void reportFaults() {
#if !defined(__SANITIZE_ADDRESS__)
  static std::once_flag once;
  std::call_once(once, [] {
    // Faults of a stack that overflows need another one; each thread of the host would, so only the first has it.
    struct sigaction action {};
    action.sa_sigaction = onFault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
  });
#endif
}

void poison(void* memory, size_t bytes, uint64_t seed) {
  // 0xffff and 0x7fff.. are NaN in every format; as integers they are -1 and far outside.
  const int pattern = seed % 2 == 0 ? 0xff : 0x7f;
  memset(memory, pattern, bytes);
}

GuardedMemory::GuardedMemory(size_t bytes, size_t alignment)
    : pageBytes_(roundUp(bytes == 0 ? 1 : bytes, pageSize())), alignment_(alignment) {
  reportFaults();
  const size_t all = pageBytes_ + 2 * kGuard;
  void* memory = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<char*>(memory) + kGuard;
  if (mprotect(pages_, pageBytes_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
}

GuardedMemory::~GuardedMemory() {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(pages_, pageBytes_);
#endif
  munmap(pages_ - kGuard, pageBytes_ + 2 * kGuard);
}

char* GuardedMemory::begin(size_t bytes, uint64_t seed) {
  bytes_ = bytes;
  handedOut_ = pages_ + (pageBytes_ - roundUp(bytes, alignment_));
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(pages_, pageBytes_);
#endif
  poison(handedOut_, bytes, seed);
  memset(handedOut_ + bytes, kCanary, static_cast<size_t>(pages_ + pageBytes_ - handedOut_) - bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(pages_, static_cast<size_t>(handedOut_ - pages_));
  __asan_poison_memory_region(handedOut_ + bytes,
                              static_cast<size_t>(pages_ + pageBytes_ - handedOut_) - bytes);
#endif
  return handedOut_;
}

bool GuardedMemory::intact() const {
#if defined(__SANITIZE_ADDRESS__)
  return true;  // the sanitizer watches it
#else
  for (const char* at = handedOut_ + bytes_; at < pages_ + pageBytes_; ++at) {
    if (static_cast<unsigned char>(*at) != kCanary) return false;
  }
  return true;
#endif
}

void GuardedMemory::retire() { mprotect(pages_, pageBytes_, PROT_NONE); }

}  // namespace clipcid::emulator
