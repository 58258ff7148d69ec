// Programs are checked before they run: what is damaged is refused, whatever the damage.
#include <array>

#include "check.h"
#include "core/engine.h"
#include "core/program.h"

namespace clipcid {
namespace {

double kindOf(const char* name) {
  const std::vector<std::string>& names = Program::operationNames();
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<double>(i);
  }
  return -1;
}

std::vector<double> operation(const char* name, std::vector<double> numbers) {
  numbers.insert(numbers.begin(), {kindOf(name), static_cast<double>(numbers.size())});
  return numbers;
}

// y[4, 6] = softmax of x[4, 6], at 0 and 96 of 192 bytes of arena; then the sum of its columns is added to the gradient.
std::vector<double> sound() {
  std::vector<double> code = operation("softmax", {4, 6, 1, 0, 0, 0, 96, 0, 96, 96});
  const std::vector<double> second = operation("reduce", {1, 4, 6, 0, 1, 1, 0, 96, 96, 2, 0, 0});
  code.insert(code.end(), second.begin(), second.end());
  return code;
}

Status load(const std::vector<double>& code, int64_t arena, int64_t parts, Program* program) {
  return Program::load(code.data(), code.size(), {arena, 24, 24, 0}, {{0, 2, parts}}, program);
}

void bounds() {
  Program program;
  // x, and y behind it: two parts of it need twice the room.
  CHECK_OK(load(sound(), 288, 2, &program));
  CHECK(!load(sound(), 284, 2, &program).ok());
  CHECK_OK(load(sound(), 192, 1, &program));
  CHECK(!load(sound(), 191, 1, &program).ok());
  for (const int64_t parts : {0, -1, 1 << 24}) CHECK(!load(sound(), 1 << 20, parts, &program).ok());
  // Phases that don't cover it, or more than it.
  const std::vector<double> code = sound();
  const std::array<int64_t, kSpaces> bytes = {192, 24, 24, 0};
  CHECK(!Program::load(code.data(), code.size(), bytes, {{0, 1, 1}}, &program).ok());
  CHECK(!Program::load(code.data(), code.size(), bytes, {{0, 3, 1}}, &program).ok());
  CHECK(!Program::load(code.data(), code.size(), bytes, {{1, 2, 1}}, &program).ok());
  CHECK(!Program::load(code.data(), code.size() - 1, bytes, {{0, 2, 1}}, &program).ok());
}

// Every number replaced by what it must not be: most are refused, and none brings the loader to read out of bounds, which
// the sanitizers would tell.
void damage() {
  const std::vector<double> code = sound();
  const double values[] = {-1, 0.5, 1e18, -1e18, NAN, INFINITY, 1 << 30, 3};
  int refused = 0;
  for (size_t at = 0; at < code.size(); ++at) {
    for (const double value : values) {
      std::vector<double> changed = code;
      changed[at] = value;
      Program program;
      refused += !load(changed, 192, 1, &program).ok();
    }
    std::vector<double> cut(code.begin(), code.begin() + static_cast<int64_t>(at));
    Program program;
    CHECK(!load(cut, 192, 1, &program).ok());
  }
  CHECK(refused > static_cast<int>(code.size()) * 5);
}

void writesWhereItMay() {
  Program program;
  const auto fill = [&](double space, double offset) {
    const std::vector<double> code = operation("softmax", {1, 2, 1, 0, 0, 0, 0, space, offset, 0});
    return Program::load(code.data(), code.size(), {64, 64, 64, 64}, {{0, 1, 1}}, &program);
  };
  CHECK_OK(fill(0, 8));
  CHECK(!fill(1, 8).ok());  // parameters are for the optimiser
  CHECK_OK(fill(2, 8));
  CHECK(!fill(3, 8).ok());
  CHECK(!fill(0, 2).ok());  // not aligned
  CHECK(!fill(4, 8).ok());
}

// An engine runs a program, adds its gradients, and takes a step.
void engine() {
  const float start[] = {1, 2, 3, 4, 5, 6};
  std::shared_ptr<Engine> engine;
  CHECK_OK(Engine::create(cpuBackend(), test::contextOf(2), start, 6, &engine));
  // y[2, 6] = x[2, 6] + parameters; the gradient is the sum of dy's rows.
  ProgramSpec spec;
  const std::vector<double> add = operation("chain", {0, 2, 2, 6,  2, 0, 6,   1, 0, 0, 0, 0,  0, 1,  1,
                                                      0, 0, 1, 24, 0, 1, 255, 0, 0, 1, 0, 12, 0, 64, 0});
  const std::vector<double> sum = operation("reduce", {1, 2, 6, 0, 1, 1, 0, 128, 0, 2, 0, 0});
  spec.code = add;
  spec.code.insert(spec.code.end(), sum.begin(), sum.end());
  spec.phases = {{0, 1, 1}, {1, 2, 1}};
  spec.forwardPhases = 1;
  spec.arenaBytes = 192;
  spec.inputs = {{Space::kArena, 0, 48}};
  spec.outputs = {{Space::kArena, 64, 48}};
  spec.outputGradients = {{Space::kArena, 128, 48}};
  int64_t id = 0;
  CHECK_OK(engine->load(spec, &id));
  spec.outputs = {{Space::kArena, 160, 48}};
  int64_t other = 0;
  CHECK(!engine->load(spec, &other).ok());

  const Context context = test::contextOf(2);
  std::vector<float> x(12), y(12), dy(12);
  for (size_t i = 0; i < 12; ++i) {
    x[i] = static_cast<float>(i);
    dy[i] = static_cast<float>(i % 6);
  }
  CHECK_OK(engine->forward(context, id, {x.data()}, nullptr, {{y.data()}}, false, true));
  for (size_t i = 0; i < 12; ++i) CHECK(y[i] == x[i] + start[i % 6]);
  CHECK_OK(engine->backward(context, id, {x.data()}, nullptr, {{dy.data()}}));
  CHECK_OK(engine->backward(context, id, {x.data()}, nullptr, {GradientSource()}));
  const float more[] = {0.5f, 0.5f};
  CHECK_OK(engine->addGradient(context, 2, more, 2));
  CHECK(!engine->addGradient(context, 5, more, 2).ok());
  AdamwArgs step;
  step.beta1 = 0;
  step.rate = 0.1;
  double norm = 0;
  step.gradientNorm = &norm;
  step.groups = {{6, 1, 1}};
  CHECK_OK(engine->update(context, step, true, {{0, 1, 3, 4}}));
  std::vector<float> parameters(6), first(6), second(6), ema(6);
  CHECK_OK(engine->save(parameters.data(), first.data(), second.data(), ema.data()));
  const float gradient[] = {0, 2, 4.5f, 6.5f, 8, 10};
  for (size_t i = 0; i < 6; ++i) CHECK(first[i] == gradient[i]);
  CHECK(parameters[0] == 3);  // clamped
  CHECK(engine->hasAverage());
  CHECK_OK(engine->restore(start, first.data(), second.data(), nullptr));
  CHECK(!engine->hasAverage());
  CHECK_OK(engine->forward(context, id, {x.data()}, nullptr, {{y.data()}}, true, false));
  for (size_t i = 0; i < 12; ++i) CHECK(y[i] == x[i] + start[i % 6]);
  engine->unload(id);
  CHECK(!engine->forward(context, id, {x.data()}, nullptr, {{y.data()}}, false, false).ok());
}

// Parts that run apart: each goes through memory of its thread's own.
void apart() {
  const float start[] = {1, 2, 3, 4, 5, 6};
  for (const int threads : {1, 2, 7}) {
    std::shared_ptr<Engine> engine;
    CHECK_OK(Engine::create(cpuBackend(), test::contextOf(threads), start, 6, &engine));
    // own = x + parameters, y = own + own, of four rows.
    ProgramSpec spec;
    spec.code = operation(
        "chain", {0, 1, 6, 2, 0, 1, 0, 0, 24, 0, 1, 1, 0, 0, 1, 24, 0, 1, 255, 0, 0, 1, 0, 12, 4, 0, 0});
    const std::vector<double> twice =
        operation("chain", {0, 1, 6, 1, 0, 1, 4, 0, 0, 1, 24, 0, 0, 255, 0, 0, 1, 0, 12, 0, 128, 24});
    spec.code.insert(spec.code.end(), twice.begin(), twice.end());
    spec.phases = {{0, 2, 4, true}};
    spec.forwardPhases = 1;
    spec.arenaBytes = 256;
    spec.inputs = {{Space::kArena, 0, 96}};
    spec.outputs = {{Space::kArena, 128, 96}};
    spec.outputGradients = {{Space::kArena, 0, 0}};
    int64_t id = 0;
    CHECK(!engine->load(spec, &id).ok());
    spec.ownBytes = 64;
    CHECK_OK(engine->load(spec, &id));
    std::vector<float> x(24), y(24);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
    CHECK_OK(engine->forward(test::contextOf(threads), id, {x.data()}, nullptr, {{y.data()}}, false, false));
    for (size_t i = 0; i < x.size(); ++i) CHECK(y[i] == 2 * (x[i] + start[i % 6]));
  }
}

}  // namespace
}  // namespace clipcid

int main() {
  using namespace clipcid;
  bounds();
  damage();
  writesWhereItMay();
  engine();
  apart();
  return test::report("program");
}
