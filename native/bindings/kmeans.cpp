#include "core/kmeans.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

constexpr int64_t kMost = 0x7fffffff;

class Kmeans final : public Operation {
 public:
  Kmeans(Napi::Env env, const Napi::Value& context, const Napi::Value& rowsValue,
         const Napi::Value& optionsValue)
      : Operation(env, context), output_(Napi::Persistent(Napi::Object::New(env))) {
    args_.rows = holdRows(rowsValue, "rows");
    const Napi::Object options = objectOf(optionsValue, "options");
    const int64_t rows = args_.rows.count(), dim = args_.rows.dim();
    if (!options.Get("batch").IsUndefined()) args_.batch = integerOf(options.Get("batch"), "batch", 1, kMost);
    if (rows % args_.batch != 0) throwExpected(env, "a divisor of the number of rows", "batch");
    // Bounds what is allocated below.
    args_.clusters = integerOf(options.Get("clusters"), "clusters", 1, rows / args_.batch);
    args_.spherical = booleanOf(options.Get("spherical"), "spherical");
    args_.maxIterations = integerOf(options.Get("maxIterations"), "maxIterations", 0, kMost);
    args_.tolerance = numberOf(options.Get("tolerance"), "tolerance");
    const int64_t centres = args_.batch * args_.clusters;
    const Napi::Value given = options.Get("centroids");
    if (!given.IsUndefined()) {
      args_.init = KmeansInit::kGiven;
      args_.given = hold(arrayOf<float>(given, "centroids", centres * dim)).Data();
    } else if (stringOf(options.Get("init"), "init") == "random") {
      args_.init = KmeansInit::kRandom;
    }

    auto centroids = newArray<float>(env, centres * dim);
    auto labels = newArray<int32_t>(env, rows);
    auto counts = newArray<int32_t>(env, centres);
    auto inertia = newArray<double>(env, args_.batch);
    auto iterations = newArray<int32_t>(env, args_.batch);
    args_.centroids = centroids.Data();
    args_.labels = labels.Data();
    args_.counts = counts.Data();
    args_.inertia = inertia.Data();
    args_.iterations = iterations.Data();
    Napi::Object output = output_.Value();
    output.Set("centroids", centroids);
    output.Set("labels", labels);
    output.Set("counts", counts);
    output.Set("inertia", inertia);
    output.Set("iterations", iterations);
  }

 protected:
  Status run(const Context& context) override { return kmeans(backend(), context, args_); }
  Napi::Value result(Napi::Env) override { return output_.Value(); }

 private:
  KmeansArgs args_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value kmeans(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Kmeans>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
