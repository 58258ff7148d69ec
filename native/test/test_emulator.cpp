// The emulated device itself: that it computes what a GPU does, and that it catches what a GPU would let pass.
#include <numeric>

#include "cuda/launch.cuh"
#include "cuda/memory.h"
#include "cuda/ptx.cuh"
#include "emulated.h"
#include "emulator/queue.h"

using namespace clipcid;
using namespace clipcid::cuda;
using namespace clipcid::test;

namespace {

Device& device() {
  Status status;
  Device* device = Device::get(0, &status);
  CHECK_OK(status);
  return *device;
}

// Runs a kernel on device memory that holds `data`, and brings back what it left there.
template <typename T, typename Kernel>
std::vector<T> on(std::vector<T> data, Launch how, Kernel kernel) {
  Session session(&device());
  CHECK_OK(session.begin());
  Buffer<T> memory;
  CHECK_OK(memory.allocate(static_cast<int64_t>(data.size()), session.stream()));
  CHECK_OK(copyToDevice(memory.get(), data.data(), memory.bytes(), session.stream()));
  how.stream = session.stream();
  void (*plain)(T*) = kernel;
  CHECK_OK(CLIPCID_LAUNCH(plain, how, memory.get()));
  CHECK_OK(copyToHost(data.data(), memory.get(), memory.bytes(), session.stream()));
  CHECK_OK(session.synchronise());
  return data;
}

void languageWorks() {
  // Block-wide sum of 0 .. 999, by shuffles and shared memory.
  const auto sum = [](int* out) {
    auto* parts = reinterpret_cast<int*>(sharedMemory());
    const int thread = static_cast<int>(threadIdx.x);
    int value = thread < 1000 ? thread : 0;
    for (int by = 16; by > 0; by /= 2) value += __shfl_down_sync(kAllLanes, value, static_cast<unsigned>(by));
    if (thread % 32 == 0) parts[thread / 32] = value;
    __syncthreads();
    if (thread < 32) {
      const int all = __reduce_add_sync(kAllLanes, parts[thread]);
      if (thread == 0) out[blockIdx.x] = all + static_cast<int>(blockIdx.x);
    }
  };
  CHECK(on<int>(std::vector<int>(5), {.grid = 5, .block = 1024, .shared = 128}, sum) ==
        (std::vector<int>{499500, 499501, 499502, 499503, 499504}));

  const auto votes = [](uint32_t* out) {
    const unsigned lane = threadIdx.x;
    out[lane] = __ballot_sync(kAllLanes, lane % 3 == 0);
    out[32 + lane] = __match_any_sync(kAllLanes, lane % 5);
    // Both halves of a warp by themselves, in either order.
    const uint32_t half = lane < 16 ? 0xffffu : 0xffff0000u;
    out[64 + lane] = __reduce_add_sync(half, lane);
    out[96 + lane] = __shfl_xor_sync(kAllLanes, lane, 5);
  };
  const std::vector<uint32_t> found = on<uint32_t>(std::vector<uint32_t>(128), {.block = 32}, votes);
  for (uint32_t lane = 0; lane < 32; ++lane) {
    CHECK(found[lane] == 0x49249249u);
    uint32_t same = 0;
    for (uint32_t other = 0; other < 32; ++other) same |= (other % 5 == lane % 5 ? 1u : 0u) << other;
    CHECK(found[32 + lane] == same);
    CHECK(found[64 + lane] == (lane < 16 ? 120u : 376u));
    CHECK(found[96 + lane] == (lane ^ 5));
  }

  const auto count = [](unsigned long long* out) {
    atomicAdd(out, 1ull);
    atomicMax(out + 1, static_cast<unsigned long long>(blockIdx.x * 64 + threadIdx.x));
    unsigned long long seen = out[2];
    for (;;) {
      const unsigned long long old = atomicCAS(out + 2, seen, seen + 3);
      if (old == seen) break;
      seen = old;
    }
  };
  CHECK(on<unsigned long long>({0, 0, 0}, {.grid = 50, .block = 64}, count) ==
        (std::vector<unsigned long long>{3200, 3199, 9600}));
}

// One warp's 16 x 8 product, from shared memory through ldmatrix; depth 16 float16 or 32 int8.
template <typename T>
void tileKernel(uint32_t* words) {
  char* shared = sharedMemory();
  const int lane = static_cast<int>(threadIdx.x);
  // A: 16 rows of 32 bytes, then B: 8 rows of 32 bytes.
  for (int chunk = lane; chunk < 48; chunk += 32) copyAsync16(shared + 16 * chunk, words + 4 * chunk);
  commitCopies();
  waitCopies<0>();
  __syncwarp();
  uint32_t a[4], both[4];
  loadMatrices(a, shared + (lane % 16) * 32 + lane / 16 * 16);
  // Of B, the low and the high half of the depth; twice, as there are four matrices to a load.
  loadMatrices(both, shared + 512 + (lane % 8) * 32 + lane / 8 % 2 * 16);
  const uint32_t b[2] = {both[0], both[1]};
  T c[4] = {1, 2, 3, 4};
  multiplyAdd(c, a, b);
  for (int i = 0; i < 4; ++i) memcpy(words + 4 * lane + i, &c[i], 4);
}

float halfAt(const std::vector<uint16_t>& halves, size_t at) { return widenFloat16(halves[at]); }

void tensorCoresMultiply() {
  std::vector<uint16_t> halves(384);
  for (size_t at = 0; at < halves.size(); ++at) halves[at] = roundToHalf(noise(3, at));
  std::vector<uint32_t> words(192);
  memcpy(words.data(), halves.data(), 768);
  const emulator::Options before = emulator::options();
  for (const Rounding rounding : {Rounding::kExact, Rounding::kTruncated, Rounding::kWorst}) {
    emulator::options().rounding = rounding;
    const std::vector<uint32_t> found = on<uint32_t>(words, {.block = 32, .shared = 768}, tileKernel<float>);
    bool exact = true;
    for (size_t lane = 0; lane < 32; ++lane) {
      for (size_t i = 0; i < 4; ++i) {
        const size_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = static_cast<double>(i + 1), size = sum;
        for (size_t k = 0; k < 16; ++k) {
          const double product = static_cast<double>(halfAt(halves, row * 16 + k)) *
                                 static_cast<double>(halfAt(halves, 256 + column * 16 + k));
          sum += product;
          size += std::fabs(product);
        }
        float value;
        memcpy(&value, &found[lane * 4 + i], 4);
        const double off = std::fabs(static_cast<double>(value) - sum);
        exact = exact && value == static_cast<float>(sum);
        CHECK(off <= 2 * 0x1p-20 * size * (1 + 1e-5));
      }
    }
    CHECK(exact == (rounding == Rounding::kExact));
  }
  emulator::options() = before;

  std::vector<int8_t> bytes(768);
  for (size_t at = 0; at < bytes.size(); ++at) bytes[at] = static_cast<int8_t>(philox64(1, 2, at) & 255);
  memcpy(words.data(), bytes.data(), 768);
  const std::vector<uint32_t> found = on<uint32_t>(words, {.block = 32, .shared = 768}, tileKernel<int>);
  for (size_t lane = 0; lane < 32; ++lane) {
    for (size_t i = 0; i < 4; ++i) {
      const size_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      int sum = static_cast<int>(i + 1);
      for (size_t k = 0; k < 32; ++k) sum += bytes[row * 32 + k] * bytes[512 + column * 32 + k];
      CHECK(static_cast<int>(found[lane * 4 + i]) == sum);
    }
  }
}

void halvesRound() {
  // Every half, what lies in the middle of two, and on either side of that.
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float value = widenFloat16(static_cast<uint16_t>(bits));
    const float next = bits + 1 == 0x7c00 ? 65536.0f : widenFloat16(static_cast<uint16_t>(bits + 1));
    const float middle = value + (next - value) / 2;
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    CHECK(roundToHalf(value) == bits && roundToHalf(-value) == (bits | 0x8000));
    CHECK(roundToHalf(std::nextafterf(middle, 0)) == bits);
    CHECK(roundToHalf(middle) == even);
    CHECK(roundToHalf(std::nextafterf(middle, 1e9f)) == bits + 1);
  }
  CHECK(roundToHalf(1e30f) == 0x7c00 && roundToHalf(-INFINITY) == 0xfc00 && roundToHalf(NAN) == 0x7fff);
}

