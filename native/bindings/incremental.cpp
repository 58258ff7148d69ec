#include "core/incremental.h"

#include <algorithm>

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/keep.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class Incremental final : public Operation {
 public:
  explicit Incremental(const Napi::CallbackInfo& info)
      : Operation(info.Env(), info[0]), output_(Napi::Persistent(Napi::Object::New(info.Env()))) {
    BalanceArgs& args = args_.balance;
    args.rows = holdRows(info[1], "rows");
    args_.stored = holdRows(info[2], "stored");
    const int64_t count = args.rows.count();
    const Napi::Object options = objectOf(info[3], "options");
    args.threshold = numberOf(options.Get("threshold"), "threshold");
    args.keepPolicy.kind = keepOf(options.Get("keep"));
    if (args.keepPolicy.kind == KeepPolicy::Kind::kBest)
      args.keepPolicy.scores = hold(arrayOf<double>(options.Get("scores"), "scores", count)).Data();
    const Napi::Value leastScore = options.Get("leastScore");
    if (!leastScore.IsUndefined()) args.leastScore = numberOf(leastScore, "leastScore");
    const Napi::Value groups = options.Get("groups");
    if (!groups.IsUndefined())
      args_.groups = hold(arrayOf<int32_t>(groups, "groups", args_.stored.count())).Data();
    args.labels = output<int32_t>("labels", count);
    args.keep = output<uint8_t>("keep", count);
    args.centrality = output<float>("centrality", count);
    args_.duplicateOf = output<int32_t>("duplicateOf", count);
    args_.similarity = output<float>("similarity", count);
  }

 protected:
  Status run(const Context& context) override {
    args_.balance.keepPolicy.seed = context.seed;
    return balanceAgainst(backend(), context, args_, &result_);
  }

  Napi::Value result(Napi::Env) override {
    Napi::Object object = output_.Value();
    object.Set("groups", static_cast<double>(result_.balance.groups));
    object.Set("edges", static_cast<double>(result_.balance.edges));
    object.Set("plan", result_.balance.plan);
    object.Set("duplicates", static_cast<double>(result_.duplicates));
    object.Set("links", static_cast<double>(result_.links));
    list("faults", result_.balance.faults);
    list("bridges", result_.bridges);
    list("storedFaults", result_.storedFaults);
    return object;
  }

 private:
  template <typename T>
  T* output(const char* name, int64_t length) {
    auto array = newArray<T>(output_.Env(), length);
    output_.Value().Set(name, array);
    return array.Data();
  }

  void list(const char* name, const std::vector<int32_t>& values) {
    std::copy(values.begin(), values.end(), output<int32_t>(name, static_cast<int64_t>(values.size())));
  }

  IncrementalArgs args_;
  IncrementalResult result_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value balanceAgainst(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Incremental>(info));
}

}  // namespace clipcid::bindings
