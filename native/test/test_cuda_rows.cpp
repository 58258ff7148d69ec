// What the GPU's back end does row by row, on the emulated device, held against the CPU's to the bit: from device memory and
// streamed, for every element type.
#include <unistd.h>

#include <bit>
#include <limits>
#include <numeric>

#include "core/parallel.h"
#include "cuda/memory.h"
#include "cuda/rows.cuh"
#include "emulated.h"
#include "emulator/queue.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

Context small(int64_t bytes) {
  Context context = contextOf(2);
  context.maxDeviceMemory = bytes;
  return context;
}

// Rows of one kind, in one or more chunks.
struct Data {
  std::vector<float> floats;
  std::vector<uint16_t> halves;
  Rows rows;
  int64_t count, dim;
};

Data dataOf(int64_t count, int64_t dim, Dtype dtype, bool hostile) {
  Data data{clusteredRows(count, dim, 7, 0.4f, static_cast<uint64_t>(dim)), {}, {}, count, dim};
  if (hostile && count > 4) {
    const auto row = [&](int64_t at) { return data.floats.data() + at * dim; };
    std::fill_n(row(1), dim, 0.0f);
    row(2)[dim - 1] = std::numeric_limits<float>::quiet_NaN();
    row(3)[0] = -std::numeric_limits<float>::infinity();
    for (int64_t k = 0; k < dim; ++k) row(4)[k] *= 1e-42f;
    if (dtype != Dtype::kFloat16) {
      for (int64_t k = 0; k < dim; ++k) row(0)[k] *= 1e37f;
    }
  }
  if (dtype == Dtype::kFloat32) {
    data.rows = Rows(floatView(data.floats.data(), count, dim));
    return data;
  }
  for (const float value : data.floats)
    data.halves.push_back(dtype == Dtype::kFloat16
                              ? cuda::roundToHalf(value)
                              : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
  // Two chunks, the second strided as it happens to be dense.
  const int64_t head = count / 3;
  data.rows.chunks.push_back({{data.halves.data(), dtype, head, dim, dim}, {}});
  data.rows.chunks.push_back({{data.halves.data() + head * dim, dtype, count - head, dim, dim}, {}});
  return data;
}

void quotients() {
  for (uint64_t at = 0; at < 200000; ++at) {
    const uint64_t draw = philox64(5, 1, at);
    // Elements and norms of any size, and quotients that are close to the middle of two float32.
    float x = std::bit_cast<float>(static_cast<uint32_t>(draw));
    double norm =
        std::ldexp(1 + static_cast<double>(draw >> 32) * 0x1p-32, static_cast<int>(draw % 200) - 100);
    if (at % 2 == 1) {
      const auto mantissa = static_cast<double>((draw & 0xffffff) | 0x800000) + 0.5;
      norm = (1 + static_cast<double>(at % 1000)) * 0x1p-3;
      x = static_cast<float>(mantissa * norm * 0x1p-30);
    }
    if (!std::isfinite(x) || !(std::fabs(static_cast<double>(x)) <= norm)) continue;
    const auto wanted = static_cast<float>(static_cast<double>(x) / norm);
    CHECK(std::bit_cast<uint32_t>(cuda::canonicalElement(x, norm, 1 / norm)) ==
          std::bit_cast<uint32_t>(wanted));
  }
}

struct Both {
  std::unique_ptr<Prepared> cpu, gpu;
};

Both prepare(const Data& data, bool unit, bool squares, const Context& context) {
  Both both;
  const PrepareArgs args{.rows = data.rows, .unit = unit, .squares = squares};
  CHECK_OK(cpuBackend().prepare(contextOf(2), args, &both.cpu));
  CHECK_OK(emulatedBackend().prepare(context, args, &both.gpu));
  CHECK(both.gpu->rows == data.count && both.gpu->dim == data.dim && both.gpu->unit == unit);
  CHECK(both.cpu->faults == both.gpu->faults);
  CHECK(same(both.cpu->squares, both.gpu->squares));
  CHECK(both.cpu->largest == both.gpu->largest);
  return both;
}

void checkPrimitives(const Data& a, const Data& b, bool unit, const Context& context) {
  const Both x = prepare(a, unit, true, context), y = prepare(b, unit, false, context);
  Backend* backends[2] = {&cpuBackend(), &emulatedBackend()};
  const Prepared* first[2] = {x.cpu.get(), x.gpu.get()};
  const Prepared* second[2] = {y.cpu.get(), y.gpu.get()};

  std::vector<Pair> pairs;
  for (uint64_t at = 0; at < 150; ++at) {
    const uint64_t draw = philox64(6, 2, at);
    pairs.push_back({static_cast<int32_t>(draw % static_cast<uint64_t>(a.count)),
                     static_cast<int32_t>((draw >> 32) % static_cast<uint64_t>(b.count))});
  }
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < a.count; i += 1 + i % 3) indices.push_back(i);
  std::vector<int32_t> segments;
  std::vector<float> weights;
  for (int64_t i = 0; i < a.count; ++i) {
    segments.push_back(static_cast<int32_t>(philox64(7, 3, static_cast<uint64_t>(i)) % 5));
    weights.push_back(std::fabs(noise(9, static_cast<uint64_t>(i))));
  }
  std::vector<double> dots[2];
  std::vector<float> rows[2];
  std::vector<int64_t> sums[2];
  for (int side = 0; side < 2; ++side) {
    dots[side].resize(pairs.size());
    CHECK_OK(backends[side]->pairDots(context, {.queries = first[side],
                                                .keys = second[side],
                                                .pairs = pairs.data(),
                                                .count = static_cast<int64_t>(pairs.size()),
                                                .dots = dots[side].data()}));
    rows[side].resize(indices.size() * static_cast<size_t>(a.dim));
    CHECK_OK(backends[side]->gather(context, {.rows = first[side],
                                              .indices = indices.data(),
                                              .count = static_cast<int64_t>(indices.size()),
                                              .out = rows[side].data()}));
    // All rows; some taken out again; some added with weights.
    sums[side].assign(static_cast<size_t>(5 * a.dim), 99);
    SegmentSumArgs args{.rows = first[side],
                        .segments = segments.data(),
                        .segmentCount = 5,
                        .scale = fixedScale(x.cpu->largest * 4, 3 * a.count),
                        .sums = sums[side].data()};
    CHECK_OK(backends[side]->segmentSum(context, args));
    args.indices = indices.data();
    args.count = static_cast<int64_t>(indices.size());
    args.mode = SegmentSumArgs::Mode::kSubtract;
    CHECK_OK(backends[side]->segmentSum(context, args));
    args.weights = weights.data();
    args.mode = SegmentSumArgs::Mode::kAdd;
    CHECK_OK(backends[side]->segmentSum(context, args));
  }
  CHECK(same(dots[0], dots[1]));
  CHECK(same(rows[0], rows[1]));
  CHECK(same(sums[0], sums[1]));
}

