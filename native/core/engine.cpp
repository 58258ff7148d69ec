#include "core/engine.h"

#include <algorithm>

#include "core/loss_steps.h"
#include "core/parallel.h"

namespace clipcid {
namespace {

constexpr int64_t kFloat = sizeof(float);

Status missing() { return {Code::kInternal, "There is no such program"}; }

bool inside(const ProgramValue& value, int64_t bytes) {
  return value.offset >= 0 && value.bytes >= 0 && value.offset <= bytes &&
         value.bytes <= bytes - value.offset;
}

}  // namespace

Status Engine::create(Backend& backend, const Context& context, const float* parameters, int64_t count,
                      std::shared_ptr<Engine>* out) {
  std::unique_ptr<Runner> runner;
  CLIPCID_TRY(backend.runner(context, &runner));
  std::shared_ptr<Engine> engine(new Engine(std::move(runner), &backend, count));
  CLIPCID_TRY(engine->runner_->require(
      4 * count * kFloat,
      "Training of " + std::to_string(count) + " parameters, with gradients and two moments,",
      "take a smaller model, or free memory of the GPU"));
  for (std::shared_ptr<char>* buffer :
       {&engine->parameters_, &engine->gradients_, &engine->first_, &engine->second_}) {
    CLIPCID_TRY(engine->runner_->allocate(count * kFloat, buffer));
    CLIPCID_TRY(engine->runner_->clear(buffer->get(), count * kFloat));
  }
  CLIPCID_TRY(engine->runner_->write(engine->parameters_.get(), parameters, count * kFloat));
  *out = std::move(engine);
  return {};
}

Status Engine::load(ProgramSpec spec, int64_t* id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto constants = static_cast<int64_t>(spec.constants.size());
  const std::array<int64_t, kSpaces> bytes = {spec.arenaBytes, count_ * kFloat, count_ * kFloat, constants,
                                              spec.ownBytes};
  Loaded loaded;
  CLIPCID_TRY(Program::load(spec.code.data(), spec.code.size(), bytes, spec.phases, &loaded.program));
  spec.code.clear();
  spec.code.shrink_to_fit();
  bool sound = spec.arenaBytes % 64 == 0 && spec.ownBytes % 64 == 0 &&
               spec.forwardPhases <= spec.phases.size() && spec.outputGradients.size() == spec.outputs.size();
  for (const auto* values : {&spec.inputs, &spec.outputs, &spec.outputGradients}) {
    for (const ProgramValue& value : *values)
      sound = sound && inside(value, bytes[static_cast<size_t>(value.space)]);
  }
  // What comes from the host goes to the arena alone.
  for (const auto* values : {&spec.inputs, &spec.outputGradients}) {
    for (const ProgramValue& value : *values) sound = sound && value.space == Space::kArena;
  }
  if (!sound) return {Code::kInternal, "A program's inputs or outputs are outside its memory"};
  CLIPCID_TRY(requireMemory(spec));
  CLIPCID_TRY(runner_->allocate(constants, &loaded.constants));
  if (constants > 0) CLIPCID_TRY(runner_->write(loaded.constants.get(), spec.constants.data(), constants));
  loaded.spec = std::move(spec);
  *id = loaded.id = next_++;
  programs_.emplace(*id, std::move(loaded));
  return {};
}

void Engine::unload(int64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  programs_.erase(id);
}

const ProgramSpec* Engine::spec(int64_t id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = programs_.find(id);
  return found == programs_.end() ? nullptr : &found->second.spec;
}

// An arena for it, unless one is free, which those that are free make room for, and its constants.
Status Engine::requireMemory(const ProgramSpec& spec) {
  int64_t arena = bytesOf(spec), idle = 0;
  for (const Arena& one : arenas_) {
    if (one.memory.use_count() > 1) continue;
    if (one.bytes >= bytesOf(spec)) arena = 0;
    idle += one.bytes;
  }
  return runner_->require(std::max<int64_t>(arena - idle, 0) + static_cast<int64_t>(spec.constants.size()),
                          "A pass over this batch",
                          "take a smaller micro-batch, a limit to activations, or free memory of the GPU");
}

// The smallest that is free and large enough. One is free when nobody but the list holds it; those that are too small
// make room for a larger one.
Status Engine::arena(int64_t bytes, std::shared_ptr<char>* out) {
  const Arena* best = nullptr;
  for (const Arena& arena : arenas_) {
    if (arena.memory.use_count() > 1 || arena.bytes < bytes) continue;
    if (best == nullptr || arena.bytes < best->bytes) best = &arena;
  }
  if (best == nullptr) {
    arenas_.erase(std::remove_if(arenas_.begin(), arenas_.end(),
                                 [](const Arena& arena) { return arena.memory.use_count() == 1; }),
                  arenas_.end());
    Arena arena{bytes, nullptr};
    CLIPCID_TRY(runner_->allocate(bytes, &arena.memory));
    arenas_.push_back(arena);
    best = &arenas_.back();
  }
  *out = best->memory;
  return {};
}

std::array<char*, kSpaces> Engine::spaces(const Loaded& loaded, char* arena, char* parameters) const {
  return {arena, parameters, gradients_.get(), loaded.constants.get(), arena + loaded.spec.arenaBytes};
}

Status Engine::runForward(const Context& context, Loaded& loaded, const std::vector<const void*>& inputs,
                          const StagedInputs* staged, char* arena, char* parameters) {
  for (size_t i = 0; i < loaded.spec.inputs.size(); ++i) {
    const ProgramValue& value = loaded.spec.inputs[i];
    char* to = arena + value.offset;
    CLIPCID_TRY(staged != nullptr ? runner_->land(*(*staged)[i], to)
                                  : runner_->write(to, inputs[i], value.bytes));
  }
  return runPhases(context, loaded, arena, parameters, 0, loaded.spec.forwardPhases);
}

Status Engine::runPhases(const Context& context, const Loaded& loaded, char* arena, char* parameters,
                         size_t begin, size_t end) {
  const auto word = [](const char* pointer) {
    return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer));
  };
  const RunName name = {static_cast<uint64_t>(loaded.id), begin, end, word(arena), word(parameters)};
  return runner_->run(context, &name, [&](Queue& queue) {
    return loaded.program.run(queue, spaces(loaded, arena, parameters), begin, end);
  });
}

