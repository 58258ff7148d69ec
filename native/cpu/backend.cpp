#include "cpu/backend.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "core/parallel.h"
#include "cpu/peak.h"
#include "cpu/prepared.h"

namespace clipcid {

DeviceMemory CpuBackend::memory() {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  DeviceMemory memory;
  memory.total = page * static_cast<size_t>(sysconf(_SC_PHYS_PAGES));
#if defined(_SC_AVPHYS_PAGES)
  memory.free = page * static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES));
#else
  memory.free = memory.total;
#endif
  // Pages that hold files count as free: the kernel gives them up. Only Linux says how many.
  std::ifstream information("/proc/meminfo");
  for (std::string line; std::getline(information, line);) {
    unsigned long long kilobytes = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %llu", &kilobytes) == 1)
      memory.free = static_cast<size_t>(kilobytes) * 1024;
  }
  return memory;
}

Status CpuBackend::upload(const Context&, const Rows& rows, std::shared_ptr<DeviceMatrix>* out) {
  return guarded([&]() -> Status {
    // As stored when all chunks agree on a dtype, otherwise widened.
    Dtype dtype = rows.device ? rows.device->dtype : rows.chunks.front().dtype();
    for (const Chunk& chunk : rows.chunks) {
      if (chunk.dtype() != dtype) dtype = Dtype::kFloat32;
    }
    bool mixed = false;
    for (const Chunk& chunk : rows.chunks) mixed = mixed || chunk.dtype() != dtype;
    auto matrix = std::make_shared<CpuMatrix>(this, dtype, rows.count(), rows.dim());
    char* data = matrix->data.get();
    if (rows.device) {
      memcpy(data, static_cast<const CpuMatrix&>(*rows.device).data.get(), matrix->bytes());
    } else if (mixed) {
      CLIPCID_TRY(readRows(rows, 0, rows.count(), reinterpret_cast<float*>(data), rows.dim()));
    } else {
      CLIPCID_TRY(copyRows(rows, data));
    }
    *out = std::move(matrix);
    return {};
  });
}

Status CpuBackend::download(const Context&, const DeviceMatrix& matrix, void* out) {
  memcpy(out, static_cast<const CpuMatrix&>(matrix).data.get(), matrix.bytes());
  return {};
}

Status CpuBackend::prepare(const Context& context, const PrepareArgs& args, std::unique_ptr<Prepared>* out) {
  constexpr int64_t kMostDim = 1 << 16;
  if (args.rows.dim() > kMostDim) return {Code::kInvalidArgument, "Rows of more than 65,536 elements"};
  return guarded([&]() -> Status {
    auto prepared = std::make_unique<CpuPrepared>(args);
    CLIPCID_TRY(prepared->scan(context, args.squares));
    *out = std::move(prepared);
    return {};
  });
}

Status CpuBackend::synchronise(const Context&) { return {}; }

Status CpuBackend::peak(const Context& context, Peak* out) { return measurePeak(context, out); }

void CpuBackend::release(std::shared_ptr<DeviceMatrix>) {}

Backend& cpuBackend() {
  // Never destroyed: an operation may still run when the process ends.
  static CpuBackend* backend = new CpuBackend;
  return *backend;
}

}  // namespace clipcid
