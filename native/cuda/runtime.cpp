#include "cuda/runtime.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "cuda/tensor_map.h"

namespace clipcid::cuda {
namespace {

// A pool gives back to the system what is over this when nothing uses it.
constexpr uint64_t kKeptIdle = uint64_t{1} << 30;

cudaStream_t native(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t native(Event event) { return reinterpret_cast<cudaEvent_t>(event); }

std::string placeOf(Where where) {
  const char* slash = strrchr(where.file, '/');
  return std::string(slash != nullptr ? slash + 1 : where.file) + ':' + std::to_string(where.line);
}

Status statusOf(cudaError_t error, Where where, const char* what = nullptr) {
  if (error == cudaSuccess) return {};
  // A failed call leaves its error behind for the next one that asks.
  (void)cudaGetLastError();
  const Code code = error == cudaErrorMemoryAllocation ? Code::kOutOfMemory : Code::kInternal;
  const std::string of = what == nullptr ? "" : " in " + std::string(what);
  return {code, "CUDA failed" + of + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) +
                    ", " + placeOf(where) + ")"};
}

std::string megabytes(size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

Status outOfMemory(size_t wanted, Where where) {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) (void)cudaGetLastError();
  return {Code::kOutOfMemory, "The GPU has no " + megabytes(wanted) + " left: " + megabytes(free) + " of " +
                                  megabytes(total) + " are free (" + placeOf(where) + ")"};
}

// The pool of a device that is current; null where the device has none.
cudaMemPool_t poolOf(int device) {
  static std::mutex mutex;
  static std::vector<cudaMemPool_t> pools;
  static std::vector<bool> asked;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto at = static_cast<size_t>(device);
  if (pools.size() <= at) {
    pools.resize(at + 1, nullptr);
    asked.resize(at + 1, false);
  }
  if (asked[at]) return pools[at];
  asked[at] = true;
  int supported = 0;
  if (cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device) == cudaSuccess &&
      supported != 0) {
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    uint64_t kept = kKeptIdle;
    cudaMemPool_t pool = nullptr;
    if (cudaMemPoolCreate(&pool, &properties) == cudaSuccess &&
        cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept) == cudaSuccess)
      pools[at] = pool;
  }
  (void)cudaGetLastError();
  return pools[at];
}

}  // namespace

// Of a launch; launch.cuh.
Status launched(int error, const char* name, Where where) {
  return statusOf(static_cast<cudaError_t>(error), where, name);
}

Driver driver() {
  Driver found;
  if (cudaDriverGetVersion(&found.version) != cudaSuccess) found.version = 0;
  const cudaError_t error = cudaGetDeviceCount(&found.devices);
  (void)cudaGetLastError();
  if (error == cudaSuccess && found.devices > 0) return found;
  found.devices = 0;
  if (found.version == 0) {
    found.trouble = Driver::Trouble::kNoDriver;
  } else if (error == cudaErrorInsufficientDriver) {
    found.trouble = Driver::Trouble::kTooOld;
  } else if (error == cudaSuccess || error == cudaErrorNoDevice) {
    found.trouble = Driver::Trouble::kNoDevice;
  } else {
    found.trouble = Driver::Trouble::kOther;
    found.text = cudaGetErrorString(error);
  }
  return found;
}

int compiledVersion() { return CUDART_VERSION; }

Status deviceProperties(int device, DeviceProperties* out, Where where) {
  cudaDeviceProp properties;
  CLIPCID_TRY(statusOf(cudaGetDeviceProperties(&properties, device), where));
  out->name = properties.name;
  out->memory = properties.totalGlobalMem;
  out->major = properties.major;
  out->minor = properties.minor;
  out->multiprocessors = properties.multiProcessorCount;
  out->sharedOfBlock = properties.sharedMemPerBlockOptin;
  out->sharedOfMultiprocessor = properties.sharedMemPerMultiprocessor;
  out->levelTwoBytes = static_cast<size_t>(properties.l2CacheSize);
  int kilohertz = 0, bits = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device) == cudaSuccess)
    out->memoryBandwidth = 2.0 * kilohertz * 1000 * bits / 8;  // twice a cycle
  (void)cudaGetLastError();
  return {};
}

