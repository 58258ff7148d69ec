#include <cstring>

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"
#include "core/parallel.h"
#include "images/decode.h"
#include "images/files.h"
#include "images/fit.h"
#include "images/libvips.h"
#include "images/view.h"

namespace clipcid::bindings {
namespace {

using namespace clipcid::images;

constexpr int64_t kMostImages = 1 << 20;
constexpr int64_t kMostSize = 1 << 14;
constexpr int64_t kMostSide = 1 << 24;

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

Kernel kernelOf(const Napi::Value& value) {
  const std::string name = stringOf(value, "kernel");
  if (name == "nearest") return Kernel::kNearest;
  if (name == "linear") return Kernel::kLinear;
  if (name == "cubic") return Kernel::kCubic;
  if (name == "lanczos3") return Kernel::kLanczos3;
  throwExpected(value.Env(), "'nearest', 'linear', 'cubic' or 'lanczos3'", "kernel");
}

constexpr napi_type_tag kImageTag = {0x3b8d5a1f0c7e4296, 0xa41e7c90d25b683f};

// What the `data` of an image is that the core holds: an object around this. Empty once it is released.
using HeldImage = std::shared_ptr<Image>;

// Null for anything else.
HeldImage* heldOf(const Napi::Value& value) {
  bool tagged = false;
  void* held = nullptr;
  const bool good = value.IsObject() && !value.IsTypedArray() &&
                    napi_check_object_type_tag(value.Env(), value, &kImageTag, &tagged) == napi_ok &&
                    tagged && napi_unwrap(value.Env(), value, &held) == napi_ok;
  return good ? static_cast<HeldImage*>(held) : nullptr;
}

Napi::Object describeImage(Napi::Env env, const Napi::Value& data, const Image& image) {
  const Napi::Object object = Napi::Object::New(env);
  object.Set("data", data);
  object.Set("width", Napi::Number::New(env, static_cast<double>(image.width)));
  object.Set("height", Napi::Number::New(env, static_cast<double>(image.height)));
  return object;
}

// A NativeImage that the core holds. It costs the collector nothing, which would otherwise run for every hundred images; its memory is
// freed when it is released, or collected.
Napi::Object keepImage(Napi::Env env, Image& image) {
  const Napi::Object data = Napi::Object::New(env);
  auto held = std::make_unique<HeldImage>(std::make_shared<Image>(std::move(image)));
  const auto drop = [](napi_env, void* memory, void*) { delete static_cast<HeldImage*>(memory); };
  if (napi_type_tag_object(env, data, &kImageTag) != napi_ok ||
      napi_wrap(env, data, held.get(), drop, nullptr, nullptr) != napi_ok) {
    throw Napi::Error::New(env, "An image could not be wrapped");
  }
  return describeImage(env, data, **held.release());
}

// A NativeImage in JavaScript's memory, handed over.
Napi::Object giveImage(Napi::Env env, Image& image) {
  const auto bytes = static_cast<size_t>(image.bytes());
  const auto buffer = Napi::ArrayBuffer::New(env, image.data.get(), bytes,
                                             [](Napi::Env, void* memory) { std::free(memory); });
  image.data.release();
  return describeImage(env, Napi::Uint8Array::New(env, bytes, buffer, 0), image);
}

// An operation over encoded or decoded images.
class ImageOperation : public Operation {
 protected:
  using Operation::Operation;

  ImageView holdImage(const Napi::Value& value) {
    const Napi::Object image = objectOf(value, "images");
    const Napi::Value data = image.Get("data");
    if (const HeldImage* held = heldOf(data)) {
      if (!*held) {
        throw makeError(value.Env(), {Code::kInvalidArgument, "An image was released before it was used"});
      }
      kept_.push_back(*held);
      return (*held)->view();
    }
    ImageView view;
    view.width = integerOf(image.Get("width"), "width", 1, kMostSide);
    view.height = integerOf(image.Get("height"), "height", 1, kMostSide);
    view.data = hold(arrayOf<uint8_t>(data, "data", 3 * view.width * view.height)).Data();
    return view;
  }

