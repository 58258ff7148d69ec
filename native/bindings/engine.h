// Engines as JavaScript has them.
#pragma once

#include <napi.h>

#include "core/engine.h"

namespace clipcid::bindings {

// The engine behind a NativeEngine; throws with code DISPOSED once it was disposed.
std::shared_ptr<Engine> engineOf(const Napi::Value& value);

}  // namespace clipcid::bindings
