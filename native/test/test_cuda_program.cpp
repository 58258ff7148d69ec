// Programs on the emulated device: an engine that trains there does what one on the CPU does, as graphs and one operation after the
// other, with inputs sent ahead and not, the same to the bit from run to run; faults of the data are told and leave everything as
// it was.
#include <cstring>
#include <thread>

#include "core/engine.h"
#include "cuda/device_rows.h"
#include "cuda/ops/work.h"
#include "emulated.h"
#include "emulator/queue.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

double kindOf(const char* name) {
  const std::vector<std::string>& names = Program::operationNames();
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<double>(i);
  }
  return -1;
}

void add(std::vector<double>& code, const char* name, const std::vector<double>& numbers) {
  code.push_back(kindOf(name));
  code.push_back(static_cast<double>(numbers.size()));
  code.insert(code.end(), numbers.begin(), numbers.end());
}

// Rows of a table by index, times a matrix, gelu: y[5, 6] = gelu(table[ids] w). Parameters: table [9, 8], w [8, 6].
constexpr int64_t kIds = 5, kRows = 9, kDepth = 8, kColumns = 6;
constexpr int64_t kTable = 0, kMatrix = kRows * kDepth, kCount = kMatrix + kDepth * kColumns;
constexpr double kArena = 0, kParameters = 1, kGradients = 2;

ProgramSpec specOf(bool exact) {
  // Bytes in the arena: ids, x, z, y, dy, dz, dx.
  const double ids = 0, x = 64, z = x + kIds * kDepth * 4, y = z + kIds * kColumns * 4 + 8,
               dy = y + kIds * kColumns * 4 + 8, dz = dy + kIds * kColumns * 4 + 8,
               dx = dz + kIds * kColumns * 4 + 8, end = dx + kIds * kDepth * 4;
  const double k = kDepth, n = kColumns, m = kIds;
  ProgramSpec spec;
  // outer, size, inner, count, index type, apart, type; x, indices, y
  add(spec.code, "gather", {1, kRows, k, m, 1, 0, 0, kParameters, 0, 0, kArena, ids, 0, kArena, x, 0});
  const auto product = [&](double rows, double columns, double depth, double rowA, double rowB,
                           double transposeA, double transposeB, double accumulate,
                           std::vector<double> operands) {
    std::vector<double> numbers = {1,    0,       0,          0,          1,     0,
                                   0,    0,       rows,       columns,    depth, rowA,
                                   rowB, columns, transposeA, transposeB, 0,     accumulate};
    numbers.push_back(exact ? 0 : 1);  // Precision
    numbers.push_back(1);
    numbers.insert(numbers.end(), operands.begin(), operands.end());
    numbers.push_back(0);
    add(spec.code, "product", numbers);
  };
  product(m, n, k, k, n, 0, 0, 0, {kArena, x, 0, kParameters, kMatrix * 4, 0, kArena, z, 0});
  const double gelu = static_cast<double>(Step::kGelu), back = static_cast<double>(Step::kGeluGradient);
  add(spec.code, "chain",
      {0, 1, m * n, 1, 0, 1, kArena, z, 0, 1, gelu, 0, 255, 255, 0, 0, 1, 0, 12, kArena, y, 0});
  add(spec.code, "chain", {0, 1,    m * n, 2, 0,   1, kArena, dy, 0, 0,  1,      kArena, z, 0,
                           1, back, 0,     1, 255, 0, 0,      1,  0, 12, kArena, dz,     0});
  product(k, n, m, k, n, 1, 0, 1, {kArena, x, 0, kArena, dz, 0, kGradients, kMatrix * 4, 0});
  product(m, k, n, n, n, 0, 1, 0, {kArena, dz, 0, kParameters, kMatrix * 4, 0, kArena, dx, 0});
  add(spec.code, "scatter", {1, kRows, k, m, 1, 0, 1, kArena, dx, 0, kArena, ids, 0, kGradients, 0, 0});
  spec.phases = {{0, 3, 1}, {3, 7, 1}};
  spec.forwardPhases = 1;
  spec.arenaBytes = (static_cast<int64_t>(end) + 63) / 64 * 64;
  spec.inputs = {{Space::kArena, 0, kIds * 8}};
  spec.outputs = {{Space::kArena, static_cast<int64_t>(y), kIds * kColumns * 4}};
  spec.outputGradients = {{Space::kArena, static_cast<int64_t>(dy), kIds * kColumns * 4}};
  return spec;
}

