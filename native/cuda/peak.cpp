#include "cuda/peak.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "clipcid/philox.h"
#include "cuda/matmul_kernels.h"

namespace clipcid::cuda {
namespace {

constexpr int64_t kMostRows = 8192, kMostFloatRows = 4096;
constexpr int64_t kMostCopied = int64_t{1} << 30;
constexpr int kTurns = 3;

// The shortest of several turns, after one that warms up.
Status fastest(Stream stream, const Context& context, const std::function<Status()>& work, double* seconds) {
  OwnedEvent begin, end;
  CLIPCID_TRY(begin.create(true));
  CLIPCID_TRY(end.create(true));
  for (int turn = 0; turn <= kTurns; ++turn) {
    if (context.cancelled()) return Status::aborted();
    double taken = 0;
    CLIPCID_TRY(record(begin.get(), stream));
    CLIPCID_TRY(work());
    CLIPCID_TRY(record(end.get(), stream));
    CLIPCID_TRY(synchronise(end.get()));
    CLIPCID_TRY(secondsBetween(begin.get(), end.get(), &taken));
    if (turn > 0) *seconds = turn == 1 ? taken : std::min(*seconds, taken);
  }
  return {};
}

// Random words that are float16 of 2^-7 to 2^-3, of either sign: the power that a product takes depends on its numbers.
Status fill(char* to, int64_t bytes, Stream stream) {
  constexpr int64_t kOwn = int64_t{1} << 20;
  std::vector<uint64_t> words(static_cast<size_t>(std::min(bytes, kOwn) / 8));
  for (size_t at = 0; at < words.size(); ++at)
    words[at] = (philox64(1, 1, at) & 0x8fff8fff8fff8fffu) | 0x2000200020002000u;
  const auto own = static_cast<int64_t>(words.size()) * 8;
  CLIPCID_TRY(copyToDevice(to, words.data(), static_cast<size_t>(own), stream));
  for (int64_t done = own; done < bytes; done += std::min(done, bytes - done))
    CLIPCID_TRY(copyOnDevice(to + done, to, static_cast<size_t>(std::min(done, bytes - done)), stream));
  return synchronise(stream);
}

double operations(int64_t rows, int64_t elements) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(rows) * static_cast<double>(elements);
}

}  // namespace

Status measurePeak(Device& device, const Context& context, Peak* out) {
  Session session(&device);
  CLIPCID_TRY(session.begin());
  const Stream stream = session.stream();
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context, &budget));
  // Rows of as many bytes as there are rows, twice, and a float for each pair; a quarter of what there is.
  int64_t rows = kMostRows;
  while (rows > 128 && 6 * rows * rows > budget / 4) rows /= 2;
  Buffer<char> words;
  Buffer<float> product;
  CLIPCID_TRY(words.allocate(2 * rows * rows, stream));
  CLIPCID_TRY(product.allocate(rows * rows, stream));
  CLIPCID_TRY(fill(words.get(), 2 * rows * rows, stream));
  double seconds = 0;
  for (const Math math : {Math::kFloat16, Math::kInt8}) {
    const TileSize tile = tileSizeOf(math, TileShape::kLarge);
    MainloopParams params;
    params.queries = {words.get(), rows, static_cast<int32_t>(rows)};
    params.keys = {words.get() + rows * rows, rows, static_cast<int32_t>(rows)};
    params.depths = static_cast<int32_t>(rows / kDepthBytes);
    params.schedule.rowEnd = static_cast<int32_t>((rows + tile.rows - 1) / tile.rows);
    params.schedule.columnEnd = static_cast<int32_t>((rows + tile.columns - 1) / tile.columns);
    CLIPCID_TRY(fastest(
        stream, context, [&] { return multiplyRows(device, stream, math, params, product.get(), rows); },
        &seconds));
    double& rate = math == Math::kInt8 ? out->int8 : out->bfloat16;
    rate = operations(rows, rows / elementBytes(math)) / seconds / 1e9;
  }
  // The floats lie where the words did.
  const int64_t side = std::min(rows / 2, kMostFloatRows);
  MatmulKernelArgs args;
  args.a = reinterpret_cast<const float*>(words.get());
  args.b = args.a + side * side;
  args.c = product.get();
  args.m = args.n = args.k = args.strideA = args.strideB = args.strideC = side;
  CLIPCID_TRY(fastest(
      stream, context, [&] { return multiplyMatrices(stream, args); }, &seconds));
  out->float32 = operations(side, side) / seconds / 1e9;

  words = Buffer<char>();
  product = Buffer<float>();
  const int64_t copied = std::min(kMostCopied, budget / 4);
  CLIPCID_TRY(words.allocate(2 * copied, stream));
  CLIPCID_TRY(fastest(
      stream, context,
      [&] { return copyOnDevice(words.get() + copied, words.get(), static_cast<size_t>(copied), stream); },
      &seconds));
  out->bandwidth = 2 * static_cast<double>(copied) / seconds / 1e9;
  return {};
}

}  // namespace clipcid::cuda
