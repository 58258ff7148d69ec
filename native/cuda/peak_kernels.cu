// In: encoded rows [N, D], twice. Out: their products [N, N], float32. A plain product through the mainloop, to see what it reaches
// when there is nothing beside it but the writing. Not yet measured.
#include "cuda/epilogue_sums.cuh"
#include "cuda/launch_mainloop.cuh"
#include "cuda/peak.h"

namespace clipcid::cuda {

Status multiplyRows(const Device& device, Stream stream, Math math, const MainloopParams& params, float* out,
                    int64_t stride) {
  SumsParams sums;
  sums.out = out;
  sums.stride = stride;
  if (math == Math::kInt8)
    return launchTile<LargeTile<Math::kInt8>, SumsEpilogue>(device, stream, params, sums);
  return launchTile<LargeTile<Math::kFloat16>, SumsEpilogue>(device, stream, params, sums);
}

}  // namespace clipcid::cuda
