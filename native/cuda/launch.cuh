// The one way to start a kernel.
//
//   CLIPCID_TRY(CLIPCID_LAUNCH(kernel<Tile>, {.grid = blocks, .block = 256, .shared = bytes, .stream = stream}, arguments...));
#pragma once

#include <utility>

#include "cuda/platform.cuh"
#include "cuda/runtime.h"

#if defined(CLIPCID_EMULATED)
#include "emulator/queue.h"
#endif

namespace clipcid::cuda {

struct Launch {
  unsigned grid = 1;
  unsigned block = 32;
  size_t shared = 0;
  Stream stream = nullptr;
  unsigned cluster = 1;  // blocks of a cluster; 90 and later
};

#if defined(CLIPCID_EMULATED)

template <typename... Params, typename... Args>
Status launch(const char* name, Where, void (*kernel)(Params...), const Launch& how, Args&&... args) {
  emulator::LaunchShape shape;
  shape.kernel = name;
  shape.grid.x = how.grid;
  shape.block.x = how.block;
  shape.cluster = how.cluster;
  shape.shared = how.shared;
  emulator::requireLaunch(how.stream, name, how.grid, how.shared, how.cluster);
  emulator::enqueue(how.stream, [=] { emulator::run(shape, [&] { kernel(static_cast<Params>(args)...); }); });
  return {};
}

template <typename... Params>
Status clustersAtOnce(const char*, Where, void (*)(Params...), const Launch& how, int* out) {
  *out = static_cast<int>(how.grid / how.cluster);
  return {};
}

#else

// Turns what a launch gave into a status; defined in runtime.cpp.
Status launched(int error, const char* name, Where where);

// How, in CUDA's words.
struct LaunchConfig {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  cudaError_t error = cudaSuccess;

  LaunchConfig(const void* kernel, const Launch& how) {
    // What a kernel may have without being asked.
    constexpr size_t kGranted = 48 << 10;
    if (how.shared > kGranted)
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(how.shared));
    config.gridDim = dim3(how.grid);
    config.blockDim = dim3(how.block);
    config.dynamicSmemBytes = how.shared;
    config.stream = reinterpret_cast<cudaStream_t>(how.stream);
    if (how.cluster <= 1) return;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = how.cluster;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;
};

template <typename... Params, typename... Args>
Status launch(const char* name, Where where, void (*kernel)(Params...), const Launch& how, Args&&... args) {
  LaunchConfig all(reinterpret_cast<const void*>(kernel), how);
  if (all.error == cudaSuccess)
    all.error = cudaLaunchKernelEx(&all.config, kernel, static_cast<Params>(std::forward<Args>(args))...);
  return launched(all.error, name, where);
}

// How many clusters of a launch run at the same time: multiprocessors that belong together may be odd in number.
template <typename... Params>
Status clustersAtOnce(const char* name, Where where, void (*kernel)(Params...), const Launch& how, int* out) {
  const LaunchConfig all(reinterpret_cast<const void*>(kernel), how);
  cudaError_t error = all.error;
  if (error == cudaSuccess)
    error = cudaOccupancyMaxActiveClusters(out, reinterpret_cast<const void*>(kernel), &all.config);
  return launched(error, name, where);
}

#endif

#define CLIPCID_LAUNCH(kernel, ...) \
  ::clipcid::cuda::launch(#kernel, ::clipcid::cuda::Where::here(), kernel, __VA_ARGS__)
#define CLIPCID_CLUSTERS_AT_ONCE(kernel, ...) \
  ::clipcid::cuda::clustersAtOnce(#kernel, ::clipcid::cuda::Where::here(), kernel, __VA_ARGS__)

}  // namespace clipcid::cuda
