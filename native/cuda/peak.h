// What a GPU reaches with this library's own loops: the rates that its other work is held against.
#pragma once

#include "clipcid/backend.h"
#include "cuda/mainloop.h"
#include "cuda/memory.h"
#include "cuda/tiles.h"

namespace clipcid::cuda {

// float32 by fused multiply-adds, bfloat16 and int8 by tensor cores: large square products, the best of several. bfloat16's is that
// of float16, which the filters and the loss have instead, and which tensor cores multiply as fast.
Status measurePeak(Device& device, const Context& context, Peak* out);

// out [rows, rows] = a product of encoded rows in large tiles, written as float32.
Status multiplyRows(const Device& device, Stream stream, Math math, const MainloopParams& params, float* out,
                    int64_t stride);

}  // namespace clipcid::cuda
