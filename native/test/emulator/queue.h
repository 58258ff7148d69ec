// Streams of the emulated device.
#pragma once

#include <cstdint>
#include <functional>

#include "cuda/runtime.h"

namespace clipcid::emulator {

// Work that is done in the stream's order: at once, or, with Options::streams lazy, when somebody waits for it.
void enqueue(cuda::Stream stream, std::function<void()> work);

// Ends the process where the stream's device could not start a kernel so: with more shared memory than its blocks may have,
// clusters before 9.0, or more blocks than a grid takes.
void requireLaunch(cuda::Stream stream, const char* kernel, uint64_t blocks, size_t shared, unsigned cluster);

// How many graphs were launched so far.
size_t graphsLaunched();
// How many tensor maps were made.
size_t tensorMaps();

// Bytes of device memory in use on a device.
size_t bytesInUse(int device);

}  // namespace clipcid::emulator
