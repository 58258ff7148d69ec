#include "core/nearest.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

// What both searches give back.
class Search : public Operation {
 protected:
  Search(Napi::Env env, const Napi::Value& context)
      : Operation(env, context), output_(Napi::Persistent(Napi::Object::New(env))) {}

  template <typename Args>
  void allocate(Napi::Env env, int64_t queries, Args* args) {
    auto indices = newArray<int32_t>(env, queries * args->k);
    auto scores = newArray<float>(env, queries * args->k);
    args->indices = indices.Data();
    args->scores = scores.Data();
    args->plan = &plan_;
    Napi::Object output = output_.Value();
    output.Set("indices", indices);
    output.Set("scores", scores);
  }

  Napi::Value result(Napi::Env) override {
    Napi::Object output = output_.Value();
    output.Set("plan", plan_);
    return output;
  }

 private:
  Napi::ObjectReference output_;
  std::string plan_;
};

class Nearest final : public Search {
 public:
  Nearest(Napi::Env env, const Napi::CallbackInfo& info) : Search(env, info[0]) {
    args_.queries = holdRows(info[1], "queries");
    args_.base = holdRows(info[2], "base");
    // Bounds what is allocated.
    args_.k = integerOf(info[3], "k", 1, args_.base.count());
    args_.cosine = stringOf(info[4], "metric") == "cosine";
    allocate(env, args_.queries.count(), &args_);
  }

 protected:
  Status run(const Context& context) override { return nearest(backend(), context, args_); }

 private:
  NearestArgs args_;
};

class NearestProduct final : public Search {
 public:
  NearestProduct(Napi::Env env, const Napi::CallbackInfo& info) : Search(env, info[0]) {
    args_.images = holdRows(info[1], "images");
    args_.texts = holdRows(info[2], "texts");
    const Napi::Object options = objectOf(info[3], "options");
    args_.self = options.Get("queryImages").IsUndefined();
    if (!args_.self) {
      args_.queryImages = holdRows(options.Get("queryImages"), "queryImages");
      args_.queryTexts = holdRows(options.Get("queryTexts"), "queryTexts");
    }
    args_.k = integerOf(options.Get("k"), "k", 1, args_.images.count());
    args_.cutoff = numberOf(options.Get("cutoff"), "cutoff");
    allocate(env, args_.self ? args_.images.count() : args_.queryImages.count(), &args_);
  }

 protected:
  Status run(const Context& context) override { return nearestProduct(backend(), context, args_); }

 private:
  NearestProductArgs args_;
};

}  // namespace

Napi::Value nearest(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Nearest>(info.Env(), info));
}

Napi::Value nearestProduct(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<NearestProduct>(info.Env(), info));
}

}  // namespace clipcid::bindings