struct State {
  std::vector<float> parameters, first, second, ema;
  std::vector<float> outputs;
  double norm = 0;

  bool operator==(const State& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
    };
    return same(parameters, other.parameters) && same(first, other.first) && same(second, other.second) &&
           same(ema, other.ema) && same(outputs, other.outputs) && norm == other.norm;
  }
};

std::shared_ptr<Engine> engineOn(Backend& backend, bool exact, int64_t* id) {
  std::vector<float> start(kCount);
  for (size_t i = 0; i < start.size(); ++i) start[i] = noise(1, i) / 2;
  std::shared_ptr<Engine> engine;
  CHECK_OK(Engine::create(backend, contextOf(2), start.data(), kCount, &engine));
  CHECK_OK(engine->load(specOf(exact), id));
  return engine;
}

AdamwArgs updateOf(int step) {
  AdamwArgs args;
  args.step = step;
  args.rate = 0.05 / step;
  args.decay = 0.1;
  args.clip = 2;
  args.emaDecay = 0.9;
  args.groups = {{kMatrix, 1, 0}, {kCount - kMatrix - 4, 0.5, 1}, {4, 0, 0}};
  return args;
}

// Some steps: two passes forward and backward each, a gradient that the caller adds, and an update with clipping, an average and a
// clamp.
State train(Backend& backend, bool exact, bool ahead, int steps) {
  int64_t id = 0;
  const std::shared_ptr<Engine> engine = engineOn(backend, exact, &id);
  const Context context = contextOf(2);
  State state;
  for (int step = 1; step <= steps; ++step) {
    for (int part = 0; part < 2; ++part) {
      std::vector<int64_t> ids(kIds);
      std::vector<float> dy(kIds * kColumns), y(dy.size());
      for (size_t i = 0; i < ids.size(); ++i)
        ids[i] =
            static_cast<int64_t>((i * 2 + static_cast<size_t>(step + part)) % 3) - (part == 0 ? 0 : kRows);
      for (size_t i = 0; i < dy.size(); ++i) dy[i] = noise(2, i + static_cast<size_t>(step));
      StagedInputs staged;
      if (ahead) {
        // As it happens: from another thread.
        std::thread([&] { CHECK_OK(engine->stage({ids.data()}, {kIds * 8}, &staged)); }).join();
      }
      const bool keep = step % 2 == 0;
      CHECK_OK(
          engine->forward(context, id, {ids.data()}, ahead ? &staged : nullptr, {{y.data()}}, false, keep));
      state.outputs.insert(state.outputs.end(), y.begin(), y.end());
      CHECK_OK(engine->backward(context, id, {ids.data()}, nullptr, {{dy.data()}}));
    }
    const float more[] = {0.25f, -0.5f};
    CHECK_OK(engine->addGradient(context, 3, more, 2));
    AdamwArgs args = updateOf(step);
    args.gradientNorm = &state.norm;
    CHECK_OK(engine->update(context, args, true, {{2, 2, -0.1f, 0.1f}}));
  }
  state.parameters.resize(kCount);
  state.first.resize(kCount);
  state.second.resize(kCount);
  state.ema.resize(kCount);
  CHECK_OK(engine->save(state.parameters.data(), state.first.data(), state.second.data(), state.ema.data()));
  return state;
}

double largestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return most;
}

void trains() {
  const State wanted = train(cpuBackend(), true, false, 6);
  const size_t before = emulator::graphsLaunched();
  const State exact = train(emulatedBackend(), true, false, 6);
  // Of six steps' two passes each way and updates the first of each kind were not.
  CHECK(emulator::graphsLaunched() - before >= 12 + 5);
  CHECK(largestDifference(wanted.outputs, exact.outputs) < 2e-5);
  CHECK(largestDifference(wanted.parameters, exact.parameters) < 2e-5);
  CHECK(largestDifference(wanted.ema, exact.ema) < 2e-5);
  CHECK(std::abs(wanted.norm - exact.norm) < 1e-4 * wanted.norm);
  const State rounded = train(emulatedBackend(), false, false, 6);
  CHECK(largestDifference(wanted.outputs, rounded.outputs) < 0.1);
  CHECK(!(rounded == exact));
  inAllWays([&] {
    CHECK(train(emulatedBackend(), true, false, 6) == exact);
    CHECK(train(emulatedBackend(), true, true, 6) == exact);
  });
}

