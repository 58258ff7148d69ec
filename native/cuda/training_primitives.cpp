// matmul and adamw of host memory: what they need is copied to the device and back, in parts where it does not fit.
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cuda/adamw_kernels.h"
#include "cuda/backend.h"
#include "cuda/matmul_kernels.h"

namespace clipcid {

using namespace cuda;

namespace {

// Rows [begin, begin + count) of a row-major matrix to the device, dense.
Status bring(const float* from, int64_t stride, int64_t begin, int64_t count, int64_t width, Stream stream,
             Buffer<float>* to) {
  CLIPCID_TRY(to->atLeast(std::max<int64_t>(count * width, 1), stream));
  return copyRowsToDevice(to->get(), static_cast<size_t>(width) * 4, from + begin * stride,
                          static_cast<size_t>(stride) * 4, static_cast<size_t>(width) * 4,
                          static_cast<size_t>(count), stream);
}

// Columns of it.
Status bringColumns(const float* from, int64_t stride, int64_t begin, int64_t count, int64_t rows,
                    Stream stream, Buffer<float>* to) {
  CLIPCID_TRY(to->atLeast(std::max<int64_t>(count * rows, 1), stream));
  return copyRowsToDevice(to->get(), static_cast<size_t>(count) * 4, from + begin,
                          static_cast<size_t>(stride) * 4, static_cast<size_t>(count) * 4,
                          static_cast<size_t>(rows), stream);
}

Status matmulOf(Device& device, const Context& context, const MatmulArgs& args) {
  if (args.m == 0 || args.n == 0) return {};
  Session session(&device);
  CLIPCID_TRY(session.begin());
  const Stream stream = session.stream();
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context, &budget));
  // Tiles of C as large as they fit with their rows of A and columns of B.
  const auto values = static_cast<int64_t>(static_cast<double>(budget) / 2 / 4);
  int64_t rows = args.m, columns = args.n;
  while (rows * args.k + columns * args.k + rows * columns > values && (rows > 1 || columns > 1)) {
    int64_t& larger = rows > columns ? rows : columns;
    larger = (larger + 1) / 2;
  }
  Buffer<float> a, b, c;
  for (int64_t row = 0; row < args.m; row += rows) {
    const int64_t m = std::min(rows, args.m - row);
    CLIPCID_TRY(args.transposeA ? bringColumns(args.a, args.strideA, row, m, args.k, stream, &a)
                                : bring(args.a, args.strideA, row, m, args.k, stream, &a));
    for (int64_t column = 0; column < args.n; column += columns) {
      if (context.cancelled()) return Status::aborted();
      const int64_t n = std::min(columns, args.n - column);
      // All of B stays where it is brought once.
      if (row == 0 || columns < args.n)
        CLIPCID_TRY(args.transposeB ? bring(args.b, args.strideB, column, n, args.k, stream, &b)
                                    : bringColumns(args.b, args.strideB, column, n, args.k, stream, &b));
      float* to = args.c + row * args.strideC + column;
      CLIPCID_TRY(c.atLeast(m * n, stream));
      if (args.beta != 0) CLIPCID_TRY(bring(to, args.strideC, 0, m, n, stream, &c));
      MatmulKernelArgs work;
      work.a = a.get();
      work.b = b.get();
      work.c = c.get();
      work.m = m;
      work.n = n;
      work.k = args.k;
      work.strideA = args.transposeA ? m : args.k;
      work.strideB = args.transposeB ? args.k : n;
      work.strideC = n;
      work.transposeA = args.transposeA;
      work.transposeB = args.transposeB;
      work.alpha = args.alpha;
      work.beta = args.beta;
      CLIPCID_TRY(multiplyMatrices(stream, work));
      CLIPCID_TRY(copyRowsToHost(to, static_cast<size_t>(args.strideC) * 4, c.get(),
                                 static_cast<size_t>(n) * 4, static_cast<size_t>(n) * 4,
                                 static_cast<size_t>(m), stream));
      CLIPCID_TRY(session.synchronise());
    }
  }
  return {};
}

Status adamwOf(Device& device, const Context& context, const AdamwArgs& args) {
  CLIPCID_TRY(validateAdamw(args));
  if (context.cancelled()) return Status::aborted();
  Session session(&device);
  CLIPCID_TRY(session.begin());
  const Stream stream = session.stream();
  const auto bytes = static_cast<size_t>(args.length) * 4;
  float* const host[5] = {args.parameters, args.gradients, args.first, args.second, args.ema};
  Buffer<float> values[5];
  for (int at = 0; at < 5; ++at) {
    if (host[at] == nullptr) continue;
    CLIPCID_TRY(values[at].allocate(std::max<int64_t>(args.length, 1), stream));
    CLIPCID_TRY(copyToDevice(values[at].get(), host[at], bytes, stream));
  }
  AdamwTables tables;
  CLIPCID_TRY(tables.prepare(stream, args));
  const AdamwBuffers buffers = {values[0].get(), values[1].get(), values[2].get(), values[3].get(),
                                values[4].get()};
  CLIPCID_TRY(tables.step(stream, buffers, args.clip, nullptr));
  double norm = 0;
  CLIPCID_TRY(copyToHost(&norm, tables.norm(), sizeof norm, stream));
  CLIPCID_TRY(session.synchronise());
  if (!std::isfinite(norm)) return firstNotFinite(args, args.gradients);
  // From here on buffers change: a step that began to write finishes.
  if (context.cancelled()) return Status::aborted();
  for (int at = 0; at < 5; ++at) {
    if (host[at] != nullptr) CLIPCID_TRY(copyToHost(host[at], values[at].get(), bytes, stream));
  }
  CLIPCID_TRY(session.synchronise());
  if (args.gradientNorm != nullptr) *args.gradientNorm = norm;
  return {};
}

}  // namespace

Status CudaBackend::matmul(const Context& context, const MatmulArgs& args) {
  return guarded([&] { return matmulOf(device_, context, args); });
}

Status CudaBackend::adamw(const Context& context, const AdamwArgs& args) {
  return guarded([&] { return adamwOf(device_, context, args); });
}

}  // namespace clipcid
