#include "core/nearest.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class Nearest final : public Operation {
 public:
  Nearest(Napi::Env env, const Napi::CallbackInfo& info)
      : Operation(env, info[0]), output_(Napi::Persistent(Napi::Object::New(env))) {
    args_.queries = holdRows(info[1], "queries");
    args_.base = holdRows(info[2], "base");
    // Bounds what is allocated below.
    args_.k = integerOf(info[3], "k", 1, args_.base.count());
    args_.cosine = stringOf(info[4], "metric") == "cosine";
    const int64_t count = args_.queries.count() * args_.k;
    auto indices = newArray<int32_t>(env, count);
    auto scores = newArray<float>(env, count);
    args_.indices = indices.Data();
    args_.scores = scores.Data();
    Napi::Object output = output_.Value();
    output.Set("indices", indices);
    output.Set("scores", scores);
  }

 protected:
  Status run(const Context& context) override { return nearest(backend(), context, args_); }
  Napi::Value result(Napi::Env) override { return output_.Value(); }

 private:
  NearestArgs args_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value nearest(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Nearest>(info.Env(), info));
}

}  // namespace clipcid::bindings