Status Engine::forward(const Context& context, int64_t id, const std::vector<const void*>& inputs,
                       const StagedInputs* staged, const std::vector<OutputTarget>& outputs, bool average,
                       bool keep) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = programs_.find(id);
  if (found == programs_.end()) return missing();
  Loaded& loaded = found->second;
  loaded.held = nullptr;
  std::shared_ptr<char> memory;
  CLIPCID_TRY(arena(bytesOf(loaded.spec), &memory));
  char* parameters = average && ema_ ? ema_.get() : parameters_.get();
  CLIPCID_TRY(runForward(context, loaded, inputs, staged, memory.get(), parameters));
  for (size_t i = 0; i < loaded.spec.outputs.size(); ++i) {
    const ProgramValue& value = loaded.spec.outputs[i];
    const char* from =
        spaces(loaded, memory.get(), parameters)[static_cast<size_t>(value.space)] + value.offset;
    const OutputTarget& target = outputs[i];
    if (target.matrix == nullptr) {
      CLIPCID_TRY(runner_->read(target.host, from, value.bytes));
      continue;
    }
    const int64_t rowBytes = target.rows * kFloat;
    if (target.rows < 1 || value.bytes % rowBytes != 0)
      return {Code::kInternal, "An output is no matrix of so many rows"};
    CLIPCID_TRY(runner_->matrix(target.rows, value.bytes / rowBytes, target.matrix));
    CLIPCID_TRY(runner_->put(**target.matrix, 0, target.rows, from));
  }
  if (keep) loaded.held = std::move(memory);
  return {};
}