  ImageFile holdFile(const Napi::Value& value) {
    if (!value.IsTypedArray()) return fileOf(value);
    const auto bytes = hold(arrayOf<uint8_t>(value, "files", 0));
    ImageFile file;
    file.data = bytes.Data();
    file.length = bytes.ElementLength();
    return file;
  }

  // Ends what libvips keeps for this thread, which ends with the operation; the pool's threads stay.
  static void endThread() {
    if (const Libvips* vips = libvips()) vips->endThread();
  }

 private:
  std::vector<HeldImage> kept_;
};

class DecodeImages final : public ImageOperation {
 public:
  DecodeImages(Napi::Env env, const Napi::Value& context, const Napi::Value& filesValue,
               const Napi::Value& backgroundValue, const Napi::Value& shortest, const Napi::Value& keep)
      : ImageOperation(env, context) {
    const Napi::Array files = listOf(filesValue, "files");
    const auto background = arrayOf<uint8_t>(backgroundValue, "background", 3);
    std::memcpy(args_.background, background.Data(), 3);
    args_.shortest = integerOf(shortest, "shortest", 0, kMostSize * 2);
    keep_ = booleanOf(keep, "keep");
    for (uint32_t i = 0; i < files.Length(); ++i) files_.push_back(holdFile(files.Get(i)));
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
    endThread();
    return status;
  }

  Napi::Value result(Napi::Env env) override {
    const Napi::Array list = Napi::Array::New(env, images_.size());
    for (uint32_t i = 0; i < images_.size(); ++i) {
      if (images_[i].data) list.Set(i, keep_ ? keepImage(env, images_[i]) : giveImage(env, images_[i]));
    }
    return list;
  }

 private:
  DecodeArgs args_;
  bool keep_;
  std::vector<ImageFile> files_;
  std::vector<Image> images_;
};

class RenderViews final : public ImageOperation {
 public:
  RenderViews(Napi::Env env, const Napi::Value& context, const Napi::Value& imagesValue,
              const Napi::Value& viewsValue, const Napi::Value& optionsValue)
      : ImageOperation(env, context) {
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
      const ImageView view = holdImage(images.Get(i));
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
  int64_t size_;
  Normalise normalise_{};
  float* floats_ = nullptr;
  uint8_t* bytes_ = nullptr;
  std::vector<ImageView> images_;
  std::vector<View> views_;
};

class ResizeImages final : public ImageOperation {
 public:
  ResizeImages(Napi::Env env, const Napi::Value& context, const Napi::Value& imagesValue,
               const Napi::Value& width, const Napi::Value& height, const Napi::Value& kernel)
      : ImageOperation(env, context) {
    const Napi::Array images = listOf(imagesValue, "images");
    width_ = integerOf(width, "width", 1, kMostSize * 2);
    height_ = integerOf(height, "height", 1, kMostSize * 2);
    kernel_ = kernelOf(kernel);
    for (uint32_t i = 0; i < images.Length(); ++i) images_.push_back(holdImage(images.Get(i)));
    resized_.resize(images_.size());
  }

 protected:
  Status run(const Context& context) override {
    const Status status =
        parallelTry(context, static_cast<int64_t>(images_.size()), [&](int64_t index, int) -> Status {
          const auto at = static_cast<size_t>(index);
          if (!resize(images_[at], width_, height_, kernel_, &resized_[at])) resized_[at] = Image();
          return {};
        });
    endThread();
    return status;
  }

  Napi::Value result(Napi::Env env) override {
    const Napi::Array list = Napi::Array::New(env, resized_.size());
    for (uint32_t i = 0; i < resized_.size(); ++i) {
      if (resized_[i].data) list.Set(i, giveImage(env, resized_[i]));
    }
    return list;
  }

