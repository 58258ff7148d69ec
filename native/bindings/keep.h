#pragma once

#include <napi.h>

#include "core/keep.h"

namespace clipcid::bindings {

// The name of a keep policy, as options of a balance have it.
KeepPolicy::Kind keepOf(const Napi::Value& value);

}  // namespace clipcid::bindings
