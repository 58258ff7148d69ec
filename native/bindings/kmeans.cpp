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
    args_.movement = numberOf(options.Get("movement"), "movement");
    args_.runs = integerOf(options.Get("runs"), "runs", 1, kMost);
    const Napi::Value weights = options.Get("weights");
    if (!weights.IsUndefined()) args_.weights = hold(arrayOf<float>(weights, "weights", rows)).Data();
    const int64_t centres = args_.batch * args_.clusters;
    const Napi::Value given = options.Get("centroids");
    if (!given.IsUndefined()) {
      args_.init = KmeansInit::kGiven;
      args_.given = hold(arrayOf<float>(given, "centroids", centres * dim)).Data();
    } else {
      const std::string init = stringOf(options.Get("init"), "init");
      if (init == "random") args_.init = KmeansInit::kRandom;
      if (init == "k-means||") args_.init = KmeansInit::kParallel;
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

class Predict final : public Operation {
 public:
  Predict(Napi::Env env, const Napi::CallbackInfo& info)
      : Operation(env, info[0]), output_(Napi::Persistent(Napi::Object::New(env))) {
    args_.rows = holdRows(info[1], "rows");
    const Napi::Object options = objectOf(info[3], "options");
    const int64_t rows = args_.rows.count(), dim = args_.rows.dim();
    args_.batch = integerOf(options.Get("batch"), "batch", 1, kMost);
    if (rows % args_.batch != 0) throwExpected(env, "a divisor of the number of rows", "batch");
    args_.clusters = integerOf(options.Get("clusters"), "clusters", 1, kMost);
    args_.spherical = booleanOf(options.Get("spherical"), "spherical");
    // Neither factor is over 2^31, nor is the width over 2^20.
    args_.centroids = hold(arrayOf<float>(info[2], "centroids", args_.batch * args_.clusters * dim)).Data();
    auto labels = newArray<int32_t>(env, rows);
    auto distances = newArray<float>(env, rows);
    args_.labels = labels.Data();
    args_.distances = distances.Data();
    Napi::Object output = output_.Value();
    output.Set("labels", labels);
    output.Set("distances", distances);
  }

 protected:
  Status run(const Context& context) override { return predict(backend(), context, args_); }
  Napi::Value result(Napi::Env) override { return output_.Value(); }

 private:
  PredictArgs args_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value kmeans(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Kmeans>(info.Env(), info[0], info[1], info[2]));
}

Napi::Value predict(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Predict>(info.Env(), info));
}

}  // namespace clipcid::bindings
