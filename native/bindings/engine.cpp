// Engines: what training keeps on a device, and the programs that run on it.
#include "bindings/engine.h"

#include "bindings/addon.h"
#include "bindings/arguments.h"
#include "bindings/operation.h"

namespace clipcid::bindings {
namespace {

constexpr napi_type_tag kEngineTag = {0x2f9c4be07d1a4e58, 0xb6031df84c5a7e91};
constexpr int64_t kMostBytes = int64_t{1} << 50;

struct Handle {
  std::shared_ptr<Engine> engine;
};

Handle* handleOf(const Napi::Value& value) {
  bool tagged = false;
  void* handle = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kEngineTag, &tagged) != napi_ok ||
      !tagged || napi_unwrap(value.Env(), value, &handle) != napi_ok) {
    throwExpected(value.Env(), "an engine", "engine");
  }
  return static_cast<Handle*>(handle);
}

Napi::Object wrap(Napi::Env env, std::shared_ptr<Engine> engine) {
  Napi::Object object = Napi::Object::New(env);
  auto handle = std::make_unique<Handle>(Handle{std::move(engine)});
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); };
  if (napi_type_tag_object(env, object, &kEngineTag) != napi_ok ||
      napi_wrap(env, object, handle.get(), finalize, nullptr, nullptr) != napi_ok) {
    throw Napi::Error::New(env, "An engine could not be wrapped");
  }
  handle.release();
  return object;
}

class Create final : public Operation {
 public:
  Create(Napi::Env env, const Napi::Value& context, const Napi::Value& parameters) : Operation(env, context) {
    const Napi::Float32Array array = hold(arrayOf<float>(parameters, "parameters", 0));
    parameters_ = array.Data();
    count_ = static_cast<int64_t>(array.ElementLength());
  }

 protected:
  Status run(const Context& context) override {
    return Engine::create(backend(), context, parameters_, count_, &engine_);
  }
  Napi::Value result(Napi::Env env) override { return wrap(env, std::move(engine_)); }

 private:
  const float* parameters_;
  int64_t count_;
  std::shared_ptr<Engine> engine_;
};

constexpr napi_type_tag kStagedTag = {0x8e15d7a93c604b2f, 0x41a0c9f7e8b35d26};

// Inputs on their way to a device, to be used once.
struct StagedHandle {
  std::shared_ptr<Engine> engine;  // outlives its inputs
  StagedInputs inputs;
  std::vector<int64_t> bytes;
};

class Stage final : public Operation {
 public:
  Stage(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& inputs)
      : Operation(env, context), engine_(engineOf(engine)), handle_(std::make_unique<StagedHandle>()) {
    handle_->engine = engine_;
    if (!inputs.IsArray()) throwExpected(env, "an array", "inputs");
    const auto list = inputs.As<Napi::Array>();
    for (uint32_t index = 0; index < list.Length(); ++index) {
      const Napi::Value entry = list.Get(index);
      if (!entry.IsTypedArray()) throwExpected(env, "typed arrays", "inputs");
      const auto array = hold(entry.As<Napi::TypedArray>());
      inputs_.push_back(static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset());
      handle_->bytes.push_back(static_cast<int64_t>(array.ByteLength()));
    }
  }

 protected:
  Status run(const Context&) override { return engine_->stage(inputs_, handle_->bytes, &handle_->inputs); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    const auto finalize = [](napi_env, void* data, void*) { delete static_cast<StagedHandle*>(data); };
    if (napi_type_tag_object(env, object, &kStagedTag) != napi_ok ||
        napi_wrap(env, object, handle_.get(), finalize, nullptr, nullptr) != napi_ok) {
      throw Napi::Error::New(env, "Staged inputs could not be wrapped");
    }
    handle_.release();
    return object;
  }

 private:
  std::shared_ptr<Engine> engine_;
  std::unique_ptr<StagedHandle> handle_;
  std::vector<const void*> inputs_;
};

std::vector<ProgramValue> valuesOf(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) throwExpected(value.Env(), "an array", name);
  const auto list = value.As<Napi::Array>();
  std::vector<ProgramValue> values;
  for (uint32_t index = 0; index < list.Length(); ++index) {
    const Napi::Object object = objectOf(list.Get(index), name);
    ProgramValue one;
    one.space = static_cast<Space>(integerOf(object.Get("space"), "space", 0, kSpaces - 1));
    one.offset = integerOf(object.Get("offset"), "offset", 0, kMostBytes);
    one.bytes = integerOf(object.Get("bytes"), "bytes", 0, kMostBytes);
    values.push_back(one);
  }
  return values;
}

