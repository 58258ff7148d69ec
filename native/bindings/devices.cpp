#include "bindings/devices.h"

#include "bindings/arguments.h"
#include "clipcid/backend.h"
#include "cpu/isa.h"
#include "cpu/product.h"
#include "cuda/devices.h"

namespace clipcid::bindings {

Napi::Value devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  Napi::Object cpu = Napi::Object::New(env);
  cpu.Set("device", "cpu");
  cpu.Set("name", cpuName());
  cpu.Set("memory", static_cast<double>(cpuBackend().memory().total));
  cpu.Set("architecture", isaName());
  cpu.Set("usable", true);
  cpu.Set("bfloat16", hasBfloat16Product());
  list.Set(list.Length(), cpu);
  int index = 0;
  for (const CudaDevice& device : cudaDevices().devices) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("device", "cuda:" + std::to_string(index++));
    object.Set("name", device.name);
    object.Set("memory", static_cast<double>(device.memory));
    object.Set("architecture", std::to_string(device.major) + '.' + std::to_string(device.minor));
    object.Set("usable", device.usable);
    object.Set("bfloat16", device.usable);  // those that there are kernels for all have tensor cores for it
    if (!device.usable) object.Set("reason", device.reason);
    list.Set(list.Length(), object);
  }
  return list;
}

Napi::Value freeMemory(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(backendOf(info.Env(), info[0]).memory().free));
}

Napi::Value setInstructions(const Napi::CallbackInfo& info) {
  const std::string name = stringOf(info[0], "instructions");
  return Napi::Boolean::New(info.Env(), chooseIsa(name.c_str()));
}

Napi::Value cudaStatus(const Napi::CallbackInfo& info) {
  const CudaDevices found = cudaDevices();
  return found.devices.empty() ? Napi::String::New(info.Env(), found.reason) : info.Env().Undefined();
}

}  // namespace clipcid::bindings