void streamsKeepTheirOrder() {
  Session one(&device()), two(&device());
  CHECK_OK(one.begin());
  CHECK_OK(two.begin());
  Buffer<int> memory;
  Pinned<int> pinned;
  OwnedEvent event;
  CHECK_OK(memory.allocate(1, one.stream()));
  CHECK_OK(pinned.allocate(1));
  CHECK_OK(event.create());
  const auto twice = +[](int* value) { *value *= 2; };
  pinned.get()[0] = 21;
  CHECK_OK(copyToDevice(memory.get(), pinned.get(), 4, one.stream()));
  CHECK_OK(record(event.get(), one.stream()));
  CHECK_OK(waitFor(two.stream(), event.get()));
  CHECK_OK(CLIPCID_LAUNCH(twice, {.block = 1, .stream = two.stream()}, memory.get()));
  int back = 0;
  CHECK_OK(copyToHost(&back, memory.get(), 4, two.stream()));
  CHECK_OK(two.synchronise());
  CHECK(back == 42);
}

void memoryIsLimited() {
  const emulator::Options before = emulator::options();
  emulator::options().devices[0].memory = 5 << 20;
  {
    Session session(&device());
    CHECK_OK(session.begin());
    Buffer<char> much, more;
    const size_t used = emulator::bytesInUse(0);
    CHECK_OK(much.allocate(3 << 20, session.stream()));
    const Status status = more.allocate(3 << 20, session.stream());
    CHECK(status.code == Code::kOutOfMemory && status.message.find("3 MiB") != std::string::npos &&
          status.message.find("2 MiB of 5 MiB") != std::string::npos);
    CHECK(emulator::bytesInUse(0) == used + (3 << 20));
  }
  CHECK(emulator::bytesInUse(0) == 0);
  emulator::options() = before;
}

