// Runs operations on the emulated device beside the CPU.
#pragma once

#include <cstring>

#include "cuda/backend.h"
#include "emulated.h"

namespace clipcid::test {

// Floats of an arena that an operation is to write, and how far off the CPU's they may be, relative to their norm; 0: equal.
struct Output {
  int64_t offset, count;
  double bound;
};

inline std::vector<float> noises(int64_t count, uint64_t stream) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = noise(stream, i);
  return values;
}

inline double relativeError(const float* actual, const float* expected, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double error = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    difference += error * error;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

inline std::unique_ptr<Runner> runnerOf(Backend& backend) {
  std::unique_ptr<Runner> runner;
  CHECK_OK(backend.runner(contextOf(2), &runner));
  return runner;
}

// With the precision of all products.
inline Operation inPrecision(Operation operation, Precision precision) {
  std::visit(
      [&](auto& args) {
        if constexpr (requires { args.precision; }) args.precision = precision;
        if constexpr (requires { args.shape.precision; }) args.shape.precision = precision;
      },
      operation);
  return operation;
}

// `make(base)` gives the operations over an arena that begins with `arena`.
using Make = std::function<std::vector<Operation>(float*)>;

inline std::vector<float> onBackend(Backend& backend, const std::vector<float>& arena, const Make& make,
                                    Precision precision) {
  const std::unique_ptr<Runner> runner = runnerOf(backend);
  std::shared_ptr<char> memory;
  const auto bytes = static_cast<int64_t>(arena.size() * 4);
  CHECK_OK(runner->allocate(bytes, &memory));
  CHECK_OK(runner->write(memory.get(), arena.data(), bytes));
  CHECK_OK(runner->run(contextOf(2), nullptr, [&](Queue& queue) -> Status {
    for (const Operation& one : make(reinterpret_cast<float*>(memory.get())))
      CLIPCID_TRY(queue.run(inPrecision(one, precision)));
    return {};
  }));
  std::vector<float> result(arena.size());
  CHECK_OK(runner->read(result.data(), memory.get(), bytes));
  return result;
}

// Everything but the outputs stays as it was.
inline void compare(const std::string& name, const std::vector<float>& arena, const Make& make,
                    const std::vector<Output>& outputs, bool exact = true) {
  const Precision precision = exact ? Precision::kFloat32 : Precision::kBfloat16;
  const std::vector<float> expected = onBackend(cpuBackend(), arena, make, Precision::kFloat32);
  const std::vector<float> actual = onBackend(emulatedBackend(), arena, make, precision);
  std::vector<bool> written(arena.size(), false);
  for (const Output& output : outputs) {
    const auto at = static_cast<size_t>(output.offset);
    std::fill_n(written.begin() + output.offset, output.count, true);
    const bool good =
        output.bound == 0
            ? std::memcmp(&actual[at], &expected[at], static_cast<size_t>(output.count) * 4) == 0
            : relativeError(&actual[at], &expected[at], output.count) <= output.bound;
    if (!good)
      std::fprintf(stderr, "%s: at %lld off by %g\n", name.c_str(), static_cast<long long>(output.offset),
                   relativeError(&actual[at], &expected[at], output.count));
    CHECK(good);
  }
  for (size_t i = 0; i < arena.size(); ++i) {
    if (written[i] || std::memcmp(&actual[i], &arena[i], 4) == 0) continue;
    std::fprintf(stderr, "%s: wrote at %zu\n", name.c_str(), i);
    CHECK(false);
    break;
  }
  inAllWays(
      [&] {
        const std::vector<float> again = onBackend(emulatedBackend(), arena, make, precision);
        CHECK(std::memcmp(again.data(), actual.data(), actual.size() * 4) == 0);
      },
      {1, 2});
}

constexpr double kExact = 3e-6, kRounded = 1.5e-2;

inline void setInt64(std::vector<float>& arena, int64_t at, const std::vector<int64_t>& values) {
  std::memcpy(arena.data() + at, values.data(), values.size() * 8);
}

}  // namespace clipcid::test