ProgramSpec specOf(const Napi::Value& value) {
  const Napi::Object object = objectOf(value, "program");
  ProgramSpec spec;
  const Napi::Float64Array code = arrayOf<double>(object.Get("code"), "code", 0);
  spec.code.assign(code.Data(), code.Data() + code.ElementLength());
  const Napi::Value phases = object.Get("phases");
  if (!phases.IsArray()) throwExpected(value.Env(), "an array", "phases");
  const auto list = phases.As<Napi::Array>();
  for (uint32_t index = 0; index < list.Length(); ++index) {
    const Napi::Object phase = objectOf(list.Get(index), "phases");
    spec.phases.push_back(
        {integerOf(phase.Get("begin"), "begin", 0, 1 << 30), integerOf(phase.Get("end"), "end", 0, 1 << 30),
         integerOf(phase.Get("parts"), "parts", 1, 1 << 20), booleanOf(phase.Get("apart"), "apart")});
  }
  spec.forwardPhases =
      static_cast<size_t>(integerOf(object.Get("forwardPhases"), "forwardPhases", 0, 1 << 20));
  spec.arenaBytes = integerOf(object.Get("arenaBytes"), "arenaBytes", 0, kMostBytes);
  spec.ownBytes = integerOf(object.Get("ownBytes"), "ownBytes", 0, kMostBytes);
  const Napi::Uint8Array constants = arrayOf<uint8_t>(object.Get("constants"), "constants", 0);
  spec.constants.assign(constants.Data(), constants.Data() + constants.ElementLength());
  spec.inputs = valuesOf(object.Get("inputs"), "inputs");
  spec.outputs = valuesOf(object.Get("outputs"), "outputs");
  spec.outputGradients = valuesOf(object.Get("outputGradients"), "outputGradients");
  return spec;
}

// What runs a program: holds what comes from the host.
class Run : public Operation {
 public:
  Run(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& program)
      : Operation(env, context), engine_(engineOf(engine)) {
    id_ = integerOf(program, "program", 0, int64_t{1} << 53);
    spec_ = engine_->spec(id_);
    if (spec_ == nullptr) throwExpected(env, "a program of the engine", "program");
  }

 protected:
  // A typed array of any type, of that size.
  const void* bytesOf(const Napi::Value& value, int64_t bytes, const char* name) {
    if (!value.IsTypedArray()) throwExpected(value.Env(), "typed arrays", name);
    const auto array = hold(value.As<Napi::TypedArray>());
    if (static_cast<int64_t>(array.ByteLength()) != bytes)
      throwExpected(value.Env(), std::to_string(bytes) + " bytes", name);
    return static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  }

  std::vector<const void*> arrays(const Napi::Value& value, const std::vector<ProgramValue>& values,
                                  const char* name) {
    if (!value.IsArray() || value.As<Napi::Array>().Length() != values.size())
      throwExpected(value.Env(), "as many arrays as the program has", name);
    const auto list = value.As<Napi::Array>();
    std::vector<const void*> pointers;
    for (uint32_t i = 0; i < list.Length(); ++i)
      pointers.push_back(bytesOf(list.Get(i), values[i].bytes, name));
    return pointers;
  }

  // What of the inputs is on its way already; nothing where it is undefined.
  void takeStaged(const Napi::Value& value) {
    if (value.IsUndefined()) return;
    bool tagged = false;
    void* handle = nullptr;
    if (!value.IsObject() ||
        napi_check_object_type_tag(value.Env(), value, &kStagedTag, &tagged) != napi_ok || !tagged ||
        napi_unwrap(value.Env(), value, &handle) != napi_ok) {
      throwExpected(value.Env(), "staged inputs", "staged");
    }
    auto& staged = *static_cast<StagedHandle*>(handle);
    bool fits = staged.engine == engine_ && staged.bytes.size() == spec_->inputs.size() &&
                staged.inputs.size() == staged.bytes.size();
    for (size_t i = 0; fits && i < staged.bytes.size(); ++i) fits = staged.bytes[i] == spec_->inputs[i].bytes;
    if (!fits)
      throwExpected(value.Env(), "inputs of this program's sizes, staged on its engine and not used before",
                    "staged");
    staged_ = std::move(staged.inputs);
    isStaged_ = true;
  }
  const StagedInputs* staged() const { return isStaged_ ? &staged_ : nullptr; }

