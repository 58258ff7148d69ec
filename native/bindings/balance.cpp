#include "core/balance.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/keep.h"
#include "bindings/operation.h"

namespace clipcid::bindings {

KeepPolicy::Kind keepOf(const Napi::Value& value) {
  using Kind = KeepPolicy::Kind;
  const std::string text = stringOf(value, "keep");
  if (text == "central") return Kind::kCentral;
  if (text == "easy") return Kind::kEasy;
  if (text == "hard") return Kind::kHard;
  if (text == "first") return Kind::kFirst;
  if (text == "best") return Kind::kBest;
  if (text == "random") return Kind::kRandom;
  throwExpected(value.Env(), "'central', 'easy', 'hard', 'first', 'best' or 'random'", "keep");
}

namespace {

// Copied: the edges are put together from three arrays.
std::vector<Edge> forestOf(const Napi::Value& value, int64_t rows) {
  const Napi::Object object = objectOf(value, "forest");
  const auto dots = arrayOf<double>(object.Get("dots"), "forest.dots", 0);
  const auto count = static_cast<int64_t>(dots.ElementLength());
  const auto first = arrayOf<int32_t>(object.Get("first"), "forest.first", count);
  const auto second = arrayOf<int32_t>(object.Get("second"), "forest.second", count);
  std::vector<Edge> edges(static_cast<size_t>(count));
  for (size_t at = 0; at < edges.size(); ++at) {
    edges[at] = {dots.Data()[at], first.Data()[at], second.Data()[at]};
    const auto outside = [&](int32_t row) { return row < 0 || row >= rows; };
    if (outside(edges[at].first) || outside(edges[at].second))
      throwExpected(value.Env(), "edges between the rows", "forest");
  }
  return edges;
}

class Balance final : public Operation {
 public:
  Balance(Napi::Env env, const Napi::Value& context, const Napi::Value& rowsValue,
          const Napi::Value& optionsValue)
      : Operation(env, context), output_(Napi::Persistent(Napi::Object::New(env))) {
    args_.rows = holdRows(rowsValue, "rows");
    const int64_t count = args_.rows.count();
    const Napi::Object options = objectOf(optionsValue, "options");
    args_.threshold = numberOf(options.Get("threshold"), "threshold");
    args_.keepPolicy.kind = keepOf(options.Get("keep"));
    if (args_.keepPolicy.kind == KeepPolicy::Kind::kBest)
      args_.keepPolicy.scores = hold(arrayOf<double>(options.Get("scores"), "scores", count)).Data();
    const Napi::Value leastScore = options.Get("leastScore");
    if (!leastScore.IsUndefined()) args_.leastScore = numberOf(leastScore, "leastScore");
    const Napi::Value forest = options.Get("forest");
    if (!forest.IsUndefined()) {
      forest_ = forestOf(forest, count);
      args_.forest = &forest_;
    }
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
  Status run(const Context& context) override {
    args_.keepPolicy.seed = context.seed;
    return balance(backend(), context, args_, &result_);
  }

  Napi::Value result(Napi::Env env) override {
    Napi::Object output = output_.Value();
    output.Set("groups", static_cast<double>(result_.groups));
    output.Set("edges", static_cast<double>(result_.edges));
    output.Set("plan", result_.plan);
    auto faults = newArray<int32_t>(env, static_cast<int64_t>(result_.faults.size()));
    std::copy(result_.faults.begin(), result_.faults.end(), faults.Data());
    output.Set("faults", faults);
    return output;
  }

 private:
  BalanceArgs args_;
  std::vector<Edge> forest_;
  BalanceResult result_;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value balance(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Balance>(info.Env(), info[0], info[1], info[2]));
}

}  // namespace clipcid::bindings