// The update is a graph from its second step on, and does what it does as one operation after the other: beside an engine that goes
// on, one begins anew for every step. Rates, corrections and gradients are others each time.
void updates() {
  int64_t id = 0;
  const Context context = contextOf(2);
  const std::shared_ptr<Engine> goesOn = engineOn(emulatedBackend(), true, &id);
  State before;
  for (int step = 1; step <= 5; ++step) {
    const std::shared_ptr<Engine> begins = engineOn(emulatedBackend(), true, &id);
    if (step > 1)
      CHECK_OK(begins->restore(before.parameters.data(), before.first.data(), before.second.data(),
                               before.ema.data()));
    std::vector<float> gradient(kCount);
    for (size_t i = 0; i < gradient.size(); ++i)
      gradient[i] = noise(10 + static_cast<uint64_t>(step), i) * (step == 3 ? 10.0f : 0.01f);
    State states[2];
    for (const bool anew : {false, true}) {
      State& state = states[anew];
      const std::shared_ptr<Engine>& engine = anew ? begins : goesOn;
      CHECK_OK(engine->addGradient(context, 0, gradient.data(), kCount));
      AdamwArgs args = updateOf(step);
      args.gradientNorm = &state.norm;
      const size_t launched = emulator::graphsLaunched();
      CHECK_OK(engine->update(context, args, true, {{2, 2, -0.1f, 0.1f}}));
      CHECK(emulator::graphsLaunched() - launched == (anew || step == 1 ? 0 : 1));
      for (std::vector<float>* values : {&state.parameters, &state.first, &state.second, &state.ema})
        values->resize(kCount);
      CHECK_OK(
          engine->save(state.parameters.data(), state.first.data(), state.second.data(), state.ema.data()));
    }
    CHECK(states[0] == states[1]);
    before = states[0];
  }
  // Another clipping is another graph.
  const size_t launched = emulator::graphsLaunched();
  AdamwArgs args = updateOf(6);
  args.clip = 0.5;
  CHECK_OK(goesOn->update(context, args, true, {}));
  CHECK(emulator::graphsLaunched() == launched);
  CHECK_OK(goesOn->update(context, args, true, {}));
  CHECK(emulator::graphsLaunched() == launched + 1);
}

// Whatever goes between host and device goes through pieces of pinned memory, however small: nothing of its size stays behind.
void pieces() {
  const size_t usual = cuda::stagingBytes();
  const State whole = train(emulatedBackend(), true, false, 3);
  cuda::stagingBytes() = 64;
  inAllWays([&] {
    CHECK(train(emulatedBackend(), true, false, 3) == whole);
    CHECK(train(emulatedBackend(), true, true, 3) == whole);
  });
  cuda::stagingBytes() = usual;
  const size_t before = emulator::bytesInUse(0);
  int64_t id = 0;
  const std::shared_ptr<Engine> engine = engineOn(emulatedBackend(), true, &id);
  // Four buffers of the parameters' size, no constants (which take a byte), and the place where a fault is noted.
  CHECK(emulator::bytesInUse(0) - before == 4 * kCount * 4 + 1 + sizeof(cuda::DataFault));
}

