#include "emulator/context_switch.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
// rbx, rbp, r12 to r15; the modes of the floating-point unit are the same in all fibers.
asm(R"(
.text
.p2align 4
.globl clipcidSwitchStack
.hidden clipcidSwitchStack
.type clipcidSwitchStack, @function
clipcidSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size clipcidSwitchStack, .-clipcidSwitchStack
)");
#elif defined(__aarch64__)
// x19 to x30, d8 to d15.
asm(R"(
.text
.p2align 4
.globl clipcidSwitchStack
.hidden clipcidSwitchStack
.type clipcidSwitchStack, %function
clipcidSwitchStack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size clipcidSwitchStack, .-clipcidSwitchStack
)");
#else
#error "The emulator knows how to switch stacks on x86-64 and AArch64 only"
#endif

namespace clipcid::emulator {

void* newStack(char* top, void (*entry)()) {
  top = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
#if defined(__x86_64__)
  // The address to return to, below it what a caller would have pushed: so that the stack is aligned as after a call.
  constexpr size_t kFrame = 8 * 8;
  char* at = top - kFrame;
  memset(at, 0, kFrame);
  memcpy(at + 6 * 8, &entry, 8);
#else
  constexpr size_t kFrame = 160;
  char* at = top - kFrame;
  memset(at, 0, kFrame);
  memcpy(at + 88, &entry, 8);  // x30
#endif
  return at;
}

}  // namespace clipcid::emulator
