#include "cuda/mainloops.h"

#include <cstdlib>
#include <cstring>

namespace clipcid::cuda {

Mainloop& mostMainloop() {
  static Mainloop most = [] {
    const char* text = std::getenv("CLIP_CID_CUDA_MAINLOOP");
    return text != nullptr && std::strcmp(text, "sm_80") == 0 ? Mainloop::kSm80 : Mainloop::kSm90;
  }();
  return most;
}

Mainloop mainloopOf(const Device& device) {
  if (mostMainloop() == Mainloop::kSm80 || !device.hasSm90Kernels) return Mainloop::kSm80;
  return tileRuleOf(device.properties.architecture()).mainloop;
}

Status encodeTensorMaps(const HopperShapes& shapes, TensorMaps* out) {
  CLIPCID_TRY(encodeTensorMap(shapes.queries, &out->queries));
  CLIPCID_TRY(encodeTensorMap(shapes.keys, &out->keys));
  if (!shapes.two) return {};
  CLIPCID_TRY(encodeTensorMap(shapes.secondQueries, &out->secondQueries));
  return encodeTensorMap(shapes.secondKeys, &out->secondKeys);
}

}  // namespace clipcid::cuda
