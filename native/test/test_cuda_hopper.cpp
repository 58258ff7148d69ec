// The sm_90 mainloop and what it rests on: descriptors, boxes and products by the PTX ISA's tables, phases of barriers, clusters;
// what a GPU would hang on; and scores that are those of the sm_80 mainloop to the bit.
#include <set>

#include "cuda/launch_mainloop.cuh"
#include "emulated.h"
#include "emulator/guarded.h"
#include "store_epilogue.h"

using namespace clipcid;
using namespace clipcid::cuda;
using namespace clipcid::test;

namespace {

Device& device(int index = 0) {
  Status status;
  Device* device = Device::get(index, &status);
  CHECK_OK(status);
  return *device;
}

// Bits of "Matrix Descriptor" of wgmma, by hand: address 0x12340 >> 4 = 0x1234, distances 1 and 1024 >> 4 = 64, swizzle 1.
void descriptors() {
  static_assert(matrixDescriptor(0x12340) == 0x4000'0040'0001'1234);
  static_assert(deeper(matrixDescriptor(0x12340), 32) == 0x4000'0040'0001'1236);
  static_assert(matrixDescriptor(226 << 10) >> 16 == 0x4000'0040'0001, "the address has 18 bits");
  // The last of a stage's 1,024 bytes of an atom's first row stays in it.
  static_assert((deeper(matrixDescriptor(1024), 96) & 0x3fff) << 4 == 1024 + 96);
}

// Three rounds through a ring of four: a consumer waits for parities 0, 1, 0; a producer's first wait is for the phase before the
// first, whose parity is 1.
void phases() {
  RingPlace place;
  for (uint32_t step = 0; step < 12; ++step) {
    CHECK(place.stage == static_cast<int>(step % 4) && place.parity == step / 4 % 2);
    place.advance(4);
  }
}

// Accumulator D of wgmma.m64nN: register d[i] of thread T of the warpgroup.
void fragments() {
  using Scores = Fragment<Dealt::kWgmma, float, 4, 64>;
  std::set<std::pair<int, int>> places;
  for (int thread = 0; thread < 128; ++thread) {
    Scores scores;
    scores.lane = thread % 32;
    scores.warpRow = thread / 32 * 16;
    scores.warpColumn = 0;
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 64; ++c) {
        // The second tile of 64 rows has registers of its own.
        const auto i = static_cast<int>(&scores.at(r, c) - &scores.values[r / 2][0][0]);
        CHECK(i >= 0 && i < 128);
        const int row = 64 * (r / 2) + 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
        const int column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
        CHECK(scores.row(r) == row && scores.column(c) == column);
        places.emplace(row, column);
      }
    }
  }
  CHECK(places.size() == 128 * 256);
}

void rules() {
  CHECK(tileRuleOf(80).mainloop == Mainloop::kSm80 && tileRuleOf(89).mainloop == Mainloop::kSm80);
  CHECK(tileRuleOf(90).mainloop == Mainloop::kSm90 && tileRuleOf(90).shape == TileShape::kLarge);
  CHECK(tileRuleOf(100).mainloop == Mainloop::kSm80 && tileRuleOf(103).shape == TileShape::kLarge);
  CHECK(tileRuleOf(120).mainloop == Mainloop::kSm80 && tileRuleOf(999).shape == TileShape::kMedium);
  CHECK(tileRuleOf(70).shape == TileShape::kMedium);
  CHECK(mainloopOf(device(0)) == Mainloop::kSm90 && mainloopOf(device(1)) == Mainloop::kSm80);
  const Mainloop before = mostMainloop();
  mostMainloop() = Mainloop::kSm80;
  CHECK(mainloopOf(device(0)) == Mainloop::kSm80);
  mostMainloop() = before;
  CHECK(clusterOf(1) == 1 && clusterOf(2) == 2 && clusterOf(3) == 1 && clusterOf(9) == 2);
  const char* base = reinterpret_cast<const char*>(uintptr_t{1} << 20);
  CHECK(suitsTensorMap({base, 64, 64, 1, 1, 128}) && suitsTensorMap({base, 1 << 17, 1 << 17, 1000, 3, 256}));
  CHECK(!suitsTensorMap({base + 8, 64, 64, 1, 1, 128}) && !suitsTensorMap({base, 72, 72, 1, 1, 128}));
  CHECK(!suitsTensorMap({base, 64, 64, 0, 1, 128}) && !suitsTensorMap({base, 64, 64, 1, 1, 257}));
}

// One warpgroup: boxes of 64 queries and kKeys keys, 128 bytes deep, and their product; to `out` by thread and register.
template <typename T, int kKeys>
__global__ void productKernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                              int row, T* out) {
  char* shared = sharedMemory();
  auto* barrier = reinterpret_cast<Barrier*>(shared + (64 + kKeys) * 128);
  if (threadIdx.x == 0) {
    initialise(barrier, 1);
    publishBarriers();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    expectBytes(barrier, (64 + kKeys) * 128);
    copyBox(shared, &a, 0, row, 0, barrier);
    copyBox(shared + 64 * 128, &b, 0, 0, 1, barrier);
  }
  wait(barrier, 0);
  T sums[kKeys / 8][4];
  for (auto& four : sums) {
    for (T& value : four) value = T(1);
  }
  const uint64_t left = matrixDescriptor(sharedAddress(shared)),
                 right = matrixDescriptor(sharedAddress(shared + 64 * 128));
  beginProducts(sums);
  for (uint32_t byte = 0; byte < 128; byte += kProductBytes)
    multiplyAddAsync(sums, deeper(left, byte), deeper(right, byte));
  commitProducts();
  waitProducts<0>(sums);
  for (int i = 0; i < kKeys / 2; ++i) out[threadIdx.x * (kKeys / 2) + i] = sums[i / 4][i % 4];
}

