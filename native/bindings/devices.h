#pragma once

#include <napi.h>

namespace clipcid::bindings {

Napi::Value devices(const Napi::CallbackInfo& info);
Napi::Value cudaStatus(const Napi::CallbackInfo& info);
Napi::Value setInstructions(const Napi::CallbackInfo& info);

}  // namespace clipcid::bindings
