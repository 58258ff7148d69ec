#include "core/loss.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/engine.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

constexpr int64_t kMostRows = (int64_t{1} << 31) - 1;
constexpr int64_t kMostDim = 1 << 20;

class Loss final : public Operation {
 public:
  Loss(Napi::Env env, const Napi::Value& context, const Napi::Value& value) : Operation(env, context) {
    const Napi::Object inputs = objectOf(value, "inputs");
    args_.batch = integerOf(inputs.Get("batch"), "batch", 1, kMostRows);
    args_.dim = integerOf(inputs.Get("dim"), "dim", 1, kMostDim);
    const Napi::Value engine = inputs.Get("engine");
    if (!engine.IsUndefined()) engine_ = engineOf(engine);
    device_ = stringOf(objectOf(context, "context").Get("device"), "device");
    args_.image = matrix(inputs, "image", args_.batch, args_.dim);
    args_.text = matrix(inputs, "text", args_.batch, args_.dim);
    const Napi::Value teacherDim = inputs.Get("teacherDim");
    args_.teacherDim =
        teacherDim.IsUndefined() ? args_.dim : integerOf(teacherDim, "teacherDim", 1, kMostDim);
    args_.teacherImage = optional(inputs, "teacherImage", args_.batch * args_.teacherDim);
    args_.teacherText = optional(inputs, "teacherText", args_.batch * args_.teacherDim);
    args_.imageProjection = matrix(inputs, "imageProjection", args_.dim, args_.teacherDim);
    args_.textProjection = matrix(inputs, "textProjection", args_.dim, args_.teacherDim);

    const Napi::Value clip = inputs.Get("clip");
    if (!clip.IsUndefined()) {
      const Napi::Object object = objectOf(clip, "clip");
      args_.clipWeight = numberOf(object.Get("weight"), "weight");
      args_.clipLogScale = numberOf(object.Get("logScale"), "logScale");
    }
    const Napi::Value cluster = inputs.Get("cluster");
    if (!cluster.IsUndefined()) readCluster(objectOf(cluster, "cluster"));
    const Napi::Value instance = inputs.Get("instance");
    if (!instance.IsUndefined()) readInstance(objectOf(instance, "instance"));

    output(env, "image", args_.image, args_.batch, args_.dim, &result_.image);
    output(env, "text", args_.text, args_.batch, args_.dim, &result_.text);
    if (args_.imageProjection)
      output(env, "imageProjection", args_.imageProjection, args_.dim, args_.teacherDim,
             &result_.imageProjection);
    if (args_.textProjection)
      output(env, "textProjection", args_.textProjection, args_.dim, args_.teacherDim,
             &result_.textProjection);
    if (args_.learned)
      output(env, "centroids", args_.centroids, args_.clusters, args_.teacherDim, &result_.centroids);
  }