Status Engine::backward(const Context& context, int64_t id, const std::vector<const void*>& inputs,
                        const StagedInputs* staged, const std::vector<GradientSource>& gradients) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = programs_.find(id);
  if (found == programs_.end()) return missing();
  Loaded& loaded = found->second;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const auto& [host, matrix, row, rows] = gradients[i];
    if (matrix == nullptr) continue;
    if (!owns(*matrix) || row < 0 || rows < 0 || row > matrix->rows - rows ||
        rows * matrix->dim * kFloat != loaded.spec.outputGradients[i].bytes)
      return {Code::kInternal, "A gradient on the device is another's, or of another shape"};
  }
  std::shared_ptr<char> memory = std::move(loaded.held);
  loaded.held = nullptr;
  if (!memory) {
    CLIPCID_TRY(arena(bytesOf(loaded.spec), &memory));
    CLIPCID_TRY(runForward(context, loaded, inputs, staged, memory.get(), parameters_.get()));
  }
  for (size_t i = 0; i < loaded.spec.outputGradients.size(); ++i) {
    const ProgramValue& value = loaded.spec.outputGradients[i];
    char* to = memory.get() + value.offset;
    const GradientSource& from = gradients[i];
    if (from.matrix != nullptr) {
      CLIPCID_TRY(runner_->take(*from.matrix, from.row, from.rows, to));
    } else if (from.host != nullptr) {
      CLIPCID_TRY(runner_->write(to, from.host, value.bytes));
    } else {
      CLIPCID_TRY(runner_->clear(to, value.bytes));
    }
  }
  return runPhases(context, loaded, memory.get(), parameters_.get(), loaded.spec.forwardPhases,
                   loaded.program.phases());
}

Status Engine::stage(const std::vector<const void*>& inputs, const std::vector<int64_t>& bytes,
                     StagedInputs* out) {
  StagedInputs staged(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) CLIPCID_TRY(runner_->send(inputs[i], bytes[i], &staged[i]));
  *out = std::move(staged);
  return {};
}

void Engine::release(int64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = programs_.find(id);
  if (found != programs_.end()) found->second.held = nullptr;
}

Status Engine::addGradient(const Context& context, int64_t offset, const float* values, int64_t length) {
  return addToGradient(context, offset, length,
                       [&](char* to) { return runner_->write(to, values, length * kFloat); });
}

Status Engine::addGradient(const Context& context, int64_t offset, const DeviceMatrix& values) {
  if (!owns(values)) return {Code::kInternal, "A gradient on the device is another's"};
  return addToGradient(context, offset, values.rows * values.dim,
                       [&](char* to) { return runner_->take(values, 0, values.rows, to); });
}

// `bring` puts the values on the device.
Status Engine::addToGradient(const Context& context, int64_t offset, int64_t length,
                             const std::function<Status(char*)>& bring) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (offset < 0 || length < 0 || offset > count_ - length)
    return {Code::kInternal, "There is no such gradient"};
  if (length == 0) return {};
  std::shared_ptr<char> memory;
  CLIPCID_TRY(arena(length * kFloat, &memory));
  CLIPCID_TRY(bring(memory.get()));
  char* gradient = gradients_.get() + offset * kFloat;
  ChainArgs sum;
  sum.chain.dims[0] = length;
  sum.chain.inputs = 2;
  sum.chain.input[0].data = gradient;
  sum.chain.input[1].data = memory.get();
  for (ChainInput& input : sum.chain.input) input.strides[0] = 1;
  sum.chain.steps = 1;
  sum.chain.step[0] = {Step::kAdd, 0, 1, kNumber, 0, 0};
  sum.chain.outputs = 1;
  sum.chain.output[0] = {ElementType::kFloat32, kMostChainInputs, gradient};
  return runner_->run(context, nullptr, [&](Queue& queue) { return queue.run(sum); });
}

Status Engine::concatenate(const std::vector<std::shared_ptr<DeviceMatrix>>& parts,
                           std::shared_ptr<DeviceMatrix>* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (parts.empty()) return {Code::kInternal, "There are no rows to concatenate"};
  int64_t rows = 0;
  for (const auto& part : parts) {
    if (!owns(*part) || part->dim != parts[0]->dim)
      return {Code::kInternal, "A matrix on the device is another's, or of another width"};
    rows += part->rows;
  }
  CLIPCID_TRY(runner_->matrix(rows, parts[0]->dim, out));
  int64_t row = 0;
  for (const auto& part : parts) {
    CLIPCID_TRY(runner_->copy(**out, row, *part));
    row += part->rows;
  }
  return {};
}

Status Engine::read(const DeviceMatrix& matrix, float* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!owns(matrix)) return {Code::kInternal, "A matrix on the device is another's"};
  return runner_->read(out, matrix);
}

