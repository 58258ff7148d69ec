#include "core/balance.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class Balance final : public Operation {
 public:
  Balance(Napi::Env env, const Napi::Value& context, const Napi::Value& rowsValue,
          const Napi::Value& threshold)
      : Operation(env, context), output_(Napi::Persistent(Napi::Object::New(env))) {
    args_.rows = holdRows(rowsValue, "rows");
    args_.threshold = numberOf(threshold, "threshold");
    const int64_t count = args_.rows.count();
    auto labels = newArray<int32_t>(env, count);
    auto keep = newArray<uint8_t>(env, count);
    auto centrality = newArray<float>(env, count);
    args_.labels = labels.Data();
    args_.keep = keep.Data();
    args_.centrality = centrality.Data();
    Napi::Object output = output_.Value();
    output.Set("labels", labels);
    output.Set("keep", keep);
    output.Set("centrality", centrality);
  }

 protected:
  Status run(const Context& context) override { return balance(backend(), context, args_, &result_); }

  Napi::Value result(Napi::Env env) override {
    Napi::Object output = output_.Value();
    output.Set("groups", static_cast<double>(result_.groups));
    output.Set("edges", static_cast<double>(result_.edges));
    auto faults = newArray<int32_t>(env, static_cast<int64_t>(result_.faults.size()));
    std::copy(result_.faults.begin(), result_.faults.end(), faults.Data());
    output.Set("faults", faults);
    return output;
  }

 private:
  BalanceArgs args_;
  BalanceResult result_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value balance(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Balance>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