 protected:
  Status run(const Context& context) override {
    if (engine_) return engine_->loss(context, args_, &made_, &result_);
    return clusterInstanceLoss(backend(), context, args_, &result_);
  }

  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("total", result_.total);
    object.Set("clip", result_.clip);
    object.Set("clusterCe", result_.clusterCe);
    object.Set("clusterKl", result_.clusterKl);
    object.Set("instance", result_.instance);
    object.Set("clipLogScale", result_.clipLogScale);
    object.Set("instanceLogScale", result_.instanceLogScale);
    for (const auto& [name, index] : outputs_) object.Set(name, held(index));
    for (size_t i = 0; i < made_.size(); ++i)
      object.Set(madeNames_[i], wrapMatrix(env, device_, std::move(made_[i].matrix)));
    return object;
  }

 private:
  const float* floats(const Napi::Object& object, const char* name, int64_t length) {
    return hold(arrayOf<float>(object.Get(name), name, length)).Data();
  }

  const float* optional(const Napi::Object& object, const char* name, int64_t length) {
    return object.Get(name).IsUndefined() ? nullptr : floats(object, name, length);
  }

  // The host's, or a matrix that stays with the engine; nothing where it is undefined.
  LossMatrix matrix(const Napi::Object& object, const char* name, int64_t rows, int64_t dim) {
    const Napi::Value value = object.Get(name);
    if (value.IsUndefined()) return {};
    if (value.IsTypedArray()) return floats(object, name, rows * dim);
    if (!engine_) throwExpected(value.Env(), "a typed array where there is no engine", name);
    matrices_.push_back(unwrapMatrix(value, name));
    return matrices_.back().get();
  }

  // The gradient of a matrix goes where that is.
  void output(Napi::Env env, const char* name, const LossMatrix& of, int64_t rows, int64_t dim,
              LossGradient* to) {
    if (of.device != nullptr) {
      if (!engine_) throwExpected(env, "no gradient of a matrix on a device", name);
      made_.push_back({to, rows, dim});
      madeNames_.push_back(name);
      return;
    }
    outputs_.emplace_back(name, heldCount());
    *to = hold(newArray<float>(env, rows * dim)).Data();
  }

  void readCluster(const Napi::Object& object) {
    args_.clusters = integerOf(object.Get("clusters"), "clusters", 1, kMostRows);
    const Napi::Value centroids = object.Get("centroids");
    if (centroids.IsTypedArray()) {
      args_.centroids = floats(object, "centroids", args_.clusters * args_.teacherDim);
    } else {
      matrices_.push_back(unwrapMatrix(centroids, "centroids"));
      args_.centroids = matrices_.back().get();
    }
    // Indices are copied: they are checked before they lead into other buffers, and must not change in
    // between.
    const Napi::Int32Array labels = arrayOf<int32_t>(object.Get("labels"), "labels", args_.batch);
    labels_.assign(labels.Data(), labels.Data() + args_.batch);
    args_.labels = labels_.data();
    const Napi::Value sample = object.Get("sample");
    if (!sample.IsUndefined()) {
      const Napi::Int32Array indices = arrayOf<int32_t>(sample, "sample", 1);
      sample_.assign(indices.Data(), indices.Data() + indices.ElementLength());
      args_.sample = sample_.data();
      args_.sampleCount = static_cast<int64_t>(sample_.size());
    }
    args_.ceWeight = numberOf(object.Get("ceWeight"), "ceWeight");
    args_.klWeight = numberOf(object.Get("klWeight"), "klWeight");
    args_.temperature = numberOf(object.Get("temperature"), "temperature");
    args_.teacherTemperature = numberOf(object.Get("teacherTemperature"), "teacherTemperature");
    args_.softCentroids = optional(object, "softCentroids", args_.batch * args_.teacherDim);
    args_.entropies = optional(object, "entropies", args_.batch);
    args_.learned = booleanOf(object.Get("learned"), "learned");
  }

  void readInstance(const Napi::Object& object) {
    args_.instanceWeight = numberOf(object.Get("weight"), "weight");
    args_.instanceLogScale = numberOf(object.Get("logScale"), "logScale");
    const std::string pairing = stringOf(object.Get("pairing"), "pairing");
    if (pairing == "same") {
      args_.pairing = Pairing::kSame;
    } else if (pairing == "cross") {
      args_.pairing = Pairing::kCross;
    } else if (pairing == "both") {
      args_.pairing = Pairing::kBoth;
    } else {
      throwExpected(object.Env(), "'same', 'cross' or 'both'", "pairing");
    }
  }

  LossArgs args_;
  LossResult result_;
  std::vector<int32_t> labels_, sample_;
  std::shared_ptr<Engine> engine_;  // whose matrices some are
  std::string device_;
  std::vector<std::shared_ptr<DeviceMatrix>> matrices_;
  std::vector<std::pair<const char*, size_t>> outputs_;  // name and index of what is held
  std::vector<Engine::MadeGradient> made_;
  std::vector<const char*> madeNames_;
};

}  // namespace

Napi::Value loss(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Loss>(info.Env(), info[0], info[1]));
}

}  // namespace clipcid::bindings