float valueAt(const std::vector<char>& bytes, size_t row, size_t k, float) {
  uint16_t half;
  memcpy(&half, bytes.data() + row * 96 + 2 * k, 2);
  return widenFloat16(half);
}
int valueAt(const std::vector<char>& bytes, size_t row, size_t k, int) {
  return static_cast<int8_t>(bytes[row * 96 + k]);
}

// Rows of 96 bytes, so that a box reaches over the end of a row, and, from row 30 of 70 on, over the last one.
template <typename T, int kKeys>
void products() {
  constexpr size_t kElement = std::is_same_v<T, float> ? 2 : 1;
  const int64_t queries = 70, keys = 300, problems = 2;
  const auto fill = [&](int64_t rows, uint64_t stream) {
    std::vector<char> bytes(static_cast<size_t>(rows) * 96);
    for (size_t at = 0; at < bytes.size() / kElement; ++at) {
      const uint16_t half = roundToHalf(noise(stream, at));
      const auto byte = static_cast<int8_t>(philox64(1, stream, at) & 255);
      memcpy(bytes.data() + at * kElement, kElement == 2 ? static_cast<const void*>(&half) : &byte, kElement);
    }
    return bytes;
  };
  const std::vector<char> a = fill(queries, 1), b = fill(keys * problems, 2);
  Session session(&device());
  CHECK_OK(session.begin());
  Buffer<char> x, y;
  Buffer<T> out;
  CHECK_OK(x.allocate(queries * 96, session.stream()));
  CHECK_OK(y.allocate(keys * problems * 96, session.stream()));
  CHECK_OK(out.allocate(128 * kKeys / 2, session.stream()));
  CHECK_OK(copyToDevice(x.get(), a.data(), a.size(), session.stream()));
  CHECK_OK(copyToDevice(y.get(), b.data(), b.size(), session.stream()));
  TensorMap left, right;
  CHECK_OK(encodeTensorMap({x.get(), 96, 96, queries, 1, 64}, &left));
  CHECK_OK(encodeTensorMap({y.get(), 96, 96, keys, problems, kKeys}, &right));
  for (const int row : {0, 30}) {
    const Launch how{.block = 128, .shared = (64 + kKeys) * 128 + 8, .stream = session.stream()};
    CHECK_OK(CLIPCID_LAUNCH((productKernel<T, kKeys>), how, left, right, row, out.get()));
    std::vector<T> found(128 * kKeys / 2);
    CHECK_OK(copyToHost(found.data(), out.get(), out.bytes(), session.stream()));
    CHECK_OK(session.synchronise());
    for (size_t thread = 0; thread < 128; ++thread) {
      for (size_t i = 0; i < kKeys / 2; ++i) {
        const size_t query = static_cast<size_t>(row) + thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        const size_t key = i / 4 * 8 + thread % 4 * 2 + i % 2;
        // As the model: a float32 after each 16 products.
        T sum = 1;
        for (size_t first = 0; first < 96 / kElement && query < queries; first += 32 / kElement) {
          double exact = static_cast<double>(sum);
          for (size_t k = first; k < first + 32 / kElement; ++k)
            exact += static_cast<double>(valueAt(a, query, k, T())) *
                     static_cast<double>(valueAt(b, static_cast<size_t>(keys) + key, k, T()));
          sum = static_cast<T>(exact);
        }
        CHECK(found[thread * (kKeys / 2) + i] == sum);
      }
    }
  }
}

