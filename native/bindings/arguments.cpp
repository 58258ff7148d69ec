#include "bindings/arguments.h"

#include <climits>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "bindings/operation.h"
#include "cuda/devices.h"

namespace clipcid::bindings {
namespace {

constexpr napi_type_tag kMatrixTag = {0x6c1f7a0d5b3e4c92, 0x9d20e8a4f1b7563c};
constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostDim = 1 << 16;  // what the bounds of the filters are proved for

struct Handle {
  std::shared_ptr<DeviceMatrix> matrix;
  int64_t bytes;
};

const char* dtypeName(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat16:
      return "float16";
    case Dtype::kBfloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

Dtype dtypeOf(const Napi::Value& value) {
  const std::string text = stringOf(value, "dtype");
  if (text == "float32") return Dtype::kFloat32;
  if (text == "float16") return Dtype::kFloat16;
  if (text == "bfloat16") return Dtype::kBfloat16;
  throwExpected(value.Env(), "'float32', 'float16' or 'bfloat16'", "dtype");
}

Handle* handleOf(const Napi::Value& value, const char* name) {
  bool tagged = false;
  void* handle = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kMatrixTag, &tagged) != napi_ok ||
      !tagged || napi_unwrap(value.Env(), value, &handle) != napi_ok) {
    throwExpected(value.Env(), "rows or a device's matrix", name);
  }
  return static_cast<Handle*>(handle);
}

void drop(Napi::Env env, Handle* handle) {
  if (!handle->matrix) return;
  const Backend* owner = handle->matrix->owner;
  const_cast<Backend*>(owner)->release(std::move(handle->matrix));
  handle->matrix = nullptr;
  Napi::MemoryManagement::AdjustExternalMemory(env, -handle->bytes);
}

Chunk chunkOf(const Napi::Value& value, const char* name, std::vector<Napi::Object>* arrays) {
  const Napi::Object object = objectOf(value, name);
  Chunk chunk;
  const Dtype dtype = dtypeOf(object.Get("dtype"));
  const int64_t rows = integerOf(object.Get("rows"), "rows", 0, kMostRows);
  const int64_t dim = integerOf(object.Get("dim"), "dim", 1, kMostDim);
  const Napi::Value path = object.Get("path");
  if (!path.IsUndefined()) {
    const int64_t offset = integerOf(object.Get("offset"), "offset", 0, int64_t{1} << 53);
    chunk.file = {stringOf(path, "path"), offset, dtype, rows, dim};
    if (chunk.file.path.empty()) throwExpected(value.Env(), "a path that is not empty", "path");
    return chunk;
  }
  const Napi::Value given = object.Get("stride");
  const int64_t stride = given.IsUndefined() ? dim : integerOf(given, "stride", dim, int64_t{1} << 40);
  if (rows > 0 && stride > (int64_t{1} << 50) / rows)
    throwExpected(value.Env(), "a smaller stride", "stride");
  const int64_t length = rows == 0 ? 0 : (rows - 1) * stride + dim;
  const Napi::Value data = object.Get("data");
  const void* pointer;
  if (dtype == Dtype::kFloat32) {
    pointer = arrayOf<float>(data, "data", length).Data();
  } else {
    pointer = arrayOf<uint16_t>(data, "data", length).Data();
  }
  arrays->push_back(data.As<Napi::Object>());
  chunk.view = {pointer, dtype, rows, dim, stride};
  return chunk;
}

}  // namespace

void throwExpected(Napi::Env env, const std::string& what, const char* name) {
  throw Napi::TypeError::New(env, "Expected " + what + " for " + name);
}

Napi::Object objectOf(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) throwExpected(value.Env(), "an object", name);
  return value.As<Napi::Object>();
}

double numberOf(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) throwExpected(value.Env(), "a number", name);
  return value.As<Napi::Number>().DoubleValue();
}

int64_t integerOf(const Napi::Value& value, const char* name, int64_t least, int64_t most) {
  const double number = numberOf(value, name);
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(most)) ||
      number != std::floor(number)) {
    throw Napi::RangeError::New(value.Env(), "Expected an integer from " + std::to_string(least) + " to " +
                                                 std::to_string(most) + " for " + name);
  }
  return static_cast<int64_t>(number);
}

