// A team does every index of every call once, in the order of the calls, whatever its threads do.
#include <atomic>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/ops/team.h"

namespace clipcid {
namespace {

void everyIndexOnce(int threads) {
  TeamMemory memory(threads);
  std::vector<int> seen(1000, 0);
  std::vector<int64_t> sums;
  Team::run(threads, memory, [&](Team& team) {
    CHECK(team.threads() == threads);
    for (int64_t call = 0; call < 2000; ++call) {
      const int64_t count = call * 37 % 1000;
      // A call sees all that the one before it wrote.
      team.each(count, [&](int64_t index, int worker) {
        CHECK(worker >= 0 && worker < threads);
        seen[static_cast<size_t>(index)] += 1;
      });
      int64_t sum = 0;
      for (int& value : seen) {
        CHECK(value == (&value - seen.data() < count ? 1 : 0));
        sum += value;
        value = 0;
      }
      sums.push_back(sum);
    }
  });
  for (size_t call = 0; call < sums.size(); ++call)
    CHECK(sums[call] == static_cast<int64_t>(call) * 37 % 1000);
}

void memoryOfItsOwn(int threads) {
  TeamMemory memory(threads);
  for (const int64_t floats : {100, 5000, 700}) {
    std::atomic<int> wrong{0};
    Team::run(threads, memory, [&](Team& team) {
      team.own(floats);
      float* shared = team.shared(floats);
      CHECK(reinterpret_cast<uintptr_t>(shared) % 64 == 0);
      team.each(500, [&](int64_t index, int worker) {
        float* own = team.of(worker);
        if (reinterpret_cast<uintptr_t>(own) % 64 != 0) ++wrong;
        for (int64_t i = 0; i < floats; ++i) own[i] = static_cast<float>(index);
        for (int64_t i = 0; i < floats; ++i) wrong += own[i] != static_cast<float>(index);
        if (index < floats) shared[index] = static_cast<float>(index);
      });
      for (int64_t i = 0; i < std::min<int64_t>(500, floats); ++i)
        wrong += shared[i] != static_cast<float>(i);
    });
    CHECK(wrong == 0);
  }
}

// Several teams at a time share the pool's threads; none waits for another.
void teamsBesideEachOther() {
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      TeamMemory memory(3);
      Team::run(3, memory, [&](Team& team) {
        for (int call = 0; call < 200; ++call) team.each(10, [&](int64_t index, int) { total += index; });
      });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total == 3 * 200 * 45);
}

}  // namespace
}  // namespace clipcid

int main() {
  using namespace clipcid;
  for (const int threads : {1, 2, 5}) everyIndexOnce(threads);
  for (const int threads : {1, 4}) memoryOfItsOwn(threads);
  teamsBesideEachOther();
  return test::report("team");
}
