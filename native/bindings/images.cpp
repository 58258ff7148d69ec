#include <cstring>

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"
#include "core/parallel.h"
#include "images/decode.h"
#include "images/files.h"
#include "images/libvips.h"
#include "images/view.h"

namespace clipcid::bindings {
namespace {

using namespace clipcid::images;

constexpr int64_t kMostImages = 1 << 20;
constexpr int64_t kMostSize = 1 << 14;

Napi::Array listOf(const Napi::Value& value, const char* name) {
  if (!value.IsArray() || value.As<Napi::Array>().Length() > kMostImages) {
    throwExpected(value.Env(), "an array", name);
  }
  return value.As<Napi::Array>();
}

// NativeImageFile: bytes, or { path, offset, size }.
ImageFile fileOf(const Napi::Value& value) {
  ImageFile file;
  const Napi::Object object = objectOf(value, "files");
  file.path = stringOf(object.Get("path"), "path");
  const Napi::Value size = object.Get("size");
  if (!size.IsUndefined()) {
    file.offset = integerOf(object.Get("offset"), "offset", 0, int64_t{1} << 53);
    file.size = integerOf(size, "size", 0, int64_t{1} << 53);
  }
  return file;
}

class DecodeImages final : public Operation {
 public:
  DecodeImages(Napi::Env env, const Napi::Value& context, const Napi::Value& filesValue,
               const Napi::Value& backgroundValue, const Napi::Value& shortest)
      : Operation(env, context) {
    const Napi::Array files = listOf(filesValue, "files");
    const auto background = arrayOf<uint8_t>(backgroundValue, "background", 3);
    std::memcpy(args_.background, background.Data(), 3);
    args_.shortest = integerOf(shortest, "shortest", 0, kMostSize * 2);
    for (uint32_t i = 0; i < files.Length(); ++i) {
      const Napi::Value file = files.Get(i);
      if (file.IsTypedArray()) {
        const auto bytes = hold(arrayOf<uint8_t>(file, "files", 0));
        files_.push_back({bytes.Data(), bytes.ElementLength(), {}});
      } else {
        files_.push_back(fileOf(file));
      }
    }
    images_.resize(files_.size());
  }

 protected:
  Status run(const Context& context) override {
    const ImageFiles files(std::move(files_));
    std::vector<std::vector<uint8_t>> memory(static_cast<size_t>(context.threads));
    const Status status =
        parallelTry(context, static_cast<int64_t>(files.count()), [&](int64_t index, int worker) -> Status {
          const auto at = static_cast<size_t>(index);
          const uint8_t* bytes = nullptr;
          size_t length = 0;
          // What is refused stays empty.
          const bool good = files.read(at, &memory[static_cast<size_t>(worker)], &bytes, &length) &&
                            decode(bytes, length, args_, &images_[at]);
          if (!good) images_[at] = Image();
          return {};
        });
    // This thread ends with the operation, and libvips keeps memory for every thread that used it.
    if (const Libvips* vips = libvips()) vips->endThread();
    return status;
  }

  Napi::Value result(Napi::Env env) override {
    const Napi::Array list = Napi::Array::New(env, images_.size());
    for (uint32_t i = 0; i < images_.size(); ++i) {
      Image& image = images_[i];
      if (!image.data) continue;
      const auto bytes = static_cast<size_t>(image.bytes());
      const auto buffer = Napi::ArrayBuffer::New(env, image.data.get(), bytes,
                                                 [](Napi::Env, void* memory) { std::free(memory); });
      image.data.release();
      const Napi::Object object = Napi::Object::New(env);
      object.Set("data", Napi::Uint8Array::New(env, bytes, buffer, 0));
      object.Set("width", Napi::Number::New(env, static_cast<double>(image.width)));
      object.Set("height", Napi::Number::New(env, static_cast<double>(image.height)));
      list.Set(i, object);
    }
    return list;
  }

 private:
  DecodeArgs args_;
  std::vector<ImageFile> files_;
  std::vector<Image> images_;
};

class RenderViews final : public Operation {
 public:
  RenderViews(Napi::Env env, const Napi::Value& context, const Napi::Value& imagesValue,
              const Napi::Value& viewsValue, const Napi::Value& optionsValue)
      : Operation(env, context) {
    const Napi::Array images = listOf(imagesValue, "images");
    const auto count = static_cast<int64_t>(images.Length());
    const auto views = arrayOf<double>(viewsValue, "views", count * kViewNumbers);
    const Napi::Object options = objectOf(optionsValue, "options");
    size_ = integerOf(options.Get("size"), "size", 1, kMostSize);
    const int64_t area = 3 * size_ * size_;
    const int64_t offset = integerOf(options.Get("offset"), "offset", 0, int64_t{1} << 50);
    const Napi::Value out = options.Get("out");
    if (out.IsTypedArray() && out.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
      bytes_ = hold(arrayOf<uint8_t>(out, "out", offset + count * area)).Data() + offset;
    } else {
      floats_ = hold(arrayOf<float>(out, "out", offset + count * area)).Data() + offset;
      const auto normalise = arrayOf<double>(options.Get("normalise"), "normalise", 6);
      std::memcpy(&normalise_, normalise.Data(), sizeof normalise_);
    }
    for (uint32_t i = 0; i < images.Length(); ++i) {
      const Napi::Object image = objectOf(images.Get(i), "images");
      ImageView view;
      view.width = integerOf(image.Get("width"), "width", 1, kMostSide);
      view.height = integerOf(image.Get("height"), "height", 1, kMostSide);
      view.data = hold(arrayOf<uint8_t>(image.Get("data"), "data", 3 * view.width * view.height)).Data();
      images_.push_back(view);
      View drawn;
      std::memcpy(&drawn, views.Data() + static_cast<int64_t>(i) * kViewNumbers, sizeof drawn);
      if (!validView(view, drawn)) throwExpected(env, "views within their images", "views");
      views_.push_back(drawn);
    }
  }

 protected:
  Status run(const Context& context) override {
    std::vector<ViewRenderer> renderers(static_cast<size_t>(context.threads));
    const int64_t area = 3 * size_ * size_;
    return parallelTry(
        context, static_cast<int64_t>(images_.size()), [&](int64_t index, int worker) -> Status {
          ViewRenderer& renderer = renderers[static_cast<size_t>(worker)];
          const auto at = static_cast<size_t>(index);
          if (bytes_ != nullptr) {
            renderer.bytes(images_[at], views_[at], size_, bytes_ + index * area);
          } else {
            renderer.normalised(images_[at], views_[at], size_, normalise_, floats_ + index * area);
          }
          return {};
        });
  }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }

 private:
  static constexpr int64_t kMostSide = 1 << 24;
  int64_t size_;
  Normalise normalise_{};
  float* floats_ = nullptr;
  uint8_t* bytes_ = nullptr;
  std::vector<ImageView> images_;
  std::vector<View> views_;
};

}  // namespace

Napi::Value useLibvips(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), findLibvips(stringOf(info[0], "name").c_str()));
}

Napi::Value decodeImages(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<DecodeImages>(info.Env(), info[0], info[1], info[2], info[3]));
}

Napi::Value renderViews(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<RenderViews>(info.Env(), info[0], info[1], info[2], info[3]));
}

}  // namespace clipcid::bindings
