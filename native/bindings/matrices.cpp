// Matrices that live on a device: upload, download, release.
#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

class Upload final : public Operation {
 public:
  Upload(Napi::Env env, const Napi::Value& context, const Napi::Value& rowsValue)
      : Operation(env, context), device_(stringOf(objectOf(context, "context").Get("device"), "device")) {
    rows_ = holdRows(rowsValue, "rows");
  }

 protected:
  Status run(const Context& context) override {
    CLIPCID_TRY(backend().upload(context, rows_, &matrix_));
    return backend().synchronise(context);
  }
  Napi::Value result(Napi::Env env) override { return wrapMatrix(env, device_, std::move(matrix_)); }

 private:
  std::string device_;
  Rows rows_;
  std::shared_ptr<DeviceMatrix> matrix_;
};

class Download final : public Operation {
 public:
  Download(Napi::Env env, const Napi::Value& context, const Napi::Value& matrixValue)
      : Operation(env, context) {
    matrix_ = unwrapMatrix(matrixValue, "matrix");
    if (matrix_->owner != &backend()) throwExpected(env, "a matrix of the context's device", "matrix");
    const int64_t length = matrix_->rows * matrix_->dim;
    if (matrix_->dtype == Dtype::kFloat32) {
      auto array = newArray<float>(env, length);
      data_ = array.Data();
      output_ = Napi::Persistent(array.As<Napi::Object>());
    } else {
      auto array = newArray<uint16_t>(env, length);
      data_ = array.Data();
      output_ = Napi::Persistent(array.As<Napi::Object>());
    }
  }

 protected:
  Status run(const Context& context) override {
    CLIPCID_TRY(backend().download(context, *matrix_, data_));
    return backend().synchronise(context);
  }
  Napi::Value result(Napi::Env) override { return output_.Value(); }

 private:
  std::shared_ptr<DeviceMatrix> matrix_;
  void* data_ = nullptr;
  Napi::ObjectReference output_;
};

}  // namespace

Napi::Value upload(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Upload>(info.Env(), info[0], info[1]));
}

Napi::Value download(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Download>(info.Env(), info[0], info[1]));
}

Napi::Value release(const Napi::CallbackInfo& info) {
  releaseMatrix(info[0]);
  return info.Env().Undefined();
}

}  // namespace clipcid::bindings
