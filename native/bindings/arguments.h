// JavaScript values to plain ones. TypeScript has validated already; what is checked here guards memory. All
// of it throws TypeError or RangeError and runs on the JavaScript thread.
#pragma once

#include <napi.h>

#include <string>

#include "clipcid/backend.h"

namespace clipcid::bindings {

Napi::Object objectOf(const Napi::Value& value, const char* name);
int64_t integerOf(const Napi::Value& value, const char* name, int64_t least, int64_t most);
double numberOf(const Napi::Value& value, const char* name);
bool booleanOf(const Napi::Value& value, const char* name);
std::string stringOf(const Napi::Value& value, const char* name);

[[noreturn]] void throwExpected(Napi::Env env, const std::string& what, const char* name);

template <typename T>
constexpr napi_typedarray_type arrayType();
template <>
constexpr napi_typedarray_type arrayType<float>() {
  return napi_float32_array;
}
template <>
constexpr napi_typedarray_type arrayType<double>() {
  return napi_float64_array;
}
template <>
constexpr napi_typedarray_type arrayType<int32_t>() {
  return napi_int32_array;
}
template <>
constexpr napi_typedarray_type arrayType<uint16_t>() {
  return napi_uint16_array;
}
template <>
constexpr napi_typedarray_type arrayType<uint8_t>() {
  return napi_uint8_array;
}

// A typed array of T with at least `length` elements.
template <typename T>
Napi::TypedArrayOf<T> arrayOf(const Napi::Value& value, const char* name, int64_t length) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != arrayType<T>()) {
    throwExpected(value.Env(), "a typed array of the right element type", name);
  }
  const auto array = value.As<Napi::TypedArrayOf<T>>();
  if (static_cast<int64_t>(array.ElementLength()) < length) {
    throwExpected(value.Env(), "at least " + std::to_string(length) + " elements", name);
  }
  return array;
}

// A new typed array in JavaScript's memory, for results: the work writes into it, nothing is copied. Zeroed.
template <typename T>
Napi::TypedArrayOf<T> newArray(Napi::Env env, int64_t length) {
  return Napi::TypedArrayOf<T>::New(env, static_cast<size_t>(length), arrayType<T>());
}

// NativeRows. What memory they view is held alive by the caller's hold(rowsValue's arrays); see
// Operation::hold.
struct ParsedRows {
  Rows rows;
  std::vector<Napi::Object> arrays;  // to hold
};
ParsedRows rowsOf(const Napi::Value& value, const char* name);

// NativeAdamwOptions, for buffers of args->length elements.
void readAdamw(const Napi::Value& value, AdamwArgs* args);

// Throws with code DEVICE_UNAVAILABLE when there is no such device.
Backend& backendOf(Napi::Env env, const Napi::Value& device);

// A NativeDeviceMatrix around a matrix, which it releases when it is collected.
Napi::Object wrapMatrix(Napi::Env env, const std::string& device, std::shared_ptr<DeviceMatrix> matrix);
// The matrix behind a NativeDeviceMatrix; throws with code DISPOSED once it was released.
std::shared_ptr<DeviceMatrix> unwrapMatrix(const Napi::Value& value, const char* name);
void releaseMatrix(const Napi::Value& value);

}  // namespace clipcid::bindings
