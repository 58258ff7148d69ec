// Pairs as a stream. The search fills a small buffer and waits while it is full; JavaScript empties it when it
// likes to, and is rung up when there is something in it again.
#include "core/pairs.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

constexpr int64_t kMostPairs = int64_t{1} << 24;

class PairBuffer {
 public:
  explicit PairBuffer(size_t capacity) : capacity_(capacity) {}

  // On the search's threads. Appends all, waiting for room as often as it takes; `ring` is called when an empty
  // buffer got something. Fails when the reader closed it or the call was stopped.
  template <typename Ring>
  Status put(const Context& context, const Pair* pairs, const double* dots, size_t count, Ring&& ring) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (count > 0) {
      // Who closes it wakes us; an abort and the end of the environment only set a flag.
      while (!closed_ && !context.cancelled() && pairs_.size() == capacity_) {
        room_.wait_for(lock, std::chrono::milliseconds(20));
      }
      if (closed_ || context.cancelled()) return Status::aborted();
      const bool empty = pairs_.empty();
      const size_t fits = std::min(count, capacity_ - pairs_.size());
      pairs_.insert(pairs_.end(), pairs, pairs + fits);
      dots_.insert(dots_.end(), dots, dots + fits);
      pairs += fits;
      dots += fits;
      count -= fits;
      if (empty) ring();
    }
    return {};
  }

  // On the JavaScript thread: all that is there.
  void take(std::vector<Pair>* pairs, std::vector<double>* dots) {
    pairs->clear();
    dots->clear();
    std::lock_guard<std::mutex> lock(mutex_);
    pairs->swap(pairs_);
    dots->swap(dots_);
    room_.notify_all();
  }

  void close() {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    room_.notify_all();
  }

 private:
  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::vector<Pair> pairs_;
  std::vector<double> dots_;
  bool closed_ = false;
};

class Pairs;

// What the operation and JavaScript's end of the stream share; the stream may outlive the operation.
struct Link {
  explicit Link(size_t capacity) : buffer(capacity) {}
  PairBuffer buffer;
  Pairs* operation = nullptr;  // the JavaScript thread's; null when it is gone
};

class Pairs final : public Operation {
 public:
  Pairs(const Napi::CallbackInfo& info, std::shared_ptr<Link> link)
      : Operation(info.Env(), info[0]), link_(std::move(link)) {
    args_.rows = holdRows(info[1], "rows");
    args_.hasBase = !info[2].IsUndefined();
    if (args_.hasBase) args_.base = holdRows(info[2], "base");
    args_.threshold = numberOf(info[3], "threshold");
    if (!info[5].IsFunction()) throwExpected(info.Env(), "a function", "ready");
    ready_ = Napi::Persistent(info[5].As<Napi::Function>());
    link_->operation = this;
  }
  ~Pairs() override { link_->operation = nullptr; }

  using Operation::keepAwake;

 protected:
  Status run(const Context& context) override {
    args_.sink = [&](const Pair* pairs, const double* dots, size_t count) {
      return link_->buffer.put(context, pairs, dots, count, [this] { notify(); });
    };
    args_.plan = &plan_;
    return findPairs(backend(), context, args_);
  }

  void notified(Napi::Env) override { ready_.Call({}); }

  Napi::Value result(Napi::Env env) override { return Napi::String::New(env, plan_); }

 private:
  std::shared_ptr<Link> link_;
  PairsArgs args_;
  Napi::FunctionReference ready_;
  std::string plan_;
};

// JavaScript's end, called as methods of the object that `pairs` returns.
Napi::Value take(const Napi::CallbackInfo& info) {
  auto& link = *static_cast<std::shared_ptr<Link>*>(info.Data());
  const Napi::Env env = info.Env();
  std::vector<Pair> pairs;
  std::vector<double> dots;
  link->buffer.take(&pairs, &dots);
  if (pairs.empty()) return env.Undefined();
  const auto count = static_cast<int64_t>(pairs.size());
  auto first = newArray<int32_t>(env, count);
  auto second = newArray<int32_t>(env, count);
  auto cosines = newArray<double>(env, count);
  for (size_t at = 0; at < pairs.size(); ++at) {
    first[at] = pairs[at].first;
    second[at] = pairs[at].second;
  }
  std::copy(dots.begin(), dots.end(), cosines.Data());
  Napi::Object batch = Napi::Object::New(env);
  batch.Set("first", first);
  batch.Set("second", second);
  batch.Set("dots", cosines);
  return batch;
}

Napi::Value close(const Napi::CallbackInfo& info) {
  (*static_cast<std::shared_ptr<Link>*>(info.Data()))->buffer.close();
  return info.Env().Undefined();
}

Napi::Value keepAwake(const Napi::CallbackInfo& info) {
  Pairs* operation = (*static_cast<std::shared_ptr<Link>*>(info.Data()))->operation;
  if (operation != nullptr) operation->keepAwake(info.Env(), booleanOf(info[0], "awake"));
  return info.Env().Undefined();
}

}  // namespace

Napi::Value pairs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto link = std::make_shared<Link>(static_cast<size_t>(integerOf(info[4], "capacity", 1, kMostPairs)));
  auto operation = std::make_unique<Pairs>(info, link);
  Napi::Object stream = Napi::Object::New(env);
  const auto method = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    auto* data = new std::shared_ptr<Link>(link);
    Napi::Function made = Napi::Function::New(env, function, name, data);
    made.AddFinalizer([](Napi::Env, std::shared_ptr<Link>* held) { delete held; }, data);
    stream.Set(name, made);
  };
  method("take", take);
  method("close", close);
  method("keepAwake", keepAwake);
  stream.Set("finished", Operation::start(env, std::move(operation)));
  return stream;
}

}  // namespace clipcid::bindings
