// The steps of the loss on a GPU's memory (core/loss_steps.h).
#pragma once

#include <functional>

#include "core/loss_steps.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Where steps are queued. Without a stream on one of their own.
struct LossSite {
  Device& device;
  const Backend* owner = nullptr;
  Stream stream = nullptr;
  // Brings bytes of the host to the device, in the order of the stream; or null, for a copy.
  std::function<Status(char* to, const void* from, int64_t bytes)> write = {};
  // Bytes of device memory that may be held, beside what the context says; 0: no limit.
  int64_t left = 0;
};
Status lossSteps(const LossSite& site, const Context& context, std::unique_ptr<LossSteps>* out);

}  // namespace clipcid::cuda
