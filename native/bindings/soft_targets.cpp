#include "core/soft_targets.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class SoftTargets final : public Operation {
 public:
  SoftTargets(Napi::Env env, const Napi::Value& context, const Napi::Value& teacher,
              const Napi::Value& centroids, const Napi::Value& temperature)
      : Operation(env, context) {
    args_.teacher = parse(teacher, "teacher");
    args_.centroids = parse(centroids, "centroids");
    args_.temperature = numberOf(temperature, "temperature");
    first_ = heldCount();
    args_.softCentroids = hold(newArray<float>(env, args_.teacher.count() * args_.teacher.dim())).Data();
    args_.entropies = hold(newArray<float>(env, args_.teacher.count())).Data();
  }

 protected:
  Status run(const Context& context) override { return softTargets(backend(), context, args_); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("softCentroids", held(first_));
    object.Set("entropies", held(first_ + 1));
    return object;
  }

 private:
  Rows parse(const Napi::Value& value, const char* name) {
    ParsedRows parsed = rowsOf(value, name);
    for (const Napi::Object& array : parsed.arrays) hold(array);
    return std::move(parsed.rows);
  }

  SoftTargetsArgs args_;
  size_t first_ = 0;  // of the results, among what is held
};

}  // namespace

Napi::Value softTargets(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<SoftTargets>(info.Env(), info[0], info[1], info[2], info[3]));
}

}  // namespace clipcid::bindings