  std::shared_ptr<Engine> engine_;
  int64_t id_;
  const ProgramSpec* spec_;

 private:
  StagedInputs staged_;
  bool isStaged_ = false;
};

class Forward final : public Run {
 public:
  Forward(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& program,
          const Napi::Value& inputs, const Napi::Value& options)
      : Run(env, context, engine, program) {
    inputs_ = arrays(inputs, spec_->inputs, "inputs");
    first_ = heldCount();
    const Napi::Object object = objectOf(options, "options");
    const Napi::Value rows = object.Get("rows");
    if (!rows.IsArray() || rows.As<Napi::Array>().Length() != spec_->outputs.size())
      throwExpected(env, "as many numbers as the program has outputs", "rows");
    matrices_.resize(spec_->outputs.size());
    for (uint32_t i = 0; i < spec_->outputs.size(); ++i) {
      const int64_t bytes = spec_->outputs[i].bytes;
      const int64_t stays = integerOf(rows.As<Napi::Array>().Get(i), "rows", 0, kMostBytes);
      if (stays > 0) {
        outputs_.push_back({nullptr, stays, &matrices_[i]});
      } else {
        // As bytes: the caller knows what they are.
        outputs_.push_back({hold(Napi::ArrayBuffer::New(env, static_cast<size_t>(bytes))).Data()});
      }
    }
    device_ = stringOf(objectOf(context, "context").Get("device"), "device");
    average_ = booleanOf(object.Get("average"), "average");
    keep_ = booleanOf(object.Get("keep"), "keep");
    takeStaged(object.Get("staged"));
  }

 protected:
  Status run(const Context& context) override {
    return engine_->forward(context, id_, inputs_, staged(), outputs_, average_, keep_);
  }
  Napi::Value result(Napi::Env env) override {
    Napi::Array list = Napi::Array::New(env, outputs_.size());
    size_t next = first_;
    for (uint32_t i = 0; i < outputs_.size(); ++i) {
      if (outputs_[i].matrix == nullptr) {
        list.Set(i, held(next++));
      } else {
        list.Set(i, wrapMatrix(env, device_, std::move(matrices_[i])));
      }
    }
    return list;
  }

 private:
  std::vector<const void*> inputs_;
  std::string device_;
  std::vector<std::shared_ptr<DeviceMatrix>> matrices_;
  std::vector<OutputTarget> outputs_;
  size_t first_;
  bool average_, keep_;
};

class Backward final : public Run {
 public:
  Backward(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& program,
           const Napi::Value& inputs, const Napi::Value& gradients, const Napi::Value& staged)
      : Run(env, context, engine, program) {
    takeStaged(staged);
    inputs_ = arrays(inputs, spec_->inputs, "inputs");
    const std::vector<ProgramValue>& values = spec_->outputGradients;
    if (!gradients.IsArray() || gradients.As<Napi::Array>().Length() != values.size())
      throwExpected(env, "as many gradients as the program has outputs", "gradients");
    const auto list = gradients.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) gradients_.push_back(gradientOf(list.Get(i), values[i]));
  }

 protected:
  Status run(const Context& context) override {
    return engine_->backward(context, id_, inputs_, staged(), gradients_);
  }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }

 private:
  GradientSource gradientOf(const Napi::Value& value, const ProgramValue& of) {
    GradientSource source;
    if (value.IsUndefined()) return source;
    if (value.IsTypedArray()) {
      source.host = bytesOf(value, of.bytes, "gradients");
      return source;
    }
    const Napi::Object object = objectOf(value, "gradients");
    source.matrix = unwrapMatrix(object.Get("matrix"), "matrix");
    source.row = integerOf(object.Get("row"), "row", 0, kMostBytes);
    source.rows = integerOf(object.Get("rows"), "rows", 0, kMostBytes);
    return source;
  }

  std::vector<const void*> inputs_;
  std::vector<GradientSource> gradients_;
};

class AddGradient final : public Operation {
 public:
  AddGradient(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& offset,
              const Napi::Value& values)
      : Operation(env, context), engine_(engineOf(engine)) {
    offset_ = integerOf(offset, "offset", 0, engine_->count());
    if (!values.IsTypedArray()) {
      matrix_ = unwrapMatrix(values, "values");
      return;
    }
    const Napi::Float32Array array = hold(arrayOf<float>(values, "values", 0));
    values_ = array.Data();
    length_ = static_cast<int64_t>(array.ElementLength());
  }

