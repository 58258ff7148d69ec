// In: rows [N, D] as stored. Out: words [N, stride], bounds [N], and the largest of each kBoundGroup bounds.
//
// A warp a row: elements as compared, exactly; scaled, which is exact but for underflow where the scale is a power of two, and
// rounds once by a step's inverse; rounded to words, whose residuals are summed up in float32. The rounding of those sums and
// of the scaled elements is in the error:
//   1.001                  the sum of D / 32 + 37 squares in a chain, its root, and the conversions;
//   2^-22 of the length    the scaled elements;
//   2^-74 sqrt(D)          underflow, of squares too; beside words of up to 2^14, and of length.
// Rows to be spread lie in shared memory meanwhile. Bound by memory. Not yet measured.
#include <algorithm>
#include <cmath>

#include "clipcid/philox.h"
#include "cuda/encode.h"
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlocksOfMultiprocessor = 16;
constexpr uint64_t kSignStream = 103;

struct EncodeKernelArgs {
  DeviceRows rows;
  float scale;
  const uint32_t* signs;  // of spread()
  char* words;
  int64_t stride;
  RowBound* bounds;
  float relativeError;  // of spread()
};

CLIPCID_DEVICE float sumOfWarp(float value) {
#pragma unroll
  for (int by = 16; by > 0; by /= 2) value += __shfl_xor_sync(kAllLanes, value, by);
  return value;
}

// Four words of one row, from its element k on; adds to the sums of squares of residuals and values.
template <Math kMath>
CLIPCID_DEVICE void writeFour(char* row, int64_t k, const float (&x)[4], float* residuals, float* squares) {
  float values[4];
  if constexpr (kMath == Math::kFloat32) {
    *reinterpret_cast<Floats4*>(row + 4 * k) = {x[0], x[1], x[2], x[3]};
    for (int i = 0; i < 4; ++i) values[i] = x[i];
  } else if constexpr (kMath == Math::kFloat16) {
    uint16_t halves[4];
    for (int i = 0; i < 4; ++i) {
      halves[i] = roundToHalf(x[i]);
      values[i] = widenHalf(halves[i]);
    }
    *reinterpret_cast<Words2*>(row + 2 * k) = {halves[0] | static_cast<uint32_t>(halves[1]) << 16,
                                               halves[2] | static_cast<uint32_t>(halves[3]) << 16};
  } else {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
      values[i] = rintf(fminf(fmaxf(x[i], -127.0f), 127.0f));
      word |= static_cast<uint32_t>(static_cast<int>(values[i]) & 255) << 8 * i;
    }
    *reinterpret_cast<uint32_t*>(row + k) = word;
  }
  for (int i = 0; i < 4; ++i) {
    const float left = x[i] - values[i];
    *residuals = fmaf(left, left, *residuals);
    *squares = fmaf(values[i], values[i], *squares);
  }
}

// Behind the last element, up to the end of the row's words.
template <Math kMath>
CLIPCID_DEVICE void writeZeros(char* row, int64_t dim, int64_t stride, int lane) {
  const int64_t from = (dim + 3) / 4 * 4 * elementBytes(kMath);
  for (int64_t at = from + 4 * lane; at < stride; at += 4 * kWarp) *reinterpret_cast<uint32_t*>(row + at) = 0;
}

template <Math kMath>
CLIPCID_DEVICE void writeBound(const EncodeKernelArgs& args, int64_t row, int64_t dim, float residuals,
                               float squares, int lane) {
  residuals = sumOfWarp(residuals);
  squares = sumOfWarp(squares);
  if (lane != 0) return;
  const float underflow = 0x1p-74f * sqrtf(static_cast<float>(dim));
  const float length = 1.001f * sqrtf(squares) + underflow;
  // What float32 cannot hold is not small.
  float error = 1.001f * sqrtf(residuals) + 0x1p-22f * (length + sqrtf(residuals)) +
                args.relativeError * (length + 1.001f * sqrtf(residuals)) + underflow;
  if (!(error < HUGE_VALF)) error = HUGE_VALF;
  args.bounds[row] = {error, length};
}

CLIPCID_DEVICE float signedBy(const uint32_t* signs, int64_t k, float x) {
  return (signs[k / 32] >> (k % 32) & 1) != 0 ? -x : x;
}

// The transform of 2^k values in shared memory, by a warp.
CLIPCID_DEVICE void transform(float* x, int64_t size, float scale, int lane) {
  for (int64_t half = 1; half < size; half *= 2) {
    for (int64_t at = lane; at < size / 2; at += kWarp) {
      const int64_t k = at / half * 2 * half + at % half;
      const float a = x[k], b = x[k + half];
      x[k] = a + b;
      x[k + half] = a - b;
    }
    __syncwarp();
  }
  for (int64_t k = lane; k < size; k += kWarp) x[k] *= scale;
  __syncwarp();
}

