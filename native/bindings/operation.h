// The promise worker: every asynchronous call of the addon is one Operation.
//
// An operation is built on the JavaScript thread, which copies all arguments into plain members; then `run`
// works on a thread of its own (never one of libuv's, which sharp needs) and touches neither V8 nor N-API;
// then `result` makes the value to resolve to, on the JavaScript thread again. It lives until its thread-safe
// function is finalised, which also joins the thread; so an environment that is torn down (a worker
// terminated, process.exit) cancels the work and waits for it to let go.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "bindings/pin.h"
#include "clipcid/backend.h"

namespace clipcid::bindings {

class Operation {
 public:
  virtual ~Operation() = default;

  // Reads a NativeContext. Throws what a caller's mistake is to throw.
  Operation(Napi::Env env, const Napi::Value& context);

  // Starts the work. The promise settles on the JavaScript thread.
  static Napi::Promise start(Napi::Env env, std::unique_ptr<Operation> operation);

 protected:
  virtual Status run(const Context& context) = 0;
  virtual Napi::Value result(Napi::Env env) = 0;

  // What to do on the JavaScript thread after `notify`, which the work may call from any of its threads.
  virtual void notified(Napi::Env) {}
  void notify() { post(kNotify); }

  // Whether the process stays up for this operation; it does at first.
  void keepAwake(Napi::Env env, bool awake);

  // Keeps a value alive until the operation is gone, a typed array's memory with it.
  template <typename T>
  T hold(T value) {
    keep(value);
    return value;
  }
  // The index-th value held, to be resolved to or made part of what is.
  Napi::Value held(size_t index) const { return held_[index].Value(); }
  size_t heldCount() const { return held_.size(); }
  // NativeRows for this operation's device, their memory held (or copied, where it can't be).
  Rows holdRows(const Napi::Value& value, const char* name);

  Backend& backend() const { return *backend_; }

 private:
  static constexpr intptr_t kSettle = 1;
  static constexpr intptr_t kReport = 2;
  static constexpr intptr_t kNotify = 3;

  // False where the memory may be freed by a transfer.
  bool keep(const Napi::Value& value);
  void work();
  void post(intptr_t what);
  void settle(Napi::Env env);
  void report(Napi::Env env);
  static void onCall(napi_env env, napi_value function, void* context, void* data);
  static void onFinalize(napi_env env, void* data, void* hint);

  Context context_;
  Backend* backend_ = nullptr;
  std::vector<Napi::ObjectReference> held_;
  Pins pins_;
  std::vector<std::unique_ptr<char[]>> copies_;
  Napi::FunctionReference progress_;
  Napi::Promise::Deferred deferred_;
  napi_threadsafe_function function_ = nullptr;
  std::thread thread_;
  Status status_;
  int32_t shutdown_ = 0;
  std::atomic<bool> closed_ =
      false;  // the working thread's: N-API refused a call, the function may not be used again
  Napi::ObjectReference thrown_;  // what the progress callback threw
  std::mutex mutex_;              // of the three below
  double done_ = 0, total_ = 0;
  int64_t reported_ = 0;  // milliseconds of a steady clock
};

// An Error with `code`, or a RangeError for a caller's mistake.
Napi::Error makeError(Napi::Env env, const Status& status);

}  // namespace clipcid::bindings
