#include "core/estimate.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class Estimate final : public Operation {
 public:
  explicit Estimate(const Napi::CallbackInfo& info) : Operation(info.Env(), info[0]) {
    args_.rows = holdRows(info[1], "rows");
    args_.threshold = numberOf(info[2], "threshold");
    args_.work = numberOf(info[3], "work");
  }

 protected:
  Status run(const Context& context) override { return estimateBalance(backend(), context, args_, &result_); }

  Napi::Value result(Napi::Env env) override {
    Napi::Object output = Napi::Object::New(env);
    output.Set("pairs", result_.pairs);
    output.Set("low", result_.low);
    output.Set("high", result_.high);
    output.Set("seconds", result_.seconds);
    output.Set("memory", result_.memory);
    output.Set("queries", static_cast<double>(result_.queries));
    output.Set("keys", static_cast<double>(result_.keys));
    output.Set("plan", result_.plan);
    return output;
  }

 private:
  EstimateArgs args_;
  EstimateResult result_;
};

}  // namespace

Napi::Value estimate(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Estimate>(info));
}

}  // namespace clipcid::bindings