// What would be a race, a hang or a stray access on a GPU.
void faultsAreCaught() {
  const Launch one{.block = 64, .shared = 256};
  CHECK(faults(
      [&] {
        on<int>({0}, one, [](int* out) {
          if (threadIdx.x < 32)
            __syncthreads();
          else
            __syncwarp();
          out[0] = 1;
          if (threadIdx.x == 40) __syncthreads();
          while (threadIdx.x == 63) __shfl_sync(kAllLanes, 1, 0);
        });
      },
      "hangs:"));
  CHECK(faults([&] { on<int>({0}, one, [](int*) { __shfl_sync(kAllLanes >> 1, 1, 0); }); },
               "lacks the calling lane"));
  CHECK(faults(
      [&] {
        on<int>({0}, one, [](int*) {
          if (threadIdx.x % 2 == 0) return;
          __syncwarp();
        });
      },
      "lanes that have ended"));
  CHECK(
      faults([&] { on<int>(std::vector<int>(64), one, [](int* out) { out[64 + threadIdx.x * 4096] = 1; }); },
             "outside of all memory"));
  CHECK(faults([&] { on<int>(std::vector<int>(1), one, [](int* out) { out[1] = 1; }); },
               "behind the end of device memory"));
  CHECK(faults([&] { on<int>({0}, one, [](int*) { sharedMemory()[256] = 1; }); },
               "wrote behind its 256 bytes"));
  CHECK(faults([&] { on<int>({0}, one, [](int*) { sharedMemory()[8192] = 1; }); },
               "byte 8192 of 256 of shared memory"));
  CHECK(faults([&] { on<int>({0}, one, [](int* out) { copyAsync16(sharedMemory() + 248, out); }); },
               "outside of shared"));
  CHECK(faults([&] { on<int>({0}, one, [](int* out) { copyAsync16(sharedMemory() + 8, out); }); },
               "no multiple of 16"));
  CHECK(faults([&] { on<int>({0}, {.block = 2048}, [](int*) {}); }, "a shape that does not exist"));
  const auto launchOn = [](int architecture, const Launch& how) {
    emulator::options().devices = {emulator::deviceOf(architecture)};
    on<int>({0}, how, [](int*) {});
  };
  CHECK(faults([&] { launchOn(86, {.block = 32, .shared = 100 << 10}); }, "of shared memory, where a block"));
  CHECK(faults([&] { launchOn(90, {.block = 32, .shared = 228 << 10}); }, "of shared memory, where a block"));
  CHECK(faults([&] { launchOn(80, {.grid = 2, .block = 32, .cluster = 2}); }, "clusters on"));
}

// A kernel that forgets to wait: right as long as copies happen at once, wrong when they happen as late as they may; and one
// that forgets a barrier is wrong in some order of the warps.
void raceShows() {
  const std::vector<int> numbers = [] {
    std::vector<int> all(256);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }();
  const auto hasty = [](int* data) {
    auto* shared = reinterpret_cast<int*>(sharedMemory());
    copyAsync16(shared + 4 * threadIdx.x, data + 4 * threadIdx.x);
    commitCopies();
    waitCopies<1>();
    __syncthreads();
    data[threadIdx.x] = shared[threadIdx.x] + 1;
  };
  const auto unsynchronised = [](int* data) {
    auto* shared = reinterpret_cast<int*>(sharedMemory());
    shared[threadIdx.x] = data[threadIdx.x];
    data[threadIdx.x] = shared[63 - threadIdx.x];
  };
  const auto sums = [](const std::vector<int>& data) {
    return std::accumulate(data.begin(), data.begin() + 64, 0);
  };
  const Launch how{.block = 64, .shared = 1024};
  int hastyRight = 0, unsynchronisedRight = 0;
  const emulator::Options before = emulator::options();
  for (const When when : {When::kEager, When::kLazy}) {
    emulator::options().async = when;
    hastyRight += sums(on<int>(numbers, how, hasty)) == 2080;
  }
  for (const uint64_t seed : {0, 1, 2, 3}) {
    emulator::options().seed = seed;
    unsynchronisedRight += sums(on<int>(numbers, how, unsynchronised)) == 2016;
  }
  emulator::options() = before;
  CHECK(hastyRight == 1);
  CHECK(unsynchronisedRight < 4);
}

}  // namespace

int main() {
  halvesRound();
  inAllWays([] {
    languageWorks();
    tensorCoresMultiply();
    streamsKeepTheirOrder();
  });
  memoryIsLimited();
  faultsAreCaught();
  raceShows();
  return report("emulator");
}
