#include "emulator/ptx.h"

#include "emulator/guarded.h"
#include "emulator/options.h"

namespace clipcid::emulator {
namespace {

void perform(const PendingCopy& copy) {
  memcpy(copy.to, copy.from, copy.bytes);
  memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.filled - copy.bytes);
}

}  // namespace

void requireShared(const void* at, size_t bytes, size_t alignment, const char* what,
                   const std::source_location& where) {
  const Block& block = *self().block;
  const char* pointer = static_cast<const char*>(at);
  if (pointer < block.shared || pointer + bytes > block.shared + block.sharedBytes)
    fault(std::string(what) + " outside of shared memory", where);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0)
    fault(std::string(what) + " at an address that is no multiple of " + std::to_string(alignment), where);
}

void issueCopy(void* to, const void* from, uint32_t bytes, uint32_t filled,
               const std::source_location& where) {
  requireShared(to, filled, 16, "cp.async", where);
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0)
    fault("cp.async from an address that is no multiple of 16", where);
  if (bytes > filled) fault("cp.async of more bytes than it writes", where);
  const PendingCopy copy{to, from, bytes, filled};
  self().openCopies.push_back(copy);
  if (options().async == When::kEager) {
    perform(copy);
  } else {
    poison(to, filled, options().seed);
  }
}

void commitCopies() {
  Thread& thread = self();
  thread.copyGroups.push_back(std::move(thread.openCopies));
  thread.openCopies.clear();
}

void waitCopies(size_t pending) {
  Thread& thread = self();
  while (thread.copyGroups.size() > pending) {
    if (options().async == When::kLazy) {
      for (const PendingCopy& copy : thread.copyGroups.front()) perform(copy);
    }
    thread.copyGroups.erase(thread.copyGroups.begin());
  }
}

}  // namespace clipcid::emulator

namespace clipcid::cuda {

uint16_t roundToHalf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  // Half of the last step above the largest half: from there on, infinity.
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal: a multiple of 2^-24. Adding 2^-1 in float32 rounds to those.
    float shifted;
    memcpy(&shifted, &magnitude, 4);
    shifted += 0.5f;
    uint32_t rounded;
    memcpy(&rounded, &shifted, 4);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace clipcid::cuda
