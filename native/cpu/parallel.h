// The CPU's threads: one pool a process, which grows to the largest number that was asked for and never ends.
#pragma once

#include <cstdint>
#include <functional>

namespace clipcid {

// Runs body(index, worker) for every index in [0, count), at most `threads` at a time, the caller among them;
// `worker` is below `threads` and belongs to one thread while the call lasts, so that it may name scratch
// memory. Which worker gets which index is not fixed: results may not depend on it. Several callers may share
// the pool. The body must not throw.
void parallelFor(int threads, int64_t count, const std::function<void(int64_t index, int worker)>& body);

}  // namespace clipcid