Status setDevice(int device, Where where) { return statusOf(cudaSetDevice(device), where); }

Status memoryOfDevice(size_t* free, size_t* total, Where where) {
  CLIPCID_TRY(statusOf(cudaMemGetInfo(free, total), where));
  // What the pool holds and nobody uses is free too.
  int device = 0;
  CLIPCID_TRY(statusOf(cudaGetDevice(&device), where));
  uint64_t held = 0, used = 0;
  const cudaMemPool_t pool = poolOf(device);
  if (pool != nullptr &&
      cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &held) == cudaSuccess &&
      cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used) == cudaSuccess && held > used)
    *free += held - used;
  (void)cudaGetLastError();
  return {};
}

Status allocate(size_t bytes, Stream stream, void** out, Where where) {
  *out = nullptr;
  int device = 0;
  CLIPCID_TRY(statusOf(cudaGetDevice(&device), where));
  const cudaMemPool_t pool = poolOf(device);
  const size_t asked = bytes == 0 ? 1 : bytes;
  const cudaError_t error = pool != nullptr ? cudaMallocFromPoolAsync(out, asked, pool, native(stream))
                                            : cudaMallocAsync(out, asked, native(stream));
  if (error != cudaErrorMemoryAllocation) return statusOf(error, where);
  (void)cudaGetLastError();
  *out = nullptr;
  return outOfMemory(bytes, where);
}

void deallocate(void* memory, Stream stream) {
  if (memory != nullptr && cudaFreeAsync(memory, native(stream)) != cudaSuccess) (void)cudaGetLastError();
}

Status allocatePinned(size_t bytes, void** out, Where where) {
  const Status status = statusOf(cudaMallocHost(out, bytes == 0 ? 1 : bytes), where);
  if (status.ok()) return {};
  *out = nullptr;
  if (status.code != Code::kOutOfMemory) return status;
  return {Code::kOutOfMemory, "The system gives no " + megabytes(bytes) +
                                  " of memory for copies to the GPU (" + placeOf(where) + ")"};
}

void deallocatePinned(void* memory) {
  if (memory != nullptr && cudaFreeHost(memory) != cudaSuccess) (void)cudaGetLastError();
}

Status createStream(Stream* out, Where where) {
  cudaStream_t stream = nullptr;
  CLIPCID_TRY(statusOf(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), where));
  *out = reinterpret_cast<Stream>(stream);
  return {};
}

void destroyStream(Stream stream) {
  if (cudaStreamDestroy(native(stream)) != cudaSuccess) (void)cudaGetLastError();
}

Status synchronise(Stream stream, Where where) {
  return statusOf(cudaStreamSynchronize(native(stream)), where);
}

Status createEvent(Event* out, bool timed, Where where) {
  cudaEvent_t event = nullptr;
  CLIPCID_TRY(
      statusOf(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming), where));
  *out = reinterpret_cast<Event>(event);
  return {};
}

void destroyEvent(Event event) {
  if (cudaEventDestroy(native(event)) != cudaSuccess) (void)cudaGetLastError();
}

Status record(Event event, Stream stream, Where where) {
  return statusOf(cudaEventRecord(native(event), native(stream)), where);
}

Status waitFor(Stream stream, Event event, Where where) {
  return statusOf(cudaStreamWaitEvent(native(stream), native(event), 0), where);
}

Status synchronise(Event event, Where where) { return statusOf(cudaEventSynchronize(native(event)), where); }

Status hasCome(Event event, bool* out, Where where) {
  const cudaError_t error = cudaEventQuery(native(event));
  *out = error == cudaSuccess;
  if (error != cudaErrorNotReady) return statusOf(error, where);
  (void)cudaGetLastError();
  return {};
}

Status secondsBetween(Event first, Event second, double* out, Where where) {
  float milliseconds = 0;
  CLIPCID_TRY(statusOf(cudaEventElapsedTime(&milliseconds, native(first), native(second)), where));
  *out = static_cast<double>(milliseconds) / 1000;
  return {};
}

