// Keeps the memory of a JavaScript buffer in place while an operation works on it.
//
// A reference to a typed array keeps the array, not its memory: a transfer (postMessage, structuredClone) hands
// the memory to a new buffer at once, and it is freed when that one is collected, in the middle of the work.
// Node-API has no way to prevent that. V8 has one, shared ownership of the memory, which the official builds of
// Node export; where it is missing (other runtimes), rows are copied instead.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

namespace clipcid::bindings {

// The arrays that an operation reads from or writes to.
class Pins {
 public:
  // Throws a TypeError for memory that can shrink in place, which nobody can hold. False where the runtime has no
  // shared ownership to give: a transfer may then free the memory.
  bool add(const Napi::TypedArray& array);

  // Whether one of the arrays was transferred away since.
  bool detached(Napi::Env env) const;

 private:
  struct Pin {
    Napi::ObjectReference buffer;
    std::shared_ptr<void> memory;
  };
  std::vector<Pin> pins_;
};

}  // namespace clipcid::bindings
