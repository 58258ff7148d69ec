#include "core/semdedup.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

constexpr int64_t kMost = 0x7fffffff;

SemdedupOrder orderOf(const Napi::Value& value) {
  const std::string text = stringOf(value, "order");
  if (text == "hard") return SemdedupOrder::kHard;
  if (text == "easy") return SemdedupOrder::kEasy;
  if (text == "random") return SemdedupOrder::kRandom;
  throwExpected(value.Env(), "'hard', 'easy' or 'random'", "order");
}

class Semdedup final : public Operation {
 public:
  Semdedup(Napi::Env env, const Napi::Value& context, const Napi::Value& rowsValue,
           const Napi::Value& optionsValue)
      : Operation(env, context), output_(Napi::Persistent(Napi::Object::New(env))) {
    args_.rows = holdRows(rowsValue, "rows");
    const int64_t count = args_.rows.count();
    const Napi::Object options = objectOf(optionsValue, "options");
    args_.clusters = integerOf(options.Get("clusters"), "clusters", 1, kMost);
    args_.centroids =
        hold(arrayOf<float>(options.Get("centroids"), "centroids", args_.clusters * args_.rows.dim())).Data();
    args_.labels = hold(arrayOf<int32_t>(options.Get("labels"), "labels", count)).Data();
    args_.threshold = numberOf(options.Get("threshold"), "threshold");
    args_.order = orderOf(options.Get("order"));
    auto keep = newArray<uint8_t>(env, count);
    auto duplicateOf = newArray<int32_t>(env, count);
    auto similarity = newArray<float>(env, count);
    args_.keep = keep.Data();
    args_.duplicateOf = duplicateOf.Data();
    args_.similarity = similarity.Data();
    Napi::Object output = output_.Value();
    output.Set("keep", keep);
    output.Set("duplicateOf", duplicateOf);
    output.Set("similarity", similarity);
  }

 protected:
  Status run(const Context& context) override { return semdedup(backend(), context, args_, &result_); }

  Napi::Value result(Napi::Env) override {
    output_.Value().Set("pairs", static_cast<double>(result_.pairs));
    return output_.Value();
  }

 private:
  SemdedupArgs args_;
  SemdedupResult result_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value semdedup(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Semdedup>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
