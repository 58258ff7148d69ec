// What the tests of the GPU's back end need: the emulated device in all its ways, and faults that are expected.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>

#include "check.h"
#include "cuda/devices.h"
#include "emulator/options.h"

namespace clipcid::test {

using emulator::Rounding;
using emulator::When;

// Runs `body` with eager and with lazy operations and streams, and in several orders of warps, lanes and blocks.
inline void inAllWays(const std::function<void()>& body, const std::vector<uint64_t>& seeds = {0, 1, 2, 3}) {
  const emulator::Options before = emulator::options();
  for (const When when : {When::kEager, When::kLazy}) {
    for (const uint64_t seed : seeds) {
      emulator::options().async = when;
      emulator::options().streams = when;
      emulator::options().seed = seed;
      body();
    }
  }
  emulator::options() = before;
}

inline Backend& emulatedBackend(int index = 0) {
  Status status;
  Backend* backend = cudaBackend(index, &status);
  CHECK_OK(status);
  if (backend == nullptr) std::exit(report("the emulated device"));
  return *backend;
}

// Whether `body` ends the process, and says `words` on the way.
inline bool faults(const std::function<void()>& body, const std::string& words) {
  std::fflush(nullptr);
  int ends[2];
  if (pipe(ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    // Threads of the pool are not in a child.
    emulator::options().threads = 1;
    body();
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[512];
  for (ssize_t got; (got = read(ends[0], part, sizeof part)) > 0;)
    text.append(part, static_cast<size_t>(got));
  close(ends[0]);
  int how = 0;
  waitpid(child, &how, 0);
  // Under the address sanitizer some are told of in its words.
  const bool told =
      text.find(words) != std::string::npos || text.find("AddressSanitizer") != std::string::npos;
  const bool good = !(WIFEXITED(how) && WEXITSTATUS(how) == 0) && told;
  if (!good)
    std::fprintf(stderr, "expected a fault that says '%s', got %d: %s\n", words.c_str(), how, text.c_str());
  return good;
}

}  // namespace clipcid::test