// What does not fit is refused before anything runs, with what is needed and what there is.
void memory() {
  const auto refused = [](const Status& status, const std::vector<std::string>& words) {
    CHECK(status.code == Code::kOutOfMemory);
    for (const std::string& word : words) {
      if (status.message.find(word) == std::string::npos)
        check(false, status.message.c_str(), __FILE__, __LINE__);
    }
  };
  Context context = contextOf(2);
  const std::vector<float> parameters(kCount, 0.5f);
  std::shared_ptr<Engine> engine;
  context.maxDeviceMemory = 4 * kCount * 4 - 1;
  refused(Engine::create(emulatedBackend(), context, parameters.data(), kCount, &engine),
          {"Training of 120 parameters", "needs 1 MiB", "of the 0 MiB of maxDeviceMemory 0 MiB are left"});
  ProgramSpec spec = specOf(true);
  int64_t id = 0;
  context.maxDeviceMemory = 4 * kCount * 4 + spec.arenaBytes - 1;
  CHECK_OK(Engine::create(emulatedBackend(), context, parameters.data(), kCount, &engine));
  refused(engine->load(spec, &id),
          {"A pass over this batch needs", "maxDeviceMemory", "smaller micro-batch"});
  // A limit that just takes a pass and the scratch memory of its products, but no average.
  context.maxDeviceMemory = 4 * kCount * 4 + spec.arenaBytes + 40'000;
  CHECK_OK(Engine::create(emulatedBackend(), context, parameters.data(), kCount, &engine));
  CHECK_OK(engine->load(spec, &id));
  std::vector<int64_t> ids = {0, 1, 2, 3, 4};
  std::vector<float> y(kIds * kColumns), dy(y.size(), 1.0f);
  // Inputs are sent ahead where there is room for it; a limit is no reason to fail.
  for (int run = 0; run < 3; ++run) {
    CHECK_OK(engine->forward(context, id, {ids.data()}, nullptr, {{y.data()}}, false, true));
    CHECK_OK(engine->backward(context, id, {ids.data()}, nullptr, {{dy.data()}}));
    CHECK_OK(engine->update(context, updateOf(run + 1), false, {}));
  }
  // Of the device itself, where there is no limit.
  emulator::DeviceModel& device = emulator::options().devices[0];
  const size_t all = device.memory;
  device.memory = emulator::bytesInUse(0) + (3 << 19);
  context.maxDeviceMemory = 0;
  const std::vector<float> many(1 << 20);
  std::shared_ptr<Engine> other;
  refused(Engine::create(emulatedBackend(), context, many.data(), 1 << 20, &other),
          {"Training of 1048576 parameters", "needs 16 MiB", "the GPU has 1 MiB of"});
  device.memory = all;
}

// Steps of a loss between passes forward and backward: of two outputs for the image and two for the text, as micro-batches have them.
// `resident`: none of it leaves the device but the terms; otherwise every matrix goes by way of the host.
State distils(Backend& backend, bool resident, int steps) {
  constexpr int64_t kBatch = 2 * kIds;
  int64_t id = 0;
  const std::shared_ptr<Engine> engine = engineOn(backend, true, &id);
  const Context context = contextOf(2);
  State state;
  for (int step = 1; step <= steps; ++step) {
    std::vector<int64_t> ids[4];
    std::vector<float> host[2] = {std::vector<float>(kBatch * kColumns),
                                  std::vector<float>(kBatch * kColumns)};
    std::shared_ptr<DeviceMatrix> parts[4], whole[2];
    for (int at = 0; at < 4; ++at) {
      for (int64_t i = 0; i < kIds; ++i) ids[at].push_back((i * (at + 2) + step) % kRows);
      OutputTarget target = {host[at / 2].data() + at % 2 * kIds * kColumns};
      if (resident) target = {nullptr, kIds, &parts[at]};
      CHECK_OK(engine->forward(context, id, {ids[at].data()}, nullptr, {target}, false, false));
    }
    LossArgs args;
    args.batch = kBatch;
    args.dim = args.teacherDim = kColumns;
    args.clipWeight = 0.5;
    args.clipLogScale = 1;
    args.ceWeight = 1;
    args.temperature = 0.2;
    args.clusters = kBatch;
    args.learned = true;
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < kBatch; ++i) labels.push_back(static_cast<int32_t>(i * 3 % kBatch));
    args.labels = labels.data();
    std::vector<float> gradients[3];
    LossResult result;
    LossGradient* const places[3] = {&result.image, &result.text, &result.centroids};
    std::vector<Engine::MadeGradient> made;
    if (resident) {
      for (int side = 0; side < 2; ++side)
        CHECK_OK(engine->concatenate({parts[2 * side], parts[2 * side + 1]}, &whole[side]));
      args.image = args.centroids = whole[0].get();
      args.text = whole[1].get();
      for (LossGradient* place : places) made.push_back({place, kBatch, kColumns});
      CHECK_OK(engine->loss(context, args, &made, &result));
    } else {
      args.image = args.centroids = host[0].data();
      args.text = host[1].data();
      for (int at = 0; at < 3; ++at) {
        gradients[at].resize(kBatch * kColumns);
        *places[at] = gradients[at].data();
      }
      CHECK_OK(clusterInstanceLoss(backend, context, args, &result));
    }
    state.outputs.push_back(static_cast<float>(result.clip));
    state.outputs.push_back(static_cast<float>(result.clusterCe));
    for (int at = 0; at < 4; ++at) {
      const int64_t row = at % 2 * kIds;
      GradientSource source;
      if (resident) {
        source = {nullptr, made[static_cast<size_t>(at / 2)].matrix, row, kIds};
      } else {
        source.host = gradients[at / 2].data() + row * kColumns;
      }
      CHECK_OK(engine->backward(context, id, {ids[at].data()}, nullptr, {source}));
    }
    CHECK_OK(resident ? engine->addGradient(context, 3, *made[2].matrix)
                      : engine->addGradient(context, 3, gradients[2].data(), kBatch * kColumns));
    // Given up while work on them may be under way.
    made.clear();
    AdamwArgs update;
    update.step = step;
    update.rate = 0.05;
    update.groups = {{kCount, 1, 1}};
    update.gradientNorm = &state.norm;
    CHECK_OK(engine->update(context, update, false, {}));
  }
  state.parameters.resize(kCount);
  state.first.resize(kCount);
  state.second.resize(kCount);
  CHECK_OK(engine->save(state.parameters.data(), state.first.data(), state.second.data(), nullptr));
  return state;
}