 protected:
  Status run(const Context& context) override {
    return matrix_ ? engine_->addGradient(context, offset_, *matrix_)
                   : engine_->addGradient(context, offset_, values_, length_);
  }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }

 private:
  std::shared_ptr<Engine> engine_;
  int64_t offset_;
  std::shared_ptr<DeviceMatrix> matrix_;
  const float* values_ = nullptr;
  int64_t length_ = 0;
};

class Concatenate final : public Operation {
 public:
  Concatenate(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& parts)
      : Operation(env, context),
        engine_(engineOf(engine)),
        device_(stringOf(objectOf(context, "context").Get("device"), "device")) {
    if (!parts.IsArray()) throwExpected(env, "an array", "parts");
    const auto list = parts.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) parts_.push_back(unwrapMatrix(list.Get(i), "parts"));
  }

 protected:
  Status run(const Context&) override { return engine_->concatenate(parts_, &matrix_); }
  Napi::Value result(Napi::Env env) override { return wrapMatrix(env, device_, std::move(matrix_)); }

 private:
  std::shared_ptr<Engine> engine_;
  std::string device_;
  std::vector<std::shared_ptr<DeviceMatrix>> parts_;
  std::shared_ptr<DeviceMatrix> matrix_;
};

class Read final : public Operation {
 public:
  Read(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& matrix)
      : Operation(env, context), engine_(engineOf(engine)), matrix_(unwrapMatrix(matrix, "matrix")) {
    index_ = heldCount();
    to_ = hold(newArray<float>(env, matrix_->rows * matrix_->dim)).Data();
  }

 protected:
  Status run(const Context&) override { return engine_->read(*matrix_, to_); }
  Napi::Value result(Napi::Env) override { return held(index_); }

 private:
  std::shared_ptr<Engine> engine_;
  std::shared_ptr<DeviceMatrix> matrix_;
  size_t index_;
  float* to_;
};

class Update final : public Operation {
 public:
  Update(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& options,
         const Napi::Value& clamps)
      : Operation(env, context), engine_(engineOf(engine)) {
    args_.length = engine_->count();
    readAdamw(options, &args_);
    average_ = booleanOf(objectOf(options, "options").Get("average"), "average");
    args_.gradientNorm = &norm_;
    if (!clamps.IsArray()) throwExpected(env, "an array", "clamps");
    const auto list = clamps.As<Napi::Array>();
    for (uint32_t index = 0; index < list.Length(); ++index) {
      const Napi::Object object = objectOf(list.Get(index), "clamps");
      EngineClamp clamp;
      clamp.offset = integerOf(object.Get("offset"), "offset", 0, args_.length);
      clamp.length = integerOf(object.Get("length"), "length", 1, args_.length);
      clamp.least = static_cast<float>(numberOf(object.Get("least"), "least"));
      clamp.most = static_cast<float>(numberOf(object.Get("most"), "most"));
      clamps_.push_back(clamp);
    }
  }

 protected:
  Status run(const Context& context) override { return engine_->update(context, args_, average_, clamps_); }
  Napi::Value result(Napi::Env env) override { return Napi::Number::New(env, norm_); }

 private:
  std::shared_ptr<Engine> engine_;
  AdamwArgs args_;
  bool average_;
  std::vector<EngineClamp> clamps_;
  double norm_ = 0;
};

class Save final : public Operation {
 public:
  Save(Napi::Env env, const Napi::Value& context, const Napi::Value& engine)
      : Operation(env, context), engine_(engineOf(engine)) {
    const auto make = [&] { return hold(newArray<float>(env, engine_->count())).Data(); };
    base_ = heldCount();
    parameters_ = make();
    first_ = make();
    second_ = make();
    ema_ = engine_->hasAverage() ? make() : nullptr;
  }

 protected:
  Status run(const Context&) override { return engine_->save(parameters_, first_, second_, ema_); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("parameters", held(base_));
    object.Set("first", held(base_ + 1));
    object.Set("second", held(base_ + 2));
    if (ema_ != nullptr) object.Set("ema", held(base_ + 3));
    return object;
  }

