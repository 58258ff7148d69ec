#include "cpu/backend.h"

#include <unistd.h>

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
  return memory;
}

Status CpuBackend::synchronise(const Context&) { return {}; }

void CpuBackend::release(std::shared_ptr<DeviceMatrix>) {}

Backend& cpuBackend() {
  // Never destroyed: an operation may still run when the process ends.
  static CpuBackend* backend = new CpuBackend;
  return *backend;
}

}  // namespace clipcid
