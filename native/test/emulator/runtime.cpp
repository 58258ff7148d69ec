// cuda/runtime.h for the emulated device: memory of the host with guards, and streams that run in order.
#include "cuda/runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "cuda/tensor_map.h"
#include "emulator/guarded.h"
#include "emulator/hopper.h"
#include "emulator/options.h"
#include "emulator/queue.h"

namespace clipcid::cuda {

struct StreamObject {
  int device = 0;
  uint64_t issued = 0, done = 0;
  std::deque<std::function<void()>> work;
  // While a graph is noted down.
  bool captures = false;
  std::vector<std::function<void()>> noted;
};

struct GraphObject {
  std::shared_ptr<const std::vector<std::function<void()>>> work;
};

struct EventObject {
  StreamObject* stream = nullptr;
  uint64_t ticket = 0;
  // An event may be destroyed before its stream comes to it.
  std::shared_ptr<double> time = std::make_shared<double>(0);
};

}  // namespace clipcid::cuda

namespace clipcid::emulator {
namespace {

struct Allocation {
  int device = -1;  // -1: pinned memory of the host
  size_t bytes = 0;
  std::shared_ptr<GuardedMemory> memory;
};

struct State {
  std::recursive_mutex mutex;
  std::map<const char*, Allocation> allocations;
  std::map<int, size_t> used;
  std::list<std::shared_ptr<GuardedMemory>> retired;
  uint64_t count = 0;  // of allocations so far
  size_t graphs = 0;   // launched
  size_t tensorMaps = 0;
};

State& state() {
  static State* all = new State;  // work may be under way when the process ends
  return *all;
}

thread_local int chosenDevice = 0;

using Lock = std::lock_guard<std::recursive_mutex>;

void runUpTo(cuda::StreamObject* stream, uint64_t ticket) {
  while (stream->done < ticket) {
    const std::function<void()> work = std::move(stream->work.front());
    stream->work.pop_front();
    ++stream->done;
    work();
  }
}

[[noreturn]] void die(const char* text) {
  std::fprintf(stderr, "emulated GPU: %s\n", text);
  std::abort();
}

const Allocation* allocationOf(const void* pointer) {
  auto& all = state().allocations;
  auto at = all.upper_bound(static_cast<const char*>(pointer));
  if (at == all.begin()) return nullptr;
  --at;
  return static_cast<const char*>(pointer) < at->first + std::max<size_t>(at->second.bytes, 1) ? &at->second
                                                                                               : nullptr;
}

void requireDevice(const void* pointer, size_t bytes, const char* what) {
  if (bytes == 0) return;
  const Allocation* of = allocationOf(pointer);
  if (of == nullptr || of->device < 0) die(what);
  const Allocation* end = allocationOf(static_cast<const char*>(pointer) + bytes - 1);
  if (end != of) die("a copy runs over the end of device memory");
}

bool isPinned(const void* pointer) {
  const Allocation* of = allocationOf(pointer);
  return of != nullptr && of->device < 0;
}

// A graph reads and writes the host's memory when it is launched, which only pinned memory is sure to be there for.
void requirePinnedIfNoted(cuda::Stream stream, const void* pointer) {
  if (stream->captures && !isPinned(pointer)) die("a copy of memory that is not pinned is noted down");
}

Status give(size_t bytes, int device, size_t alignment, void** out) {
  *out = nullptr;
  State& all = state();
  const Lock lock(all.mutex);
  ++all.count;
  auto memory = std::make_shared<GuardedMemory>(bytes, alignment);
  char* pointer = memory->begin(bytes, options().seed + all.count);
  all.allocations[pointer] = {device, bytes, memory};
  if (device >= 0) all.used[device] += bytes;
  *out = pointer;
  return {};
}

void takeBack(void* pointer) {
  State& all = state();
  const Lock lock(all.mutex);
  const auto at = all.allocations.find(static_cast<char*>(pointer));
  if (at == all.allocations.end()) die("memory is given back that was not handed out");
  if (!at->second.memory->intact()) die("something wrote behind the end of device memory");
  if (at->second.device >= 0) all.used[at->second.device] -= at->second.bytes;
  at->second.memory->retire();
  all.retired.push_back(at->second.memory);
  if (all.retired.size() > 64) all.retired.pop_front();
  all.allocations.erase(at);
}

// The first word of a tensor map; then its shape.
constexpr uint64_t kTensorMap = 0x70616d726f736e74;
static_assert(sizeof(cuda::TensorShape) < sizeof(cuda::TensorMap));

std::string megabytes(size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

void enqueue(cuda::Stream stream, std::function<void()> work) {
  if (stream == nullptr) die("work without a stream");
  const Lock lock(state().mutex);
  if (stream->captures) {
    stream->noted.push_back(std::move(work));
    return;
  }
  stream->work.push_back(std::move(work));
  ++stream->issued;
  if (options().streams == When::kEager) runUpTo(stream, stream->issued);
}

void requireLaunch(cuda::Stream stream, const char* kernel, uint64_t blocks, size_t shared,
                   unsigned cluster) {
  if (stream == nullptr) die("work without a stream");
  cuda::DeviceProperties device;
  (void)cuda::deviceProperties(stream->device, &device);
  const std::string of = "kernel " + std::string(kernel) + " was launched with ";
  if (shared > device.sharedOfBlock)
    die((of + std::to_string(shared) + " bytes of shared memory, where a block of " + device.name + " has " +
         std::to_string(device.sharedOfBlock))
            .c_str());
  if (cluster > 1 && device.major < 9) die((of + "clusters on " + device.name).c_str());
  if (cluster > 8) die((of + "clusters of more than 8 blocks").c_str());
  if (blocks > INT32_MAX) die((of + "more than 2^31 blocks").c_str());
}

cuda::TensorShape shapeOf(const cuda::TensorMap& map, const std::source_location& where) {
  if (reinterpret_cast<uintptr_t>(&map) % alignof(cuda::TensorMap) != 0 || map.words[0] != kTensorMap)
    fault("a tensor map that nobody made", where);
  cuda::TensorShape shape;
  memcpy(static_cast<void*>(&shape), &map.words[1], sizeof shape);
  return shape;
}

size_t graphsLaunched() {
  const Lock lock(state().mutex);
  return state().graphs;
}

size_t tensorMaps() {
  const Lock lock(state().mutex);
  return state().tensorMaps;
}

size_t bytesInUse(int device) {
  const Lock lock(state().mutex);
  return state().used[device];
}

}  // namespace clipcid::emulator

namespace clipcid::cuda {

using namespace clipcid::emulator;

Driver driver() {
  const int version = options().driver;
  Driver found;
  found.version = version;
  if (version == 0) {
    found.trouble = Driver::Trouble::kNoDriver;
  } else if (version / 1000 < compiledVersion() / 1000) {
    found.trouble = Driver::Trouble::kTooOld;
  } else if (options().devices.empty()) {
    found.trouble = Driver::Trouble::kNoDevice;
  } else {
    found.devices = static_cast<int>(options().devices.size());
  }
  return found;
}

int compiledVersion() { return 13000; }

Status deviceProperties(int device, DeviceProperties* out, Where) {
  const DeviceModel& model = options().devices[static_cast<size_t>(device)];
  out->name = model.name;
  out->memory = model.memory;
  out->major = model.major;
  out->minor = model.minor;
  out->multiprocessors = model.multiprocessors;
  const int architecture = out->architecture();
  const bool small = architecture == 86 || architecture == 89 || architecture == 120;
  out->sharedOfBlock = (small ? 99 : architecture == 80 ? 163 : 227) << 10;
  out->sharedOfMultiprocessor = out->sharedOfBlock + 1024;
  out->levelTwoBytes = 1 << 20;
  return {};
}

Status setDevice(int device, Where) {
  chosenDevice = device;
  return {};
}

bool hasKernels(int device) { return options().devices[static_cast<size_t>(device)].kernels; }
bool hasSm90Kernels(int device) {
  const DeviceModel& model = options().devices[static_cast<size_t>(device)];
  return model.kernels && model.major == 9 && model.minor == 0;
}

Status encodeTensorMap(const TensorShape& shape, TensorMap* out) {
  if (!suitsTensorMap(shape)) return {Code::kInternal, "A matrix that TMA does not take"};
  requireDevice(shape.data,
                static_cast<size_t>(shape.stride * (shape.rows * shape.problems - 1) + shape.rowBytes),
                "a tensor map of what is not the device's");
  *out = {};
  out->words[0] = kTensorMap;
  memcpy(&out->words[1], &shape, sizeof shape);
  const Lock lock(state().mutex);
  ++state().tensorMaps;
  return {};
}

Status memoryOfDevice(size_t* free, size_t* total, Where) {
  *total = options().devices[static_cast<size_t>(chosenDevice)].memory;
  *free = *total - std::min(*total, bytesInUse(chosenDevice));
  return {};
}

Status allocate(size_t bytes, Stream stream, void** out, Where) {
  if (stream->captures) die("memory is allocated while a graph is noted down");
  size_t free, total;
  CLIPCID_TRY(memoryOfDevice(&free, &total));
  *out = nullptr;
  if (bytes > free)
    return {Code::kOutOfMemory, "The GPU has no " + megabytes(bytes) + " left: " + megabytes(free) + " of " +
                                    megabytes(total) + " are free"};
  return give(bytes, chosenDevice, 256, out);
}

void deallocate(void* memory, Stream stream) {
  if (memory == nullptr) return;
  if (stream->captures) die("memory is given back while a graph is noted down");
  enqueue(stream, [memory] { takeBack(memory); });
}

Status allocatePinned(size_t bytes, void** out, Where) { return give(bytes, -1, 64, out); }

void deallocatePinned(void* memory) {
  if (memory != nullptr) takeBack(memory);
}

Status createStream(Stream* out, Where) {
  *out = new StreamObject{};
  (*out)->device = chosenDevice;
  return {};
}

void destroyStream(Stream stream) {
  {
    const Lock lock(state().mutex);
    runUpTo(stream, stream->issued);
  }
  delete stream;
}

Status synchronise(Stream stream, Where) {
  const Lock lock(state().mutex);
  if (stream->captures) die("a stream is waited for while a graph is noted down");
  runUpTo(stream, stream->issued);
  return {};
}

Status createEvent(Event* out, bool, Where) {
  *out = new EventObject;
  return {};
}

void destroyEvent(Event event) { delete event; }

Status record(Event event, Stream stream, Where) {
  const Lock lock(state().mutex);
  if (stream->captures) die("an event is recorded while a graph is noted down");
  enqueue(stream, [time = event->time] {
    using namespace std::chrono;
    *time = duration<double>(steady_clock::now().time_since_epoch()).count();
  });
  event->stream = stream;
  event->ticket = stream->issued;
  return {};
}

Status waitFor(Stream stream, Event event, Where) {
  const Lock lock(state().mutex);
  if (stream->captures) die("an event is waited for while a graph is noted down");
  if (event->stream == nullptr) return {};
  enqueue(stream, [of = event->stream, ticket = event->ticket] { runUpTo(of, ticket); });
  return {};
}

Status synchronise(Event event, Where) {
  const Lock lock(state().mutex);
  if (event->stream != nullptr && event->stream->captures)
    die("an event is waited for while a graph is noted down");
  if (event->stream != nullptr) runUpTo(event->stream, event->ticket);
  return {};
}

Status hasCome(Event event, bool* out, Where where) {
  // Asked often enough, it has.
  *out = true;
  return synchronise(event, where);
}

Status secondsBetween(Event first, Event second, double* out, Where) {
  *out = *second->time - *first->time;
  return {};
}

Status beginCapture(Stream stream, Where) {
  const Lock lock(state().mutex);
  if (stream->captures) die("a graph is noted down within another");
  stream->captures = true;
  return {};
}

Status endCapture(Stream stream, Graph* out, Where) {
  const Lock lock(state().mutex);
  if (!stream->captures) die("no graph is noted down");
  stream->captures = false;
  auto work = std::make_shared<std::vector<std::function<void()>>>(std::exchange(stream->noted, {}));
  *out = new GraphObject{std::move(work)};
  return {};
}

Status launchGraph(Graph graph, Stream stream, Where) {
  const Lock lock(state().mutex);
  ++state().graphs;
  enqueue(stream, [work = graph->work] {
    for (const std::function<void()>& one : *work) one();
  });
  return {};
}

void destroyGraph(Graph graph) { delete graph; }

Status copyRowsToDevice(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                        size_t rows, Stream stream, Where) {
  if (rows == 0 || bytes == 0) return {};
  const Lock lock(state().mutex);
  requireDevice(to, (rows - 1) * strideTo + bytes, "a copy to the device that goes elsewhere");
  requirePinnedIfNoted(stream, from);
  const auto copy = [=](const char* source, size_t stride) {
    for (size_t row = 0; row < rows; ++row)
      memcpy(static_cast<char*>(to) + row * strideTo, source + row * stride, bytes);
  };
  if (isPinned(from)) {
    enqueue(stream, [=] { copy(static_cast<const char*>(from), strideFrom); });
  } else {
    // What is not pinned is copied before the call returns.
    auto kept = std::make_shared<std::vector<char>>(rows * bytes);
    for (size_t row = 0; row < rows; ++row)
      memcpy(kept->data() + row * bytes, static_cast<const char*>(from) + row * strideFrom, bytes);
    enqueue(stream, [=] { copy(kept->data(), bytes); });
  }
  return {};
}

Status copyToDevice(void* to, const void* from, size_t bytes, Stream stream, Where where) {
  return copyRowsToDevice(to, bytes, from, bytes, bytes, 1, stream, where);
}

Status copyRowsToHost(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                      size_t rows, Stream stream, Where) {
  if (rows == 0 || bytes == 0) return {};
  const Lock lock(state().mutex);
  requireDevice(from, (rows - 1) * strideFrom + bytes, "a copy from the device that comes from elsewhere");
  requirePinnedIfNoted(stream, to);
  enqueue(stream, [=] {
    for (size_t row = 0; row < rows; ++row)
      memcpy(static_cast<char*>(to) + row * strideTo, static_cast<const char*>(from) + row * strideFrom,
             bytes);
  });
  return {};
}

Status copyToHost(void* to, const void* from, size_t bytes, Stream stream, Where where) {
  return copyRowsToHost(to, bytes, from, bytes, bytes, 1, stream, where);
}

Status copyRowsOnDevice(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                        size_t rows, Stream stream, Where) {
  if (rows == 0 || bytes == 0) return {};
  const Lock lock(state().mutex);
  requireDevice(to, (rows - 1) * strideTo + bytes, "a copy on the device that goes elsewhere");
  requireDevice(from, (rows - 1) * strideFrom + bytes, "a copy on the device that comes from elsewhere");
  enqueue(stream, [=] {
    for (size_t row = 0; row < rows; ++row)
      memcpy(static_cast<char*>(to) + row * strideTo, static_cast<const char*>(from) + row * strideFrom,
             bytes);
  });
  return {};
}

Status copyOnDevice(void* to, const void* from, size_t bytes, Stream stream, Where where) {
  return copyRowsOnDevice(to, bytes, from, bytes, bytes, 1, stream, where);
}

Status fillBytes(void* to, int value, size_t bytes, Stream stream, Where) {
  const Lock lock(state().mutex);
  requireDevice(to, bytes, "bytes are filled that are not the device's");
  enqueue(stream, [=] {
    if (bytes > 0) memset(to, value, bytes);
  });
  return {};
}

}  // namespace clipcid::cuda
