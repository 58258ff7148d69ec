#include "bindings/operation.h"

#include <cfenv>
#include <chrono>
#include <cstring>
#include <new>

#include "bindings/arguments.h"

namespace clipcid::bindings {
namespace {

constexpr int64_t kReportInterval = 100;  // milliseconds
constexpr int64_t kMostDim = 1 << 16;

int64_t now() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

const char* codeName(Code code) {
  switch (code) {
    case Code::kInvalidData:
      return "INVALID_DATA";
    case Code::kDeviceUnavailable:
      return "DEVICE_UNAVAILABLE";
    case Code::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case Code::kFileNotFound:
      return "FILE_NOT_FOUND";
    case Code::kFileFormat:
      return "FILE_FORMAT";
    case Code::kAborted:
      return "ABORTED";
    default:
      return "INTERNAL";
  }
}

Filter filterOf(const Napi::Value& value) {
  const std::string text = stringOf(value, "filter");
  if (text == "float32") return Filter::kFloat32;
  if (text == "bfloat16") return Filter::kBfloat16;
  if (text == "int8") return Filter::kInt8;
  throwExpected(value.Env(), "'float32', 'bfloat16' or 'int8'", "filter");
}

}  // namespace

Napi::Error makeError(Napi::Env env, const Status& status) {
  if (status.code == Code::kInvalidArgument) return Napi::RangeError::New(env, status.message);
  Napi::Error error = Napi::Error::New(env, status.message);
  error.Set("code", codeName(status.code));
  return error;
}

Operation::Operation(Napi::Env env, const Napi::Value& value) : deferred_(Napi::Promise::Deferred::New(env)) {
  const Napi::Object object = objectOf(value, "context");
  backend_ = &backendOf(env, object.Get("device"));
  context_.threads = static_cast<int>(integerOf(object.Get("threads"), "threads", 1, 4096));
  context_.seed = static_cast<uint64_t>(integerOf(object.Get("seed"), "seed", 0, (int64_t{1} << 53) - 1));
  const Napi::Value maxMemory = object.Get("maxMemory");
  if (!maxMemory.IsUndefined())
    context_.maxMemory = integerOf(maxMemory, "maxMemory", 1, (int64_t{1} << 53) - 1);
  const Napi::Value maxDeviceMemory = object.Get("maxDeviceMemory");
  if (!maxDeviceMemory.IsUndefined())
    context_.maxDeviceMemory = integerOf(maxDeviceMemory, "maxDeviceMemory", 1, (int64_t{1} << 53) - 1);
  const Napi::Value filter = object.Get("filter");
  if (!filter.IsUndefined()) context_.filter = filterOf(filter);
  const Napi::Value prefix = object.Get("prefix");
  if (!prefix.IsUndefined()) context_.prefix = integerOf(prefix, "prefix", 0, kMostDim);
  context_.shutdown = &shutdown_;
  const Napi::Value cancel = object.Get("cancel");
  if (!cancel.IsUndefined()) {
    const Napi::Int32Array flag = hold(arrayOf<int32_t>(cancel, "cancel", 1));
    context_.cancel = flag.Data();
  }
  const Napi::Value progress = object.Get("progress");
  if (progress.IsFunction()) {
    progress_ = Napi::Persistent(progress.As<Napi::Function>());
    context_.progress = [this](double done, double total) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        const int64_t time = now();
        if (time - reported_ < kReportInterval) return;
        reported_ = time;
        done_ = done;
        total_ = total;
      }
      post(kReport);
    };
  }
}

Rows Operation::holdRows(const Napi::Value& value, const char* name) {
  ParsedRows parsed = rowsOf(value, name);
  if (parsed.rows.device && parsed.rows.device->owner != backend_) {
    throwExpected(value.Env(), "rows in memory, in files or on the context's device", name);
  }
  size_t array = 0;
  for (Chunk& chunk : parsed.rows.chunks) {
    if (chunk.inFile() || keep(parsed.arrays[array++])) continue;
    MatrixView& view = chunk.view;
    if (view.rows == 0) continue;
    const size_t bytes =
        static_cast<size_t>((view.rows - 1) * view.stride + view.dim) * dtypeSize(view.dtype);
    copies_.push_back(std::make_unique_for_overwrite<char[]>(bytes));
    memcpy(copies_.back().get(), view.data, bytes);
    view.data = copies_.back().get();
  }
  return std::move(parsed.rows);
}