Status Engine::loss(const Context& context, const LossArgs& args, std::vector<MadeGradient>* gradients,
                    LossResult* result) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (MadeGradient& made : *gradients) {
    CLIPCID_TRY(runner_->matrix(made.rows, made.dim, &made.matrix));
    *made.gradient = made.matrix.get();
  }
  std::unique_ptr<LossSteps> steps;
  CLIPCID_TRY(runner_->lossSteps(context, &steps));
  return clusterInstanceLoss(*steps, args, result);
}

Status Engine::update(const Context& context, AdamwArgs args, bool average,
                      const std::vector<EngineClamp>& clamps) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [id, loaded] : programs_) loaded.held = nullptr;
  for (const EngineClamp& clamp : clamps) {
    if (clamp.offset < 0 || clamp.length < 1 || clamp.offset > count_ - clamp.length)
      return {Code::kInternal, "There are no such parameters"};
  }
  std::shared_ptr<char> ema = ema_;
  if (average && !ema) {
    CLIPCID_TRY(runner_->require(count_ * kFloat,
                                 "The moving average of " + std::to_string(count_) + " parameters",
                                 "train without it, take a smaller micro-batch, or free memory of the GPU"));
    CLIPCID_TRY(runner_->allocate(count_ * kFloat, &ema));
    CLIPCID_TRY(runner_->copy(ema.get(), parameters_.get(), count_ * kFloat));
  }
  const auto floats = [](const std::shared_ptr<char>& buffer) {
    return reinterpret_cast<float*>(buffer.get());
  };
  args.parameters = floats(parameters_);
  args.gradients = floats(gradients_);
  args.first = floats(first_);
  args.second = floats(second_);
  args.ema = average ? floats(ema) : nullptr;
  args.length = count_;
  CLIPCID_TRY(runner_->adamw(context, args));
  ema_ = std::move(ema);
  if (clamps.empty()) return {};
  return runner_->run(context, nullptr, [&](Queue& queue) -> Status {
    for (const EngineClamp& clamp : clamps) {
      char* parameters = parameters_.get() + clamp.offset * kFloat;
      ChainArgs bounds;
      bounds.chain.dims[0] = clamp.length;
      bounds.chain.inputs = 1;
      bounds.chain.input[0].data = parameters;
      bounds.chain.input[0].strides[0] = 1;
      bounds.chain.steps = 2;
      bounds.chain.step[0] = {Step::kMaximum, 0, kNumber, kNumber, clamp.least, 0};
      bounds.chain.step[1] = {Step::kMinimum, kMostChainInputs, kNumber, kNumber, clamp.most, 0};
      bounds.chain.outputs = 1;
      bounds.chain.output[0] = {ElementType::kFloat32, kMostChainInputs + 1, parameters};
      CLIPCID_TRY(queue.run(bounds));
    }
    return {};
  });
}

Status Engine::save(float* parameters, float* first, float* second, float* ema) {
  const std::lock_guard<std::mutex> lock(mutex_);
  CLIPCID_TRY(runner_->read(parameters, parameters_.get(), count_ * kFloat));
  CLIPCID_TRY(runner_->read(first, first_.get(), count_ * kFloat));
  CLIPCID_TRY(runner_->read(second, second_.get(), count_ * kFloat));
  if (ema != nullptr && ema_) CLIPCID_TRY(runner_->read(ema, ema_.get(), count_ * kFloat));
  return {};
}

Status Engine::restore(const float* parameters, const float* first, const float* second, const float* ema) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [id, loaded] : programs_) loaded.held = nullptr;
  CLIPCID_TRY(runner_->write(parameters_.get(), parameters, count_ * kFloat));
  CLIPCID_TRY(runner_->write(first_.get(), first, count_ * kFloat));
  CLIPCID_TRY(runner_->write(second_.get(), second, count_ * kFloat));
  CLIPCID_TRY(runner_->clear(gradients_.get(), count_ * kFloat));
  if (ema == nullptr) {
    ema_ = nullptr;
    return {};
  }
  if (!ema_) CLIPCID_TRY(runner_->allocate(count_ * kFloat, &ema_));
  return runner_->write(ema_.get(), ema, count_ * kFloat);
}

}  // namespace clipcid
