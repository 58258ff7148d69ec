#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"
#include "core/span.h"

namespace clipcid::bindings {
namespace {

class Forest final : public Operation {
 public:
  Forest(Napi::Env env, const Napi::Value& context, const Napi::Value& rowsValue,
         const Napi::Value& optionsValue)
      : Operation(env, context) {
    args_.rows = holdRows(rowsValue, "rows");
    const Napi::Object options = objectOf(optionsValue, "options");
    args_.floor = numberOf(options.Get("floor"), "floor");
    const Napi::Value merges = options.Get("merges");
    if (!merges.IsUndefined()) args_.merges = integerOf(merges, "merges", 1, int64_t{1} << 31);
  }

 protected:
  Status run(const Context& context) override { return spanningForest(backend(), context, args_, &result_); }

  Napi::Value result(Napi::Env env) override {
    const auto count = static_cast<int64_t>(result_.edges.size());
    auto first = newArray<int32_t>(env, count);
    auto second = newArray<int32_t>(env, count);
    auto dots = newArray<double>(env, count);
    for (int64_t at = 0; at < count; ++at) {
      const Edge& edge = result_.edges[static_cast<size_t>(at)];
      first.Data()[at] = edge.first;
      second.Data()[at] = edge.second;
      dots.Data()[at] = edge.dot;
    }
    auto faults = newArray<int32_t>(env, static_cast<int64_t>(result_.faults.size()));
    std::copy(result_.faults.begin(), result_.faults.end(), faults.Data());
    Napi::Object output = Napi::Object::New(env);
    output.Set("first", first);
    output.Set("second", second);
    output.Set("dots", dots);
    output.Set("faults", faults);
    output.Set("floor", result_.floor);
    output.Set("plan", result_.plan);
    return output;
  }

 private:
  ForestArgs args_;
  ForestResult result_;
};

}  // namespace

Napi::Value forest(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Forest>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