template <Math kMath, bool kSpread>
__global__ void __launch_bounds__(kThreads, 4) encodeKernel(EncodeKernelArgs args) {
  const DeviceRows& rows = args.rows;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const auto warps = static_cast<int64_t>(blockDim.x / kWarp);
  const int64_t padded = (rows.dim + 3) / 4 * 4;
  for (int64_t at = blockIdx.x * warps + warp; at < rows.count; at += gridDim.x * warps) {
    const ComparedRow row(rows, at);
    char* words = args.words + at * args.stride;
    float residuals = 0, squares = 0;
    if constexpr (kSpread) {
      auto* x = reinterpret_cast<float*>(sharedMemory()) + warp * padded;
      for (int64_t k = 4 * lane; k < rows.dim; k += 4 * kWarp) {
        const Floats4 four = row.four(rows, k);
        const float values[4] = {four.x, four.y, four.z, four.w};
        for (int i = 0; i < 4; ++i) x[k + i] = signedBy(args.signs, k + i, values[i] * args.scale);
      }
      __syncwarp();
      int64_t size = 1;
      while (2 * size <= rows.dim) size *= 2;
      const float scale = rsqrtf(static_cast<float>(size));
      transform(x, size, scale, lane);
      if (size < rows.dim) {
        const int64_t from = rows.dim - size;
        for (int64_t k = from + lane; k < rows.dim; k += kWarp)
          x[k] = signedBy(args.signs + kWidestSpread / 32, k, x[k]);
        __syncwarp();
        transform(x + from, size, scale, lane);
      }
      for (int64_t k = 4 * lane; k < rows.dim; k += 4 * kWarp) {
        float values[4];
        for (int i = 0; i < 4; ++i) values[i] = k + i < rows.dim ? x[k + i] : 0.0f;
        writeFour<kMath>(words, k, values, &residuals, &squares);
      }
      __syncwarp();
    } else {
      for (int64_t k = 4 * lane; k < rows.dim; k += 4 * kWarp) {
        const Floats4 four = row.four(rows, k);
        const float values[4] = {four.x * args.scale, four.y * args.scale, four.z * args.scale,
                                 four.w * args.scale};
        writeFour<kMath>(words, k, values, &residuals, &squares);
      }
    }
    writeZeros<kMath>(words, rows.dim, args.stride, lane);
    writeBound<kMath>(args, at, rows.dim, residuals, squares, lane);
  }
}

// A warp a group of rows.
__global__ void __launch_bounds__(kThreads)
    maximaKernel(const RowBound* bounds, int64_t count, RowBound* maxima) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t groups = (count + kBoundGroup - 1) / kBoundGroup;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t group = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; group < groups;
       group += step) {
    RowBound most = {0, 0};
    for (int64_t row = group * kBoundGroup + lane; row < count && row < (group + 1) * kBoundGroup;
         row += kWarp) {
      most.error = fmaxf(most.error, bounds[row].error);
      most.length = fmaxf(most.length, bounds[row].length);
    }
    // Magnitudes are ordered as their bits are.
    const int error = __reduce_max_sync(kAllLanes, __float_as_int(most.error));
    const int length = __reduce_max_sync(kAllLanes, __float_as_int(most.length));
    if (lane == 0) maxima[group] = {__int_as_float(error), __int_as_float(length)};
  }
}

__global__ void __launch_bounds__(kThreads)
    gatherKernel(EncodedView from, const int64_t* indices, int64_t count, char* words, RowBound* bounds) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < count; at += step) {
    const int64_t row = indices[at];
    for (int64_t byte = 16 * lane; byte < from.stride; byte += 16 * kWarp)
      *reinterpret_cast<Words4*>(words + at * from.stride + byte) =
          *reinterpret_cast<const Words4*>(from.words + row * from.stride + byte);
    if (lane == 0) bounds[at] = from.bounds[row];
  }
}

unsigned blocksFor(const Device& device, int64_t items) {
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  return static_cast<unsigned>(std::clamp<int64_t>((items + kWarps - 1) / kWarps, 1, most));
}

Status findMaxima(const Device& device, Stream stream, EncodedRows* rows) {
  const int64_t groups = (rows->count + kBoundGroup - 1) / kBoundGroup;
  return CLIPCID_LAUNCH(maximaKernel,
                        {.grid = blocksFor(device, groups), .block = kThreads, .stream = stream},
                        rows->bounds.get(), rows->count, rows->maxima.get());
}