void lossBetween() {
  for (Backend* backend : {&cpuBackend(), &emulatedBackend()})
    CHECK(distils(*backend, true, 4) == distils(*backend, false, 4));
  const size_t before = emulator::graphsLaunched();
  const State wanted = distils(emulatedBackend(), true, 6);
  CHECK(emulator::graphsLaunched() - before >= 12);
  const size_t usual = cuda::stagingBytes();
  inAllWays([&] {
    CHECK(distils(emulatedBackend(), true, 6) == wanted);
    // With what the loss brings sent ahead, however little it is.
    cuda::stagingBytes() = 64;
    CHECK(distils(emulatedBackend(), true, 3) == distils(emulatedBackend(), false, 3));
    cuda::stagingBytes() = usual;
  });

  // Matrices that are another engine's device's, or of another shape.
  int64_t id = 0;
  const std::shared_ptr<Engine> engine = engineOn(emulatedBackend(), true, &id);
  const std::shared_ptr<Engine> other = engineOn(cpuBackend(), true, &id);
  const std::vector<int64_t> ids(kIds);
  std::shared_ptr<DeviceMatrix> own, foreign;
  CHECK_OK(engine->forward(contextOf(1), id, {ids.data()}, nullptr, {{nullptr, kIds, &own}}, false, false));
  CHECK_OK(
      other->forward(contextOf(1), id, {ids.data()}, nullptr, {{nullptr, kIds, &foreign}}, false, false));
  const auto backward = [&](const std::shared_ptr<DeviceMatrix>& matrix, int64_t row, int64_t rows) {
    return engine->backward(contextOf(1), id, {ids.data()}, nullptr, {{nullptr, matrix, row, rows}});
  };
  CHECK_OK(backward(own, 0, kIds));
  CHECK(!backward(foreign, 0, kIds).ok());
  CHECK(!backward(own, 1, kIds).ok());
  CHECK(!backward(own, 0, kIds - 1).ok());
  CHECK(!engine->addGradient(contextOf(1), 0, *foreign).ok());
  CHECK(!engine->addGradient(contextOf(1), kCount - 4, *own).ok());
  std::shared_ptr<DeviceMatrix> joined;
  CHECK(!engine->concatenate({own, foreign}, &joined).ok());
  CHECK(!engine->concatenate({}, &joined).ok());
  LossArgs args;
  args.batch = kIds;
  args.dim = kColumns;
  args.clipWeight = 1;
  args.image = own.get();
  args.text = foreign.get();
  LossResult result;
  std::vector<Engine::MadeGradient> made = {{&result.image, kIds, kColumns}, {&result.text, kIds, kColumns}};
  CHECK(engine->loss(contextOf(1), args, &made, &result).code == Code::kInvalidArgument);
}

