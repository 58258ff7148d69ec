// What the test programs need: checks that name what failed, and data made from a counter.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "clipcid/backend.h"
#include "clipcid/canonical.h"
#include "clipcid/philox.h"

namespace clipcid::test {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void check(bool good, const char* what, const char* file, int line) {
  if (good) return;
  if (++failures() <= 20) std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
}

inline void checkOk(const Status& status, const char* file, int line) {
  check(status.ok(), status.message.c_str(), file, line);
}

inline int report(const char* name) {
  std::printf("%s: %s\n", name, failures() == 0 ? "passed" : "FAILED");
  return failures() == 0 ? 0 : 1;
}

// About normal, from (stream, index).
inline float noise(uint64_t stream, uint64_t index) {
  const Philox4 draw = philox(20240817, 1000 + stream, index);
  double sum = 0;
  for (const uint32_t word : draw.word) sum += static_cast<double>(word) / 4294967296.0 - 0.5;
  return static_cast<float>(sum * 1.7320508);
}

// Rows in clusters, so that some pairs are close; `spread` is the distance within a cluster.
inline std::vector<float> clusteredRows(int64_t rows, int64_t dim, int64_t clusters, float spread,
                                        uint64_t stream) {
  std::vector<float> data(static_cast<size_t>(rows * dim));
  for (int64_t i = 0; i < rows; ++i) {
    const auto cluster =
        static_cast<int64_t>(philox64(7, stream, static_cast<uint64_t>(i)) % static_cast<uint64_t>(clusters));
    for (int64_t k = 0; k < dim; ++k) {
      const float centre = noise(stream * 2, static_cast<uint64_t>(cluster * dim + k));
      data[static_cast<size_t>(i * dim + k)] =
          centre + spread * noise(stream * 2 + 1, static_cast<uint64_t>(i * dim + k));
    }
  }
  return data;
}

inline Context contextOf(int threads, uint64_t seed = 0) {
  Context context;
  context.threads = threads;
  context.seed = seed;
  return context;
}

// Rows as compared; faults become rows of zeros.
inline std::vector<float> compared(const std::vector<float>& data, int64_t dim, bool unit) {
  std::vector<float> out = data;
  for (size_t at = 0; at < out.size(); at += static_cast<size_t>(dim)) {
    float* row = out.data() + at;
    const double square = canonicalDot(row, row, dim);
    if (!std::isfinite(square) || (unit && square == 0)) {
      for (int64_t k = 0; k < dim; ++k) row[k] = 0;
    } else if (unit) {
      canonicalRow(row, dim, std::sqrt(square), row);
    }
  }
  return out;
}

}  // namespace clipcid::test

#define CHECK(condition) ::clipcid::test::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_OK(status) ::clipcid::test::checkOk((status), __FILE__, __LINE__)