bool Operation::keep(const Napi::Value& value) {
  if (value.IsEmpty() || !value.IsObject()) return true;
  held_.push_back(Napi::Persistent(value.As<Napi::Object>()));
  return !value.IsTypedArray() || pins_.add(value.As<Napi::TypedArray>());
}

void Operation::keepAwake(Napi::Env env, bool awake) {
  (awake ? napi_ref_threadsafe_function : napi_unref_threadsafe_function)(env, function_);
}

Napi::Promise Operation::start(Napi::Env env, std::unique_ptr<Operation> operation) {
  Operation* self = operation.get();
  const Napi::Promise promise = self->deferred_.Promise();
  const napi_status created =
      napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "clip-cid"), 0, 1, self,
                                      onFinalize, self, onCall, &self->function_);
  if (created != napi_ok) throw Napi::Error::New(env, "A thread-safe function could not be created");
  operation.release();  // onFinalize deletes it
  try {
    self->thread_ = std::thread([self] { self->work(); });
  } catch (const std::exception& error) {
    self->status_ = {Code::kInternal, std::string("A thread could not be started: ") + error.what()};
    self->settle(env);
    napi_release_threadsafe_function(self->function_, napi_tsfn_release);
  }
  return promise;
}

void Operation::work() {
  // Canonical sums need the default rounding and denormals, whatever the JavaScript thread was set to.
  std::fesetenv(FE_DFL_ENV);
  try {
    status_ = run(context_);
  } catch (const std::bad_alloc&) {
    status_ = {Code::kOutOfMemory, "There is not enough memory for this operation"};
  } catch (const std::exception& error) {
    status_ = {Code::kInternal, error.what()};
  }
  post(kSettle);
  // After a refused call N-API has already given up this thread's share, and the function may not be touched
  // again.
  if (!closed_) napi_release_threadsafe_function(function_, napi_tsfn_release);
}

// The working thread's own calls come one at a time, but progress may come from any of its helpers, under
// their lock.
void Operation::post(intptr_t what) {
  if (closed_) return;
  const napi_status status =
      napi_call_threadsafe_function(function_, reinterpret_cast<void*>(what), napi_tsfn_nonblocking);
  if (status == napi_closing) closed_ = true;
}

void Operation::onCall(napi_env env, napi_value, void* context, void* data) {
  if (env == nullptr) return;  // torn down
  auto* self = static_cast<Operation*>(context);
  const Napi::HandleScope scope(env);
  switch (reinterpret_cast<intptr_t>(data)) {
    case kReport:
      return self->report(env);
    case kNotify:
      try {
        return self->notified(env);
      } catch (const Napi::Error&) {
        return;  // an environment that ends refuses calls
      }
    default:
      return self->settle(env);
  }
}

void Operation::report(Napi::Env env) {
  if (!thrown_.IsEmpty()) return;
  double done, total;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    done = done_;
    total = total_;
  }
  try {
    progress_.Call({Napi::Number::New(env, done), Napi::Number::New(env, total)});
  } catch (const Napi::Error& error) {
    // The call rejects with it.
    thrown_ = Napi::Persistent(error.Value());
    __atomic_store_n(&shutdown_, 1, __ATOMIC_RELAXED);
  }
}

void Operation::settle(Napi::Env env) {
  if (!thrown_.IsEmpty()) {
    deferred_.Reject(thrown_.Value());
    return;
  }
  try {
    // First, because it may be why the work failed.
    if (pins_.detached(env)) {
      Napi::Error error = Napi::Error::New(
          env, "The memory of an argument was transferred to another owner while the operation used it");
      error.Set("code", "DISPOSED");
      throw error;
    }
    if (!status_.ok()) throw makeError(env, status_);
    deferred_.Resolve(result(env));
  } catch (const Napi::Error& error) {
    deferred_.Reject(error.Value());
  }
}

void Operation::onFinalize(napi_env, void* data, void*) {
  auto* self = static_cast<Operation*>(data);
  __atomic_store_n(&self->shutdown_, 1, __ATOMIC_RELAXED);
  if (self->thread_.joinable()) self->thread_.join();
  delete self;
}

}  // namespace clipcid::bindings