bool booleanOf(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) throwExpected(value.Env(), "a boolean", name);
  return value.As<Napi::Boolean>().Value();
}

std::string stringOf(const Napi::Value& value, const char* name) {
  if (!value.IsString()) throwExpected(value.Env(), "a string", name);
  return value.As<Napi::String>().Utf8Value();
}

ParsedRows rowsOf(const Napi::Value& value, const char* name) {
  ParsedRows parsed;
  if (!value.IsArray()) {
    parsed.rows = Rows(unwrapMatrix(value, name));
    return parsed;
  }
  const auto list = value.As<Napi::Array>();
  int64_t total = 0;
  for (uint32_t index = 0; index < list.Length(); ++index) {
    Chunk chunk = chunkOf(list.Get(index), name, &parsed.arrays);
    if (index > 0 && chunk.dim() != parsed.rows.dim())
      throwExpected(value.Env(), "chunks of one width", name);
    total += chunk.rows();
    parsed.rows.chunks.push_back(std::move(chunk));
  }
  if (parsed.rows.chunks.empty()) throwExpected(value.Env(), "at least one chunk", name);
  if (total > kMostRows) throwExpected(value.Env(), "fewer than 2^31 rows", name);
  return parsed;
}

Backend& backendOf(Napi::Env env, const Napi::Value& device) {
  const std::string name = stringOf(device, "device");
  if (name == "cpu") return cpuBackend();
  if (name.starts_with("cuda:") && name.size() <= 9) {
    Status status;
    Backend* backend = cudaBackend(std::atoi(name.c_str() + 5), &status);
    if (backend != nullptr) return *backend;
    throw makeError(env, status);
  }
  throw makeError(env, {Code::kDeviceUnavailable, "There is no usable device '" + name + "'"});
}

Napi::Object wrapMatrix(Napi::Env env, const std::string& device, std::shared_ptr<DeviceMatrix> matrix) {
  Napi::Object object = Napi::Object::New(env);
  const auto flags = static_cast<napi_property_attributes>(napi_enumerable);
  object.DefineProperties({
      Napi::PropertyDescriptor::Value("device", Napi::String::New(env, device), flags),
      Napi::PropertyDescriptor::Value("dtype", Napi::String::New(env, dtypeName(matrix->dtype)), flags),
      Napi::PropertyDescriptor::Value("rows", Napi::Number::New(env, static_cast<double>(matrix->rows)),
                                      flags),
      Napi::PropertyDescriptor::Value("dim", Napi::Number::New(env, static_cast<double>(matrix->dim)), flags),
      Napi::PropertyDescriptor::Value("bytes", Napi::Number::New(env, static_cast<double>(matrix->bytes())),
                                      flags),
  });
  const auto bytes = static_cast<int64_t>(matrix->bytes());
  auto handle = std::make_unique<Handle>(Handle{std::move(matrix), bytes});
  const auto finalize = [](napi_env finalEnv, void* data, void*) {
    auto* owned = static_cast<Handle*>(data);
    drop(finalEnv, owned);
    delete owned;
  };
  if (napi_type_tag_object(env, object, &kMatrixTag) != napi_ok ||
      napi_wrap(env, object, handle.get(), finalize, nullptr, nullptr) != napi_ok) {
    throw Napi::Error::New(env, "A matrix could not be wrapped");
  }
  handle.release();
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  return object;
}

std::shared_ptr<DeviceMatrix> unwrapMatrix(const Napi::Value& value, const char* name) {
  Handle* handle = handleOf(value, name);
  if (!handle->matrix) {
    Napi::Error error = Napi::Error::New(value.Env(), std::string(name) + " was disposed");
    error.Set("code", "DISPOSED");
    throw error;
  }
  return handle->matrix;
}

void releaseMatrix(const Napi::Value& value) { drop(value.Env(), handleOf(value, "matrix")); }

}  // namespace clipcid::bindings