 private:
  int64_t width_, height_;
  Kernel kernel_;
  std::vector<ImageView> images_;
  std::vector<Image> resized_;
};

class FitImages final : public ImageOperation {
 public:
  FitImages(Napi::Env env, const Napi::Value& context, const Napi::Value& sourcesValue,
            const Napi::Value& backgroundValue, const Napi::Value& optionsValue, const Napi::Value& outValue)
      : ImageOperation(env, context) {
    const Napi::Array sources = listOf(sourcesValue, "sources");
    std::memcpy(decode_.background, arrayOf<uint8_t>(backgroundValue, "background", 3).Data(), 3);
    const Napi::Object options = objectOf(optionsValue, "options");
    const auto side = [&](const char* name) { return integerOf(options.Get(name), name, 0, kMostSize * 2); };
    fit_.shortest = side("shortest");
    fit_.width = side("width");
    fit_.height = side("height");
    if ((fit_.width > 0) != (fit_.height > 0)) throwExpected(env, "both sides or none", "width");
    fit_.kernel = kernelOf(options.Get("kernel"));
    fit_.size = integerOf(options.Get("size"), "size", 1, kMostSize);
    fit_.table = hold(arrayOf<float>(options.Get("table"), "table", 3 * 256)).Data();
    const int64_t count = sources.Length();
    out_ = hold(arrayOf<float>(outValue, "out", count * 3 * fit_.size * fit_.size)).Data();
    for (uint32_t i = 0; i < sources.Length(); ++i) {
      const Napi::Value source = sources.Get(i);
      const bool decoded =
          !source.IsTypedArray() && source.IsObject() && source.As<Napi::Object>().Has("data");
      images_.push_back(decoded ? holdImage(source) : ImageView());
      files_.push_back(decoded ? ImageFile() : holdFile(source));
    }
    flags_ = hold(newArray<uint8_t>(env, count)).Data();
  }

 protected:
  Status run(const Context& context) override {
    const ImageFiles files(std::move(files_));
    std::vector<std::vector<uint8_t>> memory(static_cast<size_t>(context.threads));
    const int64_t area = 3 * fit_.size * fit_.size;
    const Status status =
        parallelTry(context, static_cast<int64_t>(images_.size()), [&](int64_t index, int worker) -> Status {
          const auto at = static_cast<size_t>(index);
          float* out = out_ + index * area;
          if (images_[at].data != nullptr) {
            flags_[at] = fit(images_[at], fit_, out);
            return {};
          }
          const uint8_t* bytes = nullptr;
          size_t length = 0;
          Image image;
          flags_[at] = files.read(at, &memory[static_cast<size_t>(worker)], &bytes, &length) &&
                       decode(bytes, length, decode_, &image) && fit(image.view(), fit_, out);
          return {};
        });
    endThread();
    return status;
  }

  Napi::Value result(Napi::Env) override { return held(heldCount() - 1); }

 private:
  DecodeArgs decode_;
  FitArgs fit_;
  float* out_ = nullptr;
  uint8_t* flags_ = nullptr;
  std::vector<ImageView> images_;
  std::vector<ImageFile> files_;
};

}  // namespace

Napi::Value useLibvips(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), findLibvips(stringOf(info[0], "name").c_str()));
}

Napi::Value decodeImages(const Napi::CallbackInfo& info) {
  return Operation::start(
      info.Env(), std::make_unique<DecodeImages>(info.Env(), info[0], info[1], info[2], info[3], info[4]));
}

Napi::Value renderViews(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<RenderViews>(info.Env(), info[0], info[1], info[2], info[3]));
}

Napi::Value releaseImages(const Napi::CallbackInfo& info) {
  const Napi::Array images = listOf(info[0], "images");
  for (uint32_t i = 0; i < images.Length(); ++i) {
    if (HeldImage* held = heldOf(objectOf(images.Get(i), "images").Get("data"))) held->reset();
  }
  return info.Env().Undefined();
}

Napi::Value resizeImages(const Napi::CallbackInfo& info) {
  return Operation::start(
      info.Env(), std::make_unique<ResizeImages>(info.Env(), info[0], info[1], info[2], info[3], info[4]));
}

Napi::Value fitImages(const Napi::CallbackInfo& info) {
  return Operation::start(
      info.Env(), std::make_unique<FitImages>(info.Env(), info[0], info[1], info[2], info[3], info[4]));
}

}  // namespace clipcid::bindings
