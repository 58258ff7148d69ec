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

    readAdamw(optionsValue, &args_);
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

void readAdamw(const Napi::Value& value, AdamwArgs* args) {
  const Napi::Object options = objectOf(value, "options");
  const auto number = [&](const char* name) { return numberOf(options.Get(name), name); };
  args->step = integerOf(options.Get("step"), "step", 1, (int64_t{1} << 53) - 1);
  args->rate = number("rate");
  args->decay = number("decay");
  args->beta1 = number("beta1");
  args->beta2 = number("beta2");
  args->epsilon = number("epsilon");
  args->clip = number("clip");
  args->emaDecay = number("emaDecay");
  const Napi::Value groups = options.Get("groups");
  if (!groups.IsArray()) throwExpected(value.Env(), "an array", "groups");
  const auto list = groups.As<Napi::Array>();
  for (uint32_t index = 0; index < list.Length(); ++index) {
    const Napi::Object object = objectOf(list.Get(index), "groups");
    AdamwGroup group;
    group.length = integerOf(object.Get("length"), "length", 0, args->length);
    group.rate = numberOf(object.Get("rate"), "rate");
    group.decay = numberOf(object.Get("decay"), "decay");
    args->groups.push_back(group);
  }
}

Napi::Value adamw(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Adamw>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
