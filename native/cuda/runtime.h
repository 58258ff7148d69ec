// The part of CUDA's runtime that the back end uses. Implemented over cudart (runtime.cpp), and by the emulated device of
// the tests. A failure's text ends with the file and line of the call that failed.
//
// Calls work on the device that the calling thread chose with setDevice. What takes a stream only queues its work there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "clipcid/types.h"

namespace clipcid::cuda {

struct StreamObject;
struct EventObject;
struct GraphObject;
using Stream = StreamObject*;
using Event = EventObject*;
using Graph = GraphObject*;

// Where a call was made.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// The driver as it is on this machine.
struct Driver {
  enum class Trouble : uint8_t { kNone, kNoDriver, kTooOld, kNoDevice, kOther } trouble = Trouble::kNone;
  int devices = 0;
  int version = 0;     // of CUDA that it supports: 12040 is 12.4; 0 without a driver
  std::string text{};  // of kOther
};
Driver driver();
// Version of CUDA that this was compiled with.
int compiledVersion();

struct DeviceProperties {
  std::string name;
  size_t memory = 0;
  int major = 0, minor = 0;
  int multiprocessors = 1;
  // Bytes of shared memory that a block may ask for, and that a multiprocessor has.
  size_t sharedOfBlock = 0, sharedOfMultiprocessor = 0;
  size_t levelTwoBytes = 0;
  double memoryBandwidth = 0;  // bytes a second, by its clock; 0 when unknown

  int architecture() const { return 10 * major + minor; }
};
Status deviceProperties(int device, DeviceProperties* out, Where where = Where::here());
Status setDevice(int device, Where where = Where::here());
// Whether this build has kernels that the device can run; and those of the sm_90 mainloop, for a device of 9.0.
bool hasKernels(int device);
bool hasSm90Kernels(int device);

Status memoryOfDevice(size_t* free, size_t* total, Where where = Where::here());
// Device memory in the order of a stream, from a pool that keeps some of what is given back. `*out` is null after a failure,
// and kOutOfMemory the code when there is not enough; that leaves no error behind.
Status allocate(size_t bytes, Stream stream, void** out, Where where = Where::here());
void deallocate(void* memory, Stream stream);
// Memory of the host that a device copies from and to by itself.
Status allocatePinned(size_t bytes, void** out, Where where = Where::here());
void deallocatePinned(void* memory);

Status createStream(Stream* out, Where where = Where::here());
void destroyStream(Stream stream);
// Waits until all work queued on it is done; tells of what failed in it.
Status synchronise(Stream stream, Where where = Where::here());
Status createEvent(Event* out, bool timed, Where where = Where::here());
void destroyEvent(Event event);
Status record(Event event, Stream stream, Where where = Where::here());
// The stream's further work waits for the event.
Status waitFor(Stream stream, Event event, Where where = Where::here());
Status synchronise(Event event, Where where = Where::here());
// Whether the event has come.
Status hasCome(Event event, bool* out, Where where = Where::here());
// Seconds between two timed events that have come.
Status secondsBetween(Event first, Event second, double* out, Where where = Where::here());

// From here on work queued on the stream by this thread is noted down rather than done, until endCapture. Nothing may be allocated
// or waited for meanwhile. After a failure of endCapture nothing is noted down any more, and the graph is null.
Status beginCapture(Stream stream, Where where = Where::here());
Status endCapture(Stream stream, Graph* out, Where where = Where::here());
// What was noted down, in the order of the stream.
Status launchGraph(Graph graph, Stream stream, Where where = Where::here());
// When what was launched of it is done.
void destroyGraph(Graph graph);

Status copyToDevice(void* to, const void* from, size_t bytes, Stream stream, Where where = Where::here());
Status copyToHost(void* to, const void* from, size_t bytes, Stream stream, Where where = Where::here());
Status copyOnDevice(void* to, const void* from, size_t bytes, Stream stream, Where where = Where::here());
// `rows` runs of `bytes`, which begin so many bytes after each other.
Status copyRowsToDevice(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                        size_t rows, Stream stream, Where where = Where::here());
Status copyRowsToHost(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                      size_t rows, Stream stream, Where where = Where::here());
Status copyRowsOnDevice(void* to, size_t strideTo, const void* from, size_t strideFrom, size_t bytes,
                        size_t rows, Stream stream, Where where = Where::here());
Status fillBytes(void* to, int value, size_t bytes, Stream stream, Where where = Where::here());

}  // namespace clipcid::cuda
