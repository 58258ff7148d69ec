#include "bindings/pin.h"

#include <dlfcn.h>

#include "bindings/arguments.h"

namespace v8 {
class BackingStore;  // only ever pointed to
}

namespace clipcid::bindings {
namespace {

// v8::ArrayBuffer::GetBackingStore, a member function: `this` is a handle's value, which is what a napi_value
// holds.
using GetBackingStore = std::shared_ptr<v8::BackingStore> (*)(napi_value buffer);

// The function's own name doesn't tell whose shared_ptr it returns, that of its counterpart does: when a symbol
// with this library's shared_ptr in it is there, both sides agree on its layout.
#if defined(__GLIBCXX__) && _GLIBCXX_USE_CXX11_ABI
constexpr const char* kCounterpart =
    "_ZN2v811ArrayBuffer3NewEPNS_7IsolateESt10shared_ptrINS_12BackingStoreEE";
#elif defined(_LIBCPP_VERSION)
constexpr const char* kCounterpart =
    "_ZN2v811ArrayBuffer3NewEPNS_7IsolateENSt3__110shared_ptrINS_12BackingStoreEEE";
#else
constexpr const char* kCounterpart = "";
#endif

GetBackingStore find() {
  if (dlsym(RTLD_DEFAULT, kCounterpart) == nullptr) return nullptr;
  return reinterpret_cast<GetBackingStore>(dlsym(RTLD_DEFAULT, "_ZN2v811ArrayBuffer15GetBackingStoreEv"));
}

}  // namespace

bool Pins::add(const Napi::TypedArray& array) {
  const Napi::Value value = array.Get("buffer");
  if (!value.IsArrayBuffer()) return true;  // shared memory can't be transferred away
  const Napi::Object buffer = value.As<Napi::Object>();
  if (buffer.Get("resizable").ToBoolean()) {
    throwExpected(array.Env(), "an array over a buffer of fixed length", "data");
  }
  static const GetBackingStore getBackingStore = find();
  Pin pin;
  pin.buffer = Napi::Persistent(buffer);
  if (getBackingStore != nullptr) pin.memory = getBackingStore(buffer);
  pins_.push_back(std::move(pin));
  return getBackingStore != nullptr;
}

bool Pins::detached(Napi::Env env) const {
  for (const Pin& pin : pins_) {
    bool detached = false;
    if (napi_is_detached_arraybuffer(env, pin.buffer.Value(), &detached) == napi_ok && detached) return true;
  }
  return false;
}

}  // namespace clipcid::bindings