 private:
  std::shared_ptr<Engine> engine_;
  size_t base_;
  float *parameters_, *first_, *second_, *ema_;
};

class Restore final : public Operation {
 public:
  Restore(Napi::Env env, const Napi::Value& context, const Napi::Value& engine, const Napi::Value& stateValue)
      : Operation(env, context), engine_(engineOf(engine)) {
    const Napi::Object state = objectOf(stateValue, "state");
    const auto take = [&](const char* name) {
      return hold(arrayOf<float>(state.Get(name), name, engine_->count())).Data();
    };
    parameters_ = take("parameters");
    first_ = take("first");
    second_ = take("second");
    ema_ = state.Get("ema").IsUndefined() ? nullptr : take("ema");
  }

 protected:
  Status run(const Context&) override { return engine_->restore(parameters_, first_, second_, ema_); }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }

 private:
  std::shared_ptr<Engine> engine_;
  const float *parameters_, *first_, *second_, *ema_;
};

}  // namespace

std::shared_ptr<Engine> engineOf(const Napi::Value& value) {
  Handle* handle = handleOf(value);
  if (handle->engine) return handle->engine;
  Napi::Error error = Napi::Error::New(value.Env(), "The engine was disposed");
  error.Set("code", "DISPOSED");
  throw error;
}

Napi::Value engineCreate(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Create>(info.Env(), info[0], info[1]));
}

Napi::Value engineLoad(const Napi::CallbackInfo& info) {
  int64_t id = 0;
  const Status status = engineOf(info[0])->load(specOf(info[1]), &id);
  if (!status.ok()) throw makeError(info.Env(), status);
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

Napi::Value engineUnload(const Napi::CallbackInfo& info) {
  engineOf(info[0])->unload(integerOf(info[1], "program", 0, int64_t{1} << 53));
  return info.Env().Undefined();
}

Napi::Value engineRelease(const Napi::CallbackInfo& info) {
  engineOf(info[0])->release(integerOf(info[1], "program", 0, int64_t{1} << 53));
  return info.Env().Undefined();
}

Napi::Value engineForward(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<Forward>(info.Env(), info[0], info[1], info[2], info[3], info[4]));
}

Napi::Value engineBackward(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Backward>(info.Env(), info[0], info[1], info[2],
                                                                 info[3], info[4], info[5]));
}

Napi::Value engineStage(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Stage>(info.Env(), info[0], info[1], info[2]));
}

// Whether the engine's device takes inputs while it works.
Napi::Value engineStages(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), engineOf(info[0])->runner().sends());
}

Napi::Value engineAddGradient(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<AddGradient>(info.Env(), info[0], info[1], info[2], info[3]));
}

Napi::Value engineConcatenate(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Concatenate>(info.Env(), info[0], info[1], info[2]));
}

Napi::Value engineRead(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Read>(info.Env(), info[0], info[1], info[2]));
}

Napi::Value engineUpdate(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(),
                          std::make_unique<Update>(info.Env(), info[0], info[1], info[2], info[3]));
}

Napi::Value engineSave(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Save>(info.Env(), info[0], info[1]));
}

Napi::Value engineRestore(const Napi::CallbackInfo& info) {
  return Operation::start(info.Env(), std::make_unique<Restore>(info.Env(), info[0], info[1], info[2]));
}

Napi::Value engineDispose(const Napi::CallbackInfo& info) {
  handleOf(info[0])->engine = nullptr;
  return info.Env().Undefined();
}

// What a planner has to know of a device: the operations, in the order of their numbers.
Napi::Value engineOperations(const Napi::CallbackInfo& info) {
  const std::vector<std::string>& names = Program::operationNames();
  Napi::Array list = Napi::Array::New(info.Env(), names.size());
  for (size_t i = 0; i < names.size(); ++i) list.Set(static_cast<uint32_t>(i), names[i]);
  return list;
}

Napi::Value enginePackedFloats(const Napi::CallbackInfo& info) {
  const int64_t most = int64_t{1} << 31;
  const auto precision = booleanOf(info[3], "bfloat16") ? Precision::kBfloat16 : Precision::kFloat32;
  const int64_t floats = engineOf(info[0])->runner().packedFloats(
      integerOf(info[1], "n", 1, most), integerOf(info[2], "k", 1, most), precision);
  return Napi::Number::New(info.Env(), static_cast<double>(floats));
}

}  // namespace clipcid::bindings