template <Math kMath>
Status encode(const Device& device, Stream stream, const EncodeKernelArgs& args, bool spread) {
  const unsigned grid = blocksFor(device, args.rows.count);
  if (!spread)
    return CLIPCID_LAUNCH((encodeKernel<kMath, false>), {.grid = grid, .block = kThreads, .stream = stream},
                          args);
  // As many rows at a time as a block has memory for: of the widest three, where that is 99 KB.
  const auto ofRow = static_cast<size_t>((args.rows.dim + 3) / 4 * 16);
  const size_t warps = std::min<size_t>(kWarps, device.properties.sharedOfBlock / ofRow);
  return CLIPCID_LAUNCH((encodeKernel<kMath, true>),
                        {.grid = grid,
                         .block = static_cast<unsigned>(warps * kWarp),
                         .shared = warps * ofRow,
                         .stream = stream},
                        args);
}

}  // namespace

Status EncodedRows::allocate(int64_t number, int64_t bytes, Stream stream) {
  CLIPCID_TRY(words.atLeast(std::max<int64_t>(number * bytes, 1), stream));
  CLIPCID_TRY(bounds.atLeast(std::max<int64_t>(number, 1), stream));
  CLIPCID_TRY(maxima.atLeast(number / kBoundGroup + 1, stream));
  count = number;
  stride = bytes;
  return {};
}

void EncodedRows::freeOn(Stream stream) {
  words.freeOn(stream);
  bounds.freeOn(stream);
  maxima.freeOn(stream);
}

Status encodeRows(Device& device, Stream stream, const DeviceRows& rows, const Encoding& encoding,
                  EncodedRows* out) {
  CLIPCID_TRY(out->allocate(rows.count, encodedStride(encoding.math, rows.dim), stream));
  if (rows.count == 0) return {};
  EncodeKernelArgs args = {rows,        encoding.scale,    nullptr, out->words.get(),
                           out->stride, out->bounds.get(), 0};
  if (encoding.spread) {
    if (rows.dim > kWidestSpread) return {Code::kInternal, "Rows are too wide to be spread"};
    CLIPCID_TRY(device.constants(
        "signs", [] { return spreadSigns(); }, &args.signs));
    args.relativeError = static_cast<float>(spreadError(rows.dim));
  }
  switch (encoding.math) {
    case Math::kFloat32:
      CLIPCID_TRY(encode<Math::kFloat32>(device, stream, args, encoding.spread));
      break;
    case Math::kFloat16:
      CLIPCID_TRY(encode<Math::kFloat16>(device, stream, args, encoding.spread));
      break;
    case Math::kInt8:
      CLIPCID_TRY(encode<Math::kInt8>(device, stream, args, encoding.spread));
      break;
    case Math::kHalves:
      return {Code::kInternal, "Halves are not a filter's"};
  }
  return findMaxima(device, stream, out);
}

Status gatherEncoded(const Device& device, Stream stream, const EncodedView& from, const int64_t* indices,
                     int64_t count, EncodedRows* out) {
  CLIPCID_TRY(out->allocate(count, from.stride, stream));
  if (count == 0) return {};
  CLIPCID_TRY(CLIPCID_LAUNCH(gatherKernel,
                             {.grid = blocksFor(device, count), .block = kThreads, .stream = stream}, from,
                             indices, count, out->words.get(), out->bounds.get()));
  return findMaxima(device, stream, out);
}

double spreadError(int64_t dim) {
  // A step rounds each of its sums once, which is at most 2^-24 of the vector's length, and is orthogonal but for a factor;
  // the scale is good to 2^-22, and rounds once more. Twice when there are two transforms; and half as much again for what
  // is of second order.
  const double steps = std::log2(static_cast<double>(dim)) + 6;
  return 3 * steps * 0x1p-24;
}

std::vector<uint32_t> spreadSigns() {
  std::vector<uint32_t> signs(2 * kWidestSpread / 32);
  for (size_t at = 0; at < signs.size(); ++at) signs[at] = philox(0x5eed, kSignStream, at / 4).word[at % 4];
  return signs;
}

void spreadOnHost(const std::vector<uint32_t>& signs, float* row, int64_t dim) {
  const auto sign = [&](size_t offset, int64_t k) {
    if ((signs[offset + static_cast<size_t>(k) / 32] >> (k % 32) & 1) != 0) row[k] = -row[k];
  };
  int64_t size = 1;
  while (2 * size <= dim) size *= 2;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
  const auto turn = [&](float* x) {
    for (int64_t half = 1; half < size; half *= 2) {
      for (int64_t at = 0; at < size / 2; ++at) {
        const int64_t k = at / half * 2 * half + at % half;
        const float a = x[k], b = x[k + half];
        x[k] = a + b;
        x[k + half] = a - b;
      }
    }
    for (int64_t k = 0; k < size; ++k) x[k] *= scale;
  };
  for (int64_t k = 0; k < dim; ++k) sign(0, k);
  turn(row);
  if (size == dim) return;
  for (int64_t k = dim - size; k < dim; ++k) sign(kWidestSpread / 32, k);
  turn(row + dim - size);
}

}  // namespace clipcid::cuda
