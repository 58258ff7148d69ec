// What trains: parameters, their gradients and the optimiser's state in flat buffers on a device, and programs that
// compute on them. Only inputs, outputs and what is saved cross to the host.
#pragma once

#include <map>
#include <mutex>

#include "clipcid/backend.h"
#include "core/loss.h"
#include "core/program.h"

namespace clipcid {

// A value of a program that comes from or goes to the host.
struct ProgramValue {
  Space space = Space::kArena;
  int64_t offset = 0, bytes = 0;
};

struct ProgramSpec {
  std::vector<double> code;
  std::vector<Phase> phases;
  // Phases before the outputs are there, and the gradients of them are needed.
  size_t forwardPhases = 0;
  int64_t arenaBytes = 0;
  int64_t ownBytes = 0;  // of each lane (Queue::each)
  std::vector<char> constants;
  std::vector<ProgramValue> inputs, outputs;
  std::vector<ProgramValue> outputGradients;  // [outputs]; of 0 bytes for one without
};

// Where an output goes: the host's memory, of the spec's bytes; or a matrix of the device that is made for it, of so many rows.
struct OutputTarget {
  void* host = nullptr;
  int64_t rows = 0;
  std::shared_ptr<DeviceMatrix>* matrix = nullptr;
};

// Where an output's gradient is: in the host's memory, or the rows [row, row + rows) of a matrix of the device; or nowhere: zero.
struct GradientSource {
  const void* host = nullptr;
  std::shared_ptr<const DeviceMatrix> matrix = nullptr;
  int64_t row = 0, rows = 0;
};

// A program's inputs on their way to the device.
using StagedInputs = std::vector<std::shared_ptr<Sent>>;

struct EngineClamp {
  int64_t offset = 0, length = 0;
  float least = 0, most = 0;
};

// Calls come one at a time from any thread.
class Engine {
 public:
  // `parameters` are copied. The context's limit to a GPU's memory holds for the engine's life.
  static Status create(Backend& backend, const Context& context, const float* parameters, int64_t count,
                       std::shared_ptr<Engine>* out);

  int64_t count() const { return count_; }
  const Runner& runner() const { return *runner_; }

  Status load(ProgramSpec spec, int64_t* id);
  void unload(int64_t id);
  // The spec without its code; null for a program that is not there.
  const ProgramSpec* spec(int64_t id) const;

  // Begins to bring inputs to a device that works meanwhile (Runner::sends), to be given to one call of `forward` or `backward` with
  // the same sizes. It may be called while another call runs.
  Status stage(const std::vector<const void*>& inputs, const std::vector<int64_t>& bytes, StagedInputs* out);
  // Runs the phases forward. Inputs are the host's memory, of the sizes of the spec; `average` takes the moving average of the
  // parameters where there is one; `staged` holds inputs that are on their way, or is null. `keep` holds the activations for
  // `backward`. Where no output goes to the host, it may return before all is done.
  Status forward(const Context& context, int64_t id, const std::vector<const void*>& inputs,
                 const StagedInputs* staged, const std::vector<OutputTarget>& outputs, bool average,
                 bool keep);
  // Runs the phases backward, adding to the gradients; the phases forward before them unless activations are held.
  Status backward(const Context& context, int64_t id, const std::vector<const void*>& inputs,
                  const StagedInputs* staged, const std::vector<GradientSource>& gradients);
  void release(int64_t id);

  Status addGradient(const Context& context, int64_t offset, const float* values, int64_t length);
  Status addGradient(const Context& context, int64_t offset, const DeviceMatrix& values);

  // Matrices that stay on the device: rows of some under each other in one, and one on the host.
  Status concatenate(const std::vector<std::shared_ptr<DeviceMatrix>>& parts,
                     std::shared_ptr<DeviceMatrix>* out);
  Status read(const DeviceMatrix& matrix, float* out);
  // The loss over such matrices, after what was queued before it and with nothing between. `gradients` are made, each like its input,
  // and set in the result.
  struct MadeGradient {
    LossGradient* gradient = nullptr;
    int64_t rows = 0, dim = 0;
    std::shared_ptr<DeviceMatrix> matrix = nullptr;
  };
  Status loss(const Context& context, const LossArgs& args, std::vector<MadeGradient>* gradients,
              LossResult* result);
  // One step; `args` has everything but the buffers and their length. Activations that are held are dropped.
  Status update(const Context& context, AdamwArgs args, bool average, const std::vector<EngineClamp>& clamps);

  bool hasAverage() const { return ema_ != nullptr; }
  // Each [count]; `ema` may be null.
  Status save(float* parameters, float* first, float* second, float* ema);
  // Gradients become zero; without `ema` there is no average.
  Status restore(const float* parameters, const float* first, const float* second, const float* ema);

 private:
  struct Loaded {
    int64_t id = 0;
    ProgramSpec spec;
    Program program;
    std::shared_ptr<char> constants;
    std::shared_ptr<char> held;  // an arena with activations
  };
  struct Arena {
    int64_t bytes;
    std::shared_ptr<char> memory;
  };

  Engine(std::unique_ptr<Runner> runner, const Backend* owner, int64_t count)
      : runner_(std::move(runner)), owner_(owner), count_(count) {}
  bool owns(const DeviceMatrix& matrix) const {
    return matrix.owner == owner_ && matrix.dtype == Dtype::kFloat32;
  }
  Status addToGradient(const Context& context, int64_t offset, int64_t length,
                       const std::function<Status(char*)>& bring);
  Status requireMemory(const ProgramSpec& spec);
  Status arena(int64_t bytes, std::shared_ptr<char>* out);
  Status runForward(const Context& context, Loaded& loaded, const std::vector<const void*>& inputs,
                    const StagedInputs* staged, char* arena, char* parameters);
  Status runPhases(const Context& context, const Loaded& loaded, char* arena, char* parameters, size_t begin,
                   size_t end);
  std::array<char*, kSpaces> spaces(const Loaded& loaded, char* arena, char* parameters) const;
  // Of an arena with the lanes' own memory behind it.
  int64_t bytesOf(const ProgramSpec& spec) const {
    return spec.arenaBytes + runner_->lanes() * spec.ownBytes;
  }

  std::unique_ptr<Runner> runner_;
  const Backend* const owner_;
  const int64_t count_;
  std::shared_ptr<char> parameters_, gradients_, first_, second_, ema_;
  std::map<int64_t, Loaded> programs_;
  std::vector<Arena> arenas_;  // of programs, those in use among them
  int64_t next_ = 1;
  mutable std::mutex mutex_;
};

}  // namespace clipcid
