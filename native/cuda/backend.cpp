#include "cuda/backend.h"

#include <map>
#include <mutex>
#include <string>

#include "core/parallel.h"
#include "cuda/best.h"
#include "cuda/devices.h"
#include "cuda/iterate.h"
#include "cuda/join.h"
#include "cuda/loss_steps.h"
#include "cuda/peak.h"
#include "cuda/prepared.h"
#include "cuda/softmax_loss.h"
#include "cuda/top_k.h"

namespace clipcid {

using namespace cuda;

Backend* cudaBackend(int index, Status* status) {
  static std::mutex mutex;
  // Never destroyed, nor what is in it: an operation may still run when the process ends.
  static auto& made = *new std::map<int, CudaBackend*>;
  const std::lock_guard<std::mutex> lock(mutex);
  *status = {};
  const auto at = made.find(index);
  if (at != made.end()) return at->second;
  const CudaDevices found = cudaDevices();
  const auto number = static_cast<size_t>(index);
  if (index < 0 || number >= found.devices.size()) {
    *status = {Code::kDeviceUnavailable,
               found.devices.empty() ? found.reason : "There is no CUDA device of that number"};
    return nullptr;
  }
  if (!found.devices[number].usable) {
    *status = {Code::kDeviceUnavailable, found.devices[number].reason};
    return nullptr;
  }
  Device* device = Device::get(index, status);
  if (device == nullptr) return nullptr;
  return made[index] = new CudaBackend(*device);
}

Status CudaBackend::upload(const Context& context, const Rows& rows, std::shared_ptr<DeviceMatrix>* out) {
  return guarded([&]() -> Status {
    Session session(&device_);
    CLIPCID_TRY(session.begin());
    std::shared_ptr<CudaMatrix> matrix;
    if (rows.device) {
      const auto& from = static_cast<const CudaMatrix&>(*rows.device);
      matrix = std::make_shared<CudaMatrix>(this, from.dtype, from.rows, from.dim);
      CLIPCID_TRY(matrix->data.allocate(from.data.count(), session.stream()));
      CLIPCID_TRY(copyOnDevice(matrix->data.get(), from.data.get(), from.data.bytes(), session.stream()));
    } else {
      const HostRows host(rows);
      matrix = std::make_shared<CudaMatrix>(this, host.dtype, rows.count(), host.dim);
      CLIPCID_TRY(matrix->data.allocate(matrix->rows * host.rowBytes(), session.stream()));
      Uploader uploader(context, device_);
      CLIPCID_TRY(uploader.rows(host, 0, matrix->rows, matrix->data.get(), session.stream()));
    }
    CLIPCID_TRY(session.synchronise());
    matrix->data.freeOn(device_.home());
    *out = std::move(matrix);
    return {};
  });
}

Status CudaBackend::download(const Context&, const DeviceMatrix& matrix, void* out) {
  const auto& from = static_cast<const CudaMatrix&>(matrix);
  Session session(&device_);
  CLIPCID_TRY(session.begin());
  const size_t each = dtypeSize(from.dtype);
  CLIPCID_TRY(copyRowsToHost(out, static_cast<size_t>(from.dim) * each, from.data.get(),
                             static_cast<size_t>(from.stride) * each, static_cast<size_t>(from.dim) * each,
                             static_cast<size_t>(from.rows), session.stream()));
  return session.synchronise();
}

// No call returns before its work is done, so nothing can be queued on it any more.
void CudaBackend::release(std::shared_ptr<DeviceMatrix> matrix) {
  if (setDevice(device_.index).ok()) matrix.reset();
}

DeviceMemory CudaBackend::memory() {
  DeviceMemory memory;
  if (!setDevice(device_.index).ok() || !memoryOfDevice(&memory.free, &memory.total).ok()) return {};
  return memory;
}

Status CudaBackend::synchronise(const Context&) { return {}; }

Status CudaBackend::peak(const Context& context, Peak* out) {
  return guarded([&] { return measurePeak(device_, context, out); });
}

Status CudaBackend::prepare(const Context& context, const PrepareArgs& args, std::unique_ptr<Prepared>* out) {
  constexpr int64_t kMostDim = 1 << 16;
  if (args.rows.dim() > kMostDim) return {Code::kInvalidArgument, "Rows of more than 65,536 elements"};
  return guarded([&]() -> Status {
    auto prepared = std::make_unique<CudaPrepared>(device_, args);
    CLIPCID_TRY(prepared->scan(context, args.squares));
    *out = std::move(prepared);
    return {};
  });
}

Status CudaBackend::join(const Context& context, const JoinArgs& args) {
  return guarded([&] { return joinPairs(device_, context, args); });
}

Status CudaBackend::components(const Context& context, const ComponentsArgs& args) {
  return guarded([&] { return joinSets(device_, context, args); });
}

Status CudaBackend::best(const Context& context, const BestArgs& args) {
  return guarded([&] { return bestKeys(device_, context, args); });
}

bool CudaBackend::iterates(const Context& context, int64_t batch, int64_t rows, int64_t dim,
                           int64_t clusters) {
  return canIterate(device_, context, batch, rows, dim, clusters);
}

Status CudaBackend::iterate(const Context& context, const IterateArgs& args) {
  return guarded([&] { return cuda::iterate(device_, context, args); });
}

Status CudaBackend::topK(const Context& context, const TopKArgs& args) {
  return guarded([&] { return topKeys(device_, context, args); });
}

Status CudaBackend::softmax(const Context& context, const SoftmaxArgs& args) {
  return guarded([&] { return softmaxOver(device_, context, args); });
}

Status CudaBackend::softmaxGradient(const Context& context, const SoftmaxGradientArgs& args) {
  return guarded([&] { return softmaxGradientOver(device_, context, args); });
}

Status CudaBackend::contrast(const Context& context, const ContrastArgs& args) {
  return guarded([&] { return contrastOf(device_, context, args); });
}

Status CudaBackend::lossSteps(const Context& context, std::unique_ptr<LossSteps>* out) {
  return guarded([&] { return cuda::lossSteps({.device = device_, .owner = this}, context, out); });
}

Status CudaBackend::distil(const Context& context, const DistilArgs& args) {
  return guarded([&] { return distilOf(device_, context, args); });
}

}  // namespace clipcid