// An operation that takes little and then much finds both in one block once it ran, and while a graph is noted down.
void scratch() {
  Status status;
  cuda::Session session(cuda::Device::get(0, &status));
  CHECK_OK(session.begin());
  cuda::Scratch memory;
  const auto operation = [&]() -> Status {
    memory.begin();
    char* out = nullptr;
    for (const int64_t bytes : {1000, 30'000, 70'000, 20})
      CLIPCID_TRY(memory.take(bytes, session.stream(), &out));
    return {};
  };
  CHECK_OK(operation());
  CHECK_OK(memory.settle(session.stream()));
  const int64_t generation = memory.generation();
  memory.mayGrow(false);
  CHECK_OK(operation());
  memory.mayGrow(true);
  CHECK_OK(operation());
  CHECK(memory.generation() == generation);
  CHECK_OK(session.synchronise());
}

// Parameters as they were after a fault, and a step that works behind it.
void faults() {
  int64_t id = 0;
  const std::shared_ptr<Engine> engine = engineOn(emulatedBackend(), true, &id);
  const Context context = contextOf(2);
  std::vector<int64_t> ids = {0, 1, 2, kRows, 4};
  std::vector<float> y(kIds * kColumns), dy(y.size(), 1.0f);
  const Status status = engine->forward(context, id, {ids.data()}, nullptr, {{y.data()}}, false, false);
  CHECK(status.code == Code::kInvalidData);
  CHECK(status.message.find("Index 9 at element 3 is out of range for 9 rows") != std::string::npos);
  ids[3] = 3;
  CHECK_OK(engine->forward(context, id, {ids.data()}, nullptr, {{y.data()}}, false, false));

  std::vector<float> before(kCount), after(kCount), first(kCount), second(kCount);
  CHECK_OK(engine->save(before.data(), first.data(), second.data(), nullptr));
  AdamwArgs args;
  args.rate = 0.1;
  args.groups = {{kCount, 1, 1}};
  double norm = 0;
  args.gradientNorm = &norm;
  // A backward pass with a bad index fails at the step, which takes nothing.
  ids[2] = -kRows - 1;
  CHECK_OK(engine->backward(context, id, {ids.data()}, nullptr, {{dy.data()}}));
  CHECK(engine->update(context, args, false, {}).code == Code::kInvalidData);
  CHECK_OK(engine->save(after.data(), first.data(), second.data(), nullptr));
  CHECK(before == after);
  // As does a gradient that is not a number.
  CHECK_OK(engine->restore(before.data(), first.data(), second.data(), nullptr));
  ids[2] = 2;
  dy[7] = NAN;
  CHECK_OK(engine->backward(context, id, {ids.data()}, nullptr, {{dy.data()}}));
  const Status refused = engine->update(context, args, false, {});
  CHECK(refused.code == Code::kInvalidData);
  CHECK(refused.message.find("is NaN or infinite") != std::string::npos);
  CHECK_OK(engine->save(after.data(), first.data(), second.data(), nullptr));
  CHECK(before == after);
  CHECK_OK(engine->restore(before.data(), first.data(), second.data(), nullptr));
  dy[7] = 1;
  CHECK_OK(engine->backward(context, id, {ids.data()}, nullptr, {{dy.data()}}));
  CHECK_OK(engine->update(context, args, false, {}));
  CHECK(norm > 0);
  // A run that was cancelled leaves one that works.
  Context cancelled = context;
  const int32_t stop = 1;
  cancelled.cancel = &stop;
  CHECK(engine->forward(cancelled, id, {ids.data()}, nullptr, {{y.data()}}, false, false).code ==
        Code::kAborted);
  CHECK_OK(engine->forward(context, id, {ids.data()}, nullptr, {{y.data()}}, false, false));
  // Inputs that were sent ahead are good for once.
  StagedInputs staged;
  CHECK_OK(engine->stage({ids.data()}, {kIds * 8}, &staged));
  CHECK_OK(engine->forward(context, id, {ids.data()}, &staged, {{y.data()}}, false, false));
  CHECK(!engine->forward(context, id, {ids.data()}, &staged, {{y.data()}}, false, false).ok());
}

}  // namespace

int main() {
  trains();
  updates();
  pieces();
  memory();
  lossBetween();
  scratch();
  faults();
  CHECK(emulator::bytesInUse(0) == 0);
  return report("programs on the emulated device");
}
