// The CPU's threads: one pool a process, which grows to the largest number that was asked for and never ends.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <new>

#include "clipcid/types.h"

namespace clipcid {

// Runs body(index, worker) for every index in [0, count), at most `threads` at a time, the caller among them;
// `worker` is below `threads` and belongs to one thread while the call lasts, so that it may name scratch
// memory. Which worker gets which index is not fixed: results may not depend on it. Several callers may share
// the pool. The body must not throw.
void parallelFor(int threads, int64_t count, const std::function<void(int64_t index, int worker)>& body);

// Runs a body that may throw, since no exception may leave a back end or reach a thread's end.
template <typename Body>
Status guarded(Body&& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return {Code::kOutOfMemory, "There is not enough memory for this operation"};
  } catch (const std::exception& error) {
    return {Code::kInternal, error.what()};
  }
}

// parallelFor for a body that can fail or throw. No index is started after a failure or a cancellation; of
// several failures the one of the smallest index is returned.
Status parallelTry(const Context& context, int64_t count,
                   const std::function<Status(int64_t index, int worker)>& body);

}  // namespace clipcid