Status beginCapture(Stream stream, Where where) {
  return statusOf(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), where);
}

Status endCapture(Stream stream, Graph* out, Where where) {
  *out = nullptr;
  cudaGraph_t graph = nullptr;
  CLIPCID_TRY(statusOf(cudaStreamEndCapture(native(stream), &graph), where));
  cudaGraphExec_t made = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&made, graph, 0);
  if (cudaGraphDestroy(graph) != cudaSuccess) (void)cudaGetLastError();
  CLIPCID_TRY(statusOf(error, where));
  *out = reinterpret_cast<Graph>(made);
  return {};
}

Status launchGraph(Graph graph, Stream stream, Where where) {
  return statusOf(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), native(stream)), where);
}

void destroyGraph(Graph graph) {
  if (cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph)) != cudaSuccess) (void)cudaGetLastError();
}

Status copyToDevice(void* to, const void* from, size_t bytes, Stream stream, Where where) {
  if (bytes == 0) return {};
  return statusOf(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, native(stream)), where);
}

Status copyToHost(void* to, const void* from, size_t bytes, Stream stream, Where where) {
  if (bytes == 0) return {};
  return statusOf(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream)), where);
}

Status copyOnDevice(void* to, const void* from, size_t bytes, Stream stream, Where where) {
  if (bytes == 0) return {};
  return statusOf(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream)), where);
}

Status copyRowsToDevice(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                        size_t rows, Stream stream, Where where) {
  if (bytes == 0 || rows == 0) return {};
  return statusOf(
      cudaMemcpy2DAsync(to, strideTo, from, strideFrom, bytes, rows, cudaMemcpyHostToDevice, native(stream)),
      where);
}

Status copyRowsToHost(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                      size_t rows, Stream stream, Where where) {
  if (bytes == 0 || rows == 0) return {};
  return statusOf(
      cudaMemcpy2DAsync(to, strideTo, from, strideFrom, bytes, rows, cudaMemcpyDeviceToHost, native(stream)),
      where);
}

Status copyRowsOnDevice(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                        size_t rows, Stream stream, Where where) {
  if (bytes == 0 || rows == 0) return {};
  return statusOf(cudaMemcpy2DAsync(to, strideTo, from, strideFrom, bytes, rows, cudaMemcpyDeviceToDevice,
                                    native(stream)),
                  where);
}

Status fillBytes(void* to, int value, size_t bytes, Stream stream, Where where) {
  if (bytes == 0) return {};
  return statusOf(cudaMemsetAsync(to, value, bytes, native(stream)), where);
}

namespace {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                                 CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill);

// The driver's function, asked for by name: linked, it would keep the addon from loading where there is no driver.
EncodeTiled driverEncodeTiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  (void)cudaGetLastError();
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess
             ? reinterpret_cast<EncodeTiled>(function)
             : nullptr;
}

}  // namespace

Status encodeTensorMap(const TensorShape& shape, TensorMap* out) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  static const EncodeTiled encode = driverEncodeTiled();
  if (encode == nullptr) return {Code::kInternal, "The NVIDIA driver has no cuTensorMapEncodeTiled"};
  // Innermost first; the distance of bytes is 1 and is not said.
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(shape.rowBytes), static_cast<cuuint64_t>(shape.rows),
                               static_cast<cuuint64_t>(shape.problems)};
  const auto stride = static_cast<cuuint64_t>(shape.stride);
  const cuuint64_t strides[2] = {stride, stride * sizes[1]};
  const cuuint32_t box[3] = {kBoxBytes, static_cast<cuuint32_t>(shape.boxRows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = encode(reinterpret_cast<CUtensorMap*>(out), CU_TENSOR_MAP_DATA_TYPE_UINT8, 3,
                                 const_cast<void*>(shape.data), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return {Code::kInternal, "cuTensorMapEncodeTiled refused a matrix of " + std::to_string(shape.problems) +
                               " x " + std::to_string(shape.rows) + " rows of " +
                               std::to_string(shape.stride) + " bytes: error " + std::to_string(result)};
}

}  // namespace clipcid::cuda