void primitives() {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16, Dtype::kBfloat16}) {
    for (const int64_t dim : {1, 7, 16, 100, 257}) {
      const Data a = dataOf(90, dim, dtype, true), b = dataOf(33, dim, Dtype::kFloat32, true);
      for (const bool unit : {true, false}) {
        checkPrimitives(a, b, unit, small(0));
        // Nothing stays on the device: blocks of a few rows.
        checkPrimitives(a, b, unit, small(16 * 4 * dim * 10));
      }
    }
  }
  // More sums than a block keeps to itself.
  checkPrimitives(dataOf(40, 2000, Dtype::kFloat32, false), dataOf(3, 2000, Dtype::kFloat16, false), true,
                  small(0));
}

void matrices() {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16}) {
    for (const int64_t dim : {5, 8, 33}) {
      const Data data = dataOf(70, dim, dtype, false);
      std::shared_ptr<DeviceMatrix> matrix, copy;
      CHECK_OK(emulatedBackend().upload(contextOf(2), data.rows, &matrix));
      CHECK(matrix->dtype == dtype && matrix->rows == 70 && matrix->dim == dim);
      CHECK_OK(emulatedBackend().upload(contextOf(1), Rows(matrix), &copy));
      std::vector<char> back(copy->bytes());
      CHECK_OK(emulatedBackend().download(contextOf(1), *copy, back.data()));
      const void* wanted =
          dtype == Dtype::kFloat32 ? static_cast<const void*>(data.floats.data()) : data.halves.data();
      CHECK(memcmp(back.data(), wanted, back.size()) == 0);
      // A range of it, prepared where it is.
      const std::vector<int64_t> all = {0, 1, 2, 19};
      std::vector<float> rows[2];
      for (int side = 0; side < 2; ++side) {
        Backend& backend = side == 0 ? cpuBackend() : emulatedBackend();
        std::unique_ptr<Prepared> prepared;
        const Rows& from = side == 0 ? data.rows : Rows(matrix);
        CHECK_OK(
            backend.prepare(contextOf(2), {.rows = from, .begin = 11, .count = 20, .unit = true}, &prepared));
        rows[side].resize(4 * static_cast<size_t>(dim));
        CHECK_OK(backend.gather(
            contextOf(2),
            {.rows = prepared.get(), .indices = all.data(), .count = 4, .out = rows[side].data()}));
      }
      CHECK(same(rows[0], rows[1]));
      emulatedBackend().release(std::move(copy));
    }
  }
  // A mixture is widened, a file is read in parts, and no rows are no trouble.
  const Data half = dataOf(20, 9, Dtype::kFloat16, false), full = dataOf(12, 9, Dtype::kFloat32, false);
  Data mixed{{}, {}, half.rows, 32, 9};
  mixed.rows.chunks.push_back(full.rows.chunks[0]);
  char path[] = "/tmp/clipcid-cuda-XXXXXX";
  const int descriptor = mkstemp(path);
  CHECK(write(descriptor, half.halves.data(), half.halves.size() * 2) ==
        static_cast<ssize_t>(half.halves.size() * 2));
  close(descriptor);
  Data file{{}, {}, {}, 20, 9};
  file.rows.chunks.push_back({{}, {path, 0, Dtype::kFloat16, 20, 9}});
  const size_t before = cuda::stagingBytes();
  for (const size_t bytes : {before, size_t{100}, size_t{10}}) {
    cuda::stagingBytes() = bytes;
    checkPrimitives(mixed, full, true, small(0));
    checkPrimitives(file, mixed, false, small(0));
    checkPrimitives(file, mixed, false, small(4000));
  }
  cuda::stagingBytes() = before;
  unlink(path);
  Data none{{}, {}, Rows(floatView(nullptr, 0, 9)), 0, 9};
  prepare(none, true, true, small(0));
  Status status = emulatedBackend().prepare(contextOf(1), {.rows = file.rows}, nullptr);
  CHECK(status.code == Code::kFileNotFound);
}