// Two blocks of a cluster; each sends half of a box of 128 rows to both, and tells the other when it has read it.
__global__ void clusterKernel(const __grid_constant__ TensorMap map, int rounds, int* sums) {
  char* shared = sharedMemory();
  auto* arrived = reinterpret_cast<Barrier*>(shared + 128 * 128);
  Barrier* finished = arrived + 1;
  const int rank = clusterRank();
  if (threadIdx.x == 0) {
    initialise(arrived, 1);
    initialise(finished, 2);
    publishBarriers();
  }
  synchroniseCluster();
  RingPlace place;
  int sum = 0;
  for (int round = 0; round < rounds; ++round, place.advance(1)) {
    if (threadIdx.x == 0) {
      wait(finished, place.parity ^ 1);
      expectBytes(arrived, 128 * 128);
      copyBoxToCluster(shared + rank * 64 * 128, &map, 0, 128 * round + 64 * rank, 0, arrived, 3);
    }
    wait(arrived, place.parity);
    for (int at = static_cast<int>(threadIdx.x); at < 128 * 128; at += 32) sum += shared[at];
    __syncwarp();
    arriveAt(finished, static_cast<int>(threadIdx.x), threadIdx.x < 2);
  }
  sum = __reduce_add_sync(kAllLanes, sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  synchroniseCluster();
}

void clusters() {
  constexpr int kRounds = 5;
  std::vector<char> bytes(kRounds * 128 * 128);
  int wanted = 0;
  for (size_t at = 0; at < bytes.size(); ++at)
    wanted += bytes[at] = static_cast<char>(static_cast<int8_t>(philox64(1, 9, at) & 255));
  Session session(&device());
  CHECK_OK(session.begin());
  Buffer<char> memory;
  Buffer<int> out;
  CHECK_OK(memory.allocate(static_cast<int64_t>(bytes.size()), session.stream()));
  CHECK_OK(out.allocate(6, session.stream()));
  CHECK_OK(copyToDevice(memory.get(), bytes.data(), bytes.size(), session.stream()));
  TensorMap map;
  CHECK_OK(encodeTensorMap({memory.get(), 128, 128, kRounds * 128, 1, 64}, &map));
  const Launch how{
      .grid = 6, .block = 32, .shared = 128 * 128 + 16, .stream = session.stream(), .cluster = 2};
  CHECK_OK(CLIPCID_LAUNCH(clusterKernel, how, map, kRounds, out.get()));
  std::vector<int> sums(6);
  CHECK_OK(copyToHost(sums.data(), out.get(), out.bytes(), session.stream()));
  CHECK_OK(session.synchronise());
  CHECK(sums == std::vector<int>(6, wanted));
}

// A kernel of one block and 16 rows of 128 bytes, that does what it should not.
template <typename Kernel>
void misuse(Kernel kernel, unsigned threads = 128) {
  Session session(&device());
  CHECK_OK(session.begin());
  Buffer<char> memory;
  CHECK_OK(memory.allocate(64 * 128, session.stream()));
  CHECK_OK(fillBytes(memory.get(), 0, memory.bytes(), session.stream()));
  TensorMap map;
  CHECK_OK(encodeTensorMap({memory.get(), 128, 128, 64, 1, 64}, &map));
  void (*plain)(TensorMap, Barrier*) = kernel;
  const Launch how{.block = threads, .shared = 3 * 64 * 128, .stream = session.stream()};
  CHECK_OK(CLIPCID_LAUNCH(plain, how, map, nullptr));
  CHECK_OK(session.synchronise());
}

Barrier* barrierOf(int number) { return reinterpret_cast<Barrier*>(sharedMemory() + 2 * 64 * 128) + number; }
void make(int arrivals) {
  if (threadIdx.x == 0) {
    initialise(barrierOf(0), arrivals);
    publishBarriers();
  }
  __syncthreads();
}
void copyTo(const TensorMap& map, int place) {
  if (threadIdx.x == 0) {
    expectBytes(barrierOf(0), 64 * 128);
    copyBox(sharedMemory() + place, &map, 0, 0, 0, barrierOf(0));
  }
}
void product(float (&sums)[16][4]) {
  const uint64_t at = matrixDescriptor(sharedAddress(sharedMemory()));
  multiplyAddAsync(sums, at, at);
}

void faultsAreCaught() {
  using Map = TensorMap;
  const auto says = [](const char* words, auto kernel) { CHECK(faults([&] { misuse(kernel); }, words)); };
  // A phase that nobody completes; one that waits for a parity twice.
  says("hangs:\n  128 threads wait for an mbarrier", [](Map, Barrier*) {
    make(1);
    wait(barrierOf(0), 0);
  });
  says("threads wait for an mbarrier", [](Map map, Barrier*) {
    make(1);
    copyTo(map, 0);
    wait(barrierOf(0), 0);
    wait(barrierOf(0), 1);
  });
  // Bytes that do not come.
  says("threads wait for an mbarrier", [](Map, Barrier*) {
    make(1);
    if (threadIdx.x == 0) expectBytes(barrierOf(0), 128);
    wait(barrierOf(0), 0);
  });
  says("threads wait for the cluster's barrier", [](Map, Barrier*) {
    make(1);
    if (threadIdx.x != 7) synchroniseCluster();
    wait(barrierOf(0), 0);
  });
  says("was not initialised", [](Map, Barrier*) { wait(barrierOf(0), 0); });
  says("initialised already", [](Map, Barrier*) {
    make(1);
    make(1);
  });
  says("does not know of", [](Map map, Barrier*) {
    if (threadIdx.x != 0) return;
    initialise(barrierOf(0), 1);
    copyTo(map, 0);
  });
  says("ended before all of its copies", [](Map, Barrier*) {
    make(2);
    if (threadIdx.x == 0) expectBytes(barrierOf(0), 128);
  });
  says("no multiple of 1024", [](Map map, Barrier*) {
    make(1);
    copyTo(map, 128);
  });
  says("outside of shared memory", [](Map map, Barrier*) {
    make(1);
    copyTo(map, 3 * 64 * 128);
  });
  says("nobody made", [](Map map, Barrier*) {
    make(1);
    map.words[0] = 0;
    copyTo(map, 0);
  });
  says("that the cluster does not have", [](Map, Barrier*) {
    make(1);
    arriveAt(barrierOf(0), 1, threadIdx.x == 0);
  });
  says("without a wgmma.fence", [](Map, Barrier*) {
    float sums[16][4] = {};
    product(sums);
  });
  says("without a wgmma.fence", [](Map, Barrier*) {
    float sums[16][4] = {};
    beginProducts(sums);
    product(sums);
    commitProducts();
    waitProducts<0>(sums);
    sums[3][1] = 5;
    product(sums);
  });
  says("before all of its products were waited for", [](Map, Barrier*) {
    float sums[16][4] = {};
    beginProducts(sums);
    product(sums);
    commitProducts();
    waitProducts<1>(sums);
  });
  says("issue different products", [](Map, Barrier*) {
    float sums[16][4] = {};
    beginProducts(sums);
    const uint64_t at = matrixDescriptor(sharedAddress(sharedMemory()) + (threadIdx.x < 32 ? 0 : 1024));
    multiplyAddAsync(sums, at, at);
  });
  says("another layout", [](Map, Barrier*) {
    float sums[16][4] = {};
    beginProducts(sums);
    multiplyAddAsync(sums, 0, 0);
  });
  says("first row of an atom", [](Map, Barrier*) {
    float sums[16][4] = {};
    beginProducts(sums);
    const uint64_t at = matrixDescriptor(sharedAddress(sharedMemory()) + 256);
    multiplyAddAsync(sums, at, at);
  });
  CHECK(encodeTensorMap({nullptr, 100, 100, 1, 1, 64}, std::make_unique<TensorMap>().get()).code ==
        Code::kInternal);
}

// What would be a race: a stage that is copied to while products still read it, registers that are read too early. Right when all
// happens at once, wrong when it happens as late as it may.
void raceShows() {
  const auto early = [](TensorMap map, Barrier*) {
    make(1);
    copyTo(map, 0);
    wait(barrierOf(0), 0);
    float sums[16][4] = {};
    beginProducts(sums);
    product(sums);
    commitProducts();
    waitProducts<1>(sums);
    if (sums[2][2] != 0) emulator::fault("sums that are not there");
    waitProducts<0>(sums);
  };
  const auto hasty = [](TensorMap map, Barrier*) {
    make(1);
    copyTo(map, 0);
    if (threadIdx.x == 0 && sharedMemory()[5] != 0) emulator::fault("bytes that are not there");
    wait(barrierOf(0), 0);
  };
  const emulator::Options before = emulator::options();
  misuse(early);
  misuse(hasty);
  emulator::options().async = When::kLazy;
  CHECK(faults([&] { misuse(early); }, "sums that are not there"));
  CHECK(faults([&] { misuse(hasty); }, "bytes that are not there"));
  emulator::options() = before;
}

struct Work {
  int64_t queries, keys;
  int32_t depths;  // of 64 bytes
  int32_t problems = 1, columnsOfItem = 1;
  bool triangle = false;
  int64_t known = -1;  // queries, as known on the device
  int32_t stop = 0;
};

template <Math kMath>
std::vector<double> scoresOf(const Work& work, Mainloop mainloop, size_t* maps) {
  const Mainloop before = mostMainloop();
  mostMainloop() = mainloop;
  CHECK(mainloopOf(device()) == mainloop);
  const size_t earlier = emulator::tensorMaps();
  const int64_t stride = int64_t{work.depths} * kDepthBytes;
  const auto fill = [&](int64_t rows, uint64_t stream) {
    std::vector<char> bytes(static_cast<size_t>(rows * stride));
    const size_t each = elementBytes(kMath);
    for (size_t at = 0; at < bytes.size() / each; ++at) {
      const uint16_t half = roundToHalf(noise(stream, at));
      const auto byte = static_cast<int8_t>(philox64(1, stream, at) & 255);
      memcpy(bytes.data() + at * each, each == 2 ? static_cast<const void*>(&half) : &byte, each);
    }
    return bytes;
  };
  const std::vector<char> a = fill(work.queries * work.problems, 3), b = fill(work.keys * work.problems, 4);
  Session session(&device());
  CHECK_OK(session.begin());
  Buffer<char> x, y;
  Buffer<double> out;
  Buffer<int32_t> numbers;
  const int64_t scores = work.problems * work.queries * work.keys;
  CHECK_OK(x.allocate(static_cast<int64_t>(a.size()), session.stream()));
  CHECK_OK(y.allocate(static_cast<int64_t>(b.size()), session.stream()));
  CHECK_OK(out.allocate(scores, session.stream()));
  CHECK_OK(numbers.allocate(2, session.stream()));
  CHECK_OK(copyToDevice(x.get(), a.data(), a.size(), session.stream()));
  CHECK_OK(copyToDevice(y.get(), b.data(), b.size(), session.stream()));
  CHECK_OK(fillBytes(out.get(), 0, out.bytes(), session.stream()));
  const int32_t both[2] = {static_cast<int32_t>(work.known), work.stop};
  CHECK_OK(copyToDevice(numbers.get(), both, sizeof both, session.stream()));
  const TileSize tile = tileSizeOf(kMath, TileShape::kLarge);
  MainloopParams params;
  params.queries = {x.get(), stride, static_cast<int32_t>(work.queries)};
  params.keys = {y.get(), stride, static_cast<int32_t>(work.keys)};
  params.depths = work.depths;
  params.schedule.rowEnd = static_cast<int32_t>((work.queries + tile.rows - 1) / tile.rows);
  params.schedule.columnEnd = static_cast<int32_t>((work.keys + tile.columns - 1) / tile.columns);
  params.schedule.problems = work.problems;
  params.schedule.columnsOfItem = work.columnsOfItem;
  params.schedule.triangle = work.triangle;
  params.schedule.tileRows = tile.rows;
  params.schedule.tileColumns = tile.columns;
  if (work.known >= 0) params.queryCount = numbers.get();
  params.stop = numbers.get() + 1;
  CHECK_OK(launchMainloop<StoreEpilogue>(device(), session.stream(), kMath, TileShape::kLarge, params,
                                         StoreParams{out.get(), work.queries, work.keys, work.known < 0}));
  std::vector<double> found(static_cast<size_t>(scores));
  CHECK_OK(copyToHost(found.data(), out.get(), out.bytes(), session.stream()));
  CHECK_OK(session.synchronise());
  mostMainloop() = before;
  *maps = emulator::tensorMaps() - earlier;
  return found;
}

template <Math kMath>
void same(const Work& work) {
  // Only the mainloop of 9.0 asks for tensor maps: which of them ran shows by these.
  size_t maps[2];
  const std::vector<double> one = scoresOf<kMath>(work, Mainloop::kSm90, &maps[0]),
                            other = scoresOf<kMath>(work, Mainloop::kSm80, &maps[1]);
  CHECK(maps[0] > 0 && maps[1] == 0 && one == other);
  size_t some = 0;
  for (const double score : one) some += score != 0;
  CHECK(work.stop != 0 ? some == 0 : some > one.size() / 4);
}

void sameScores() {
  for (const Work& work :
       {Work{1, 1, 1}, Work{64, 255, 2}, Work{129, 256, 3}, Work{257, 257, 5}, Work{300, 600, 8},
        Work{1100, 300, 2}, Work{130, 300, 9, 3}, Work{260, 900, 3, 1, 3}, Work{700, 700, 2, 1, 1, true},
        Work{600, 280, 2, 1, 2, false, 300}, Work{600, 280, 2, 1, 2, false, 0, 1}}) {
    same<Math::kFloat16>(work);
    same<Math::kInt8>(work);
  }
}

}  // namespace

int main() {
  emulator::options().devices = {emulator::deviceOf(90), emulator::deviceOf(100)};
  descriptors();
  phases();
  fragments();
  rules();
  const auto hardware = [] {
    products<float, 128>();
    products<float, 256>();
    products<int, 128>();
    products<int, 256>();
    clusters();
  };
  inAllWays(hardware);
  faultsAreCaught();
  raceShows();
  sameScores();
  inAllWays(
      [] {
        same<Math::kInt8>({260, 600, 5, 1, 2});
        same<Math::kFloat16>({700, 300, 3, 1, 1, true});
      },
      {1, 2, 3, 4, 5});
  return report("cuda hopper");
}
