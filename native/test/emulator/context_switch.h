// Switches between fibers: saves what a call must preserve on the old stack, and goes on where the new one left off.
#pragma once

#include <cstddef>

namespace clipcid::emulator {

extern "C" void clipcidSwitchStack(void** from, void* to);

// A stack that begins with `entry` when it is first switched to; `top` is its upper end.
void* newStack(char* top, void (*entry)());

}  // namespace clipcid::emulator