void norms() {
  const std::vector<float> data = dataOf(50, 21, Dtype::kFloat32, true).floats;
  std::vector<double> found[2];
  for (int side = 0; side < 2; ++side) {
    found[side].resize(50);
    Backend& backend = side == 0 ? cpuBackend() : emulatedBackend();
    CHECK_OK(backend.rowNorms(small(900),
                              {.data = data.data(), .count = 50, .dim = 21, .norms = found[side].data()}));
  }
  for (size_t at = 0; at < 50; ++at)
    CHECK(found[0][at] == found[1][at] || (std::isnan(found[0][at]) && std::isnan(found[1][at])));
}

// What a machine may be like, and what is said of it.
void machines() {
  const emulator::Options before = emulator::options();
  emulator::Options& machine = emulator::options();
  const auto says = [](const std::string& words) {
    return cudaDevices().reason.find(words) != std::string::npos;
  };
  machine.driver = 0;
  CHECK(says("No NVIDIA driver"));
  machine.driver = 12040;
  CHECK(says("CUDA 12.4") && says("CUDA 13.0") && says("driver 580"));
  machine.driver = 13000;
  machine.devices.clear();
  CHECK(says("no CUDA device"));
  machine.devices = {emulator::deviceOf(75), emulator::deviceOf(120), emulator::deviceOf(90)};
  machine.devices[1].kernels = false;
  const std::vector<CudaDevice> found = cudaDevices().devices;
  CHECK(found.size() == 3 && !found[0].usable && !found[1].usable && found[2].usable);
  CHECK(found[0].reason.find("8.0") != std::string::npos &&
        found[1].reason.find("12.0") != std::string::npos);
  Status status;
  CHECK(cudaBackend(1, &status) == nullptr && status.code == Code::kDeviceUnavailable);
  CHECK(cudaBackend(3, &status) == nullptr && status.code == Code::kDeviceUnavailable);
  emulator::options() = before;
}

// A device that is full says what was wanted and had, and loses nothing.
void fullDevice() {
  const emulator::Options before = emulator::options();
  emulator::options().devices[0].memory = 300 << 10;
  const Data data = dataOf(2000, 64, Dtype::kFloat32, false);
  {
    std::shared_ptr<DeviceMatrix> matrix;
    const Status status = emulatedBackend().upload(contextOf(1), data.rows, &matrix);
    CHECK(status.code == Code::kOutOfMemory && matrix == nullptr);
    // What does not fit is streamed.
    checkPrimitives(data, data, true, small(0));
  }
  CHECK(emulator::bytesInUse(0) == 0);
  emulator::options() = before;
}

void cancelled() {
  const Data data = dataOf(100, 8, Dtype::kFloat32, false);
  int32_t flag = 1;
  Context context = contextOf(1);
  context.cancel = &flag;
  std::shared_ptr<DeviceMatrix> matrix;
  CHECK(emulatedBackend().upload(context, data.rows, &matrix).code == Code::kAborted);
}

}  // namespace

int main() {
  machines();
  quotients();
  inAllWays([] {
    primitives();
    norms();
  });
  inAllWays(matrices, {0, 5});
  fullDevice();
  cancelled();
  return report("cuda rows");
}
