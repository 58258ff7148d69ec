#include "bindings/addon.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class PeakOf final : public Operation {
 public:
  using Operation::Operation;

 protected:
  Status run(const Context& context) override { return backend().peak(context, &peak_); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("float32", peak_.float32);
    object.Set("bfloat16", peak_.bfloat16);
    object.Set("int8", peak_.int8);
    if (peak_.bandwidth > 0) object.Set("bandwidth", peak_.bandwidth);
    return object;
  }

 private:
  Peak peak_;
};

}  // namespace

Napi::Value peak(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<PeakOf>(info.Env(), info[0]));
}

}  // namespace clipcid::bindings
