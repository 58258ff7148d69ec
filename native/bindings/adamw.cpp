#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class Adamw final : public Operation {
 public:
  Adamw(Napi::Env env, const Napi::Value& context, const Napi::Value& buffersValue,
        const Napi::Value& optionsValue)
      : Operation(env, context) {
    const Napi::Object buffers = objectOf(buffersValue, "buffers");
    const Napi::Value parameters = buffers.Get("parameters");
    args_.length = static_cast<int64_t>(arrayOf<float>(parameters, "parameters", 0).ElementLength());
    const auto buffer = [&](const char* name) {
      return hold(arrayOf<float>(buffers.Get(name), name, args_.length)).Data();
    };
    args_.parameters = buffer("parameters");
    args_.gradients = buffer("gradients");
    args_.first = buffer("first");
    args_.second = buffer("second");
    if (!buffers.Get("ema").IsUndefined()) args_.ema = buffer("ema");

    const Napi::Object options = objectOf(optionsValue, "options");
    const auto number = [&](const char* name) { return numberOf(options.Get(name), name); };
    args_.step = integerOf(options.Get("step"), "step", 1, (int64_t{1} << 53) - 1);
    args_.rate = number("rate");
    args_.decay = number("decay");
    args_.beta1 = number("beta1");
    args_.beta2 = number("beta2");
    args_.epsilon = number("epsilon");
    args_.clip = number("clip");
    args_.emaDecay = number("emaDecay");
    const Napi::Value groups = options.Get("groups");
    if (!groups.IsArray()) throwExpected(env, "an array", "groups");
    const auto list = groups.As<Napi::Array>();
    for (uint32_t index = 0; index < list.Length(); ++index) {
      const Napi::Object object = objectOf(list.Get(index), "groups");
      AdamwGroup group;
      group.length = integerOf(object.Get("length"), "length", 0, args_.length);
      group.rate = numberOf(object.Get("rate"), "rate");
      group.decay = numberOf(object.Get("decay"), "decay");
      args_.groups.push_back(group);
    }
    args_.gradientNorm = &norm_;
  }

 protected:
  Status run(const Context& context) override { return backend().adamw(context, args_); }
  Napi::Value result(Napi::Env env) override { return Napi::Number::New(env, norm_); }

 private:
  AdamwArgs args_;
  double norm_ = 0;
};

}  // namespace

Napi::Value adamw(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Adamw>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
