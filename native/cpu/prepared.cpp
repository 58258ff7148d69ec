#include "cpu/prepared.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <system_error>
#include <thread>

#include "clipcid/canonical.h"
#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kRangeBytes = int64_t{256} << 10;  // rows that one task takes

}  // namespace

PreparedLimits& preparedLimits() {
  static PreparedLimits limits;
  return limits;
}

int64_t memoryBudget(const Context& context) {
  if (preparedLimits().memory > 0) return preparedLimits().memory;
  if (context.maxMemory > 0) return context.maxMemory;
  constexpr int64_t kLeast = int64_t{64} << 20;
  // Asking the system takes longer than a small problem: an answer is good for a tenth of a second.
  using Clock = std::chrono::steady_clock;
  static std::atomic<int64_t> asked{0}, answer{0};
  const int64_t now =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch()).count();
  int64_t budget = answer.load(std::memory_order_acquire);
  if (budget == 0 || now - asked.load(std::memory_order_relaxed) >= 100) {
    budget = std::max(static_cast<int64_t>(cpuBackend().memory().free / 2), kLeast);
    asked.store(now, std::memory_order_relaxed);
    answer.store(budget, std::memory_order_release);
  }
  return budget;
}

CpuPrepared::CpuPrepared(const PrepareArgs& args) : reader_(args.rows), offset_(args.begin) {
  rows = args.count < 0 ? args.rows.count() - offset_ : args.count;
  dim = args.rows.dim();
  unit = args.unit;
  if (rows > 0) base_ = reader_.inPlace(offset_, rows, &stride_);
}

Status CpuPrepared::scan(const Context& context, bool squaresOfUnitRows) {
  const Kernels& kernel = kernels();
  faulty_.assign(static_cast<size_t>(rows), 0);
  norms_.assign(static_cast<size_t>(rows), 0);
  const bool withSquares = !unit || squaresOfUnitRows;
  if (withSquares) squares.assign(static_cast<size_t>(rows), 0);
  std::mutex mutex;
  CLIPCID_TRY(
      eachRange(context, 0, rows,
                [&](int64_t begin, int64_t count, const float* stored, int64_t stride, int) -> Status {
                  float most = 0;
                  AlignedArray<float> scratch;
                  if (unit && withSquares) scratch = AlignedArray<float>(dim);
                  for (int64_t i = begin; i < begin + count; ++i, stored += stride) {
                    prefetchRow(stored + kRowsAhead * stride, dim);
                    const auto at = static_cast<size_t>(i);
                    const double square = kernel.dot(stored, stored, dim);
                    if (!std::isfinite(square) || (unit && square == 0)) {
                      faulty_[at] = 1;
                      continue;
                    }
                    norms_[at] = std::sqrt(square);
                    if (!unit) {
                      squares[at] = square;
                      most = std::max(most, largestElement(stored, dim));
                    } else if (withSquares) {
                      compared(i, stored, scratch.get());
                      squares[at] = kernel.dot(scratch.get(), scratch.get(), dim);
                    }
                  }
                  if (unit) return {};
                  std::lock_guard<std::mutex> lock(mutex);
                  largest = std::max(largest, static_cast<double>(most));
                  return {};
                }));
  if (unit) largest = 1;
  for (int64_t i = 0; i < rows; ++i) {
    if (isFault(i)) faults.push_back(i);
  }
  return {};
}

Status CpuPrepared::eachRange(const Context& context, int64_t begin, int64_t count,
                              const Visit& visit) const {
  const int64_t range = std::clamp<int64_t>(kRangeBytes / (4 * std::max<int64_t>(dim, 1)), 1, 256);
  if (!reader_.inMemory()) return eachRangeOfFile(context, begin, count, range, visit);
  return parallelTry(context, (count + range - 1) / range, [&](int64_t task, int worker) -> Status {
    const int64_t from = begin + task * range, rowsHere = std::min(range, begin + count - from);
    int64_t stride = dim;
    if (const float* data = reader_.inPlace(offset_ + from, rowsHere, &stride))
      return visit(from, rowsHere, data, stride, worker);
    const AlignedArray<float> scratch(rowsHere * dim);
    CLIPCID_TRY(reader_.read(offset_ + from, rowsHere, scratch.get(), dim));
    return visit(from, rowsHere, scratch.get(), dim, worker);
  });
}

Status CpuPrepared::eachRangeOfFile(const Context& context, int64_t begin, int64_t count, int64_t range,
                                    const Visit& visit) const {
  const int64_t rowBytes = 4 * std::max<int64_t>(dim, 1);
  const int64_t limit = std::min(preparedLimits().stagingBytes, memoryBudget(context) / 16);
  const int64_t blockRows = std::clamp<int64_t>(limit / rowBytes, 1, std::max<int64_t>(count, 1));
  AlignedArray<float> staging[2] = {AlignedArray<float>(blockRows * dim),
                                    AlignedArray<float>(blockRows * dim)};
  const auto fill = [&](int64_t at, float* to) {
    const int64_t here = std::min(blockRows, count - at);
    return guarded([&] { return reader_.read(offset_ + begin + at, here, to, dim); });
  };
  if (count > 0) CLIPCID_TRY(fill(0, staging[0].get()));
  for (int64_t at = 0, turn = 0; at < count; at += blockRows, turn ^= 1) {
    const int64_t here = std::min(blockRows, count - at);
    Status ahead;
    std::thread reader;
    if (at + here < count) {
      const auto next = [&] { ahead = fill(at + blockRows, staging[turn ^ 1].get()); };
      try {
        reader = std::thread(next);
      } catch (const std::system_error&) {
        next();
      }
    }
    const float* data = staging[turn].get();
    const Status status =
        parallelTry(context, (here + range - 1) / range, [&](int64_t task, int worker) -> Status {
          const int64_t from = task * range;
          return visit(begin + at + from, std::min(range, here - from), data + from * dim, dim, worker);
        });
    if (reader.joinable()) reader.join();
    CLIPCID_TRY(status);
    CLIPCID_TRY(ahead);
  }
  return {};
}

Status CpuPrepared::storedElsewhere(int64_t index, float* scratch, const float** out) const {
  int64_t stride;
  *out = reader_.inPlace(offset_ + index, 1, &stride);
  if (*out != nullptr) return {};
  *out = scratch;
  return reader_.read(offset_ + index, 1, scratch, dim);
}

void CpuPrepared::compared(int64_t index, const float* stored, float* out) const {
  if (isFault(index)) {
    std::fill(out, out + dim, 0.0f);
    return;
  }
  if (out != stored) std::copy(stored, stored + dim, out);
  if (unit) kernels().unitRow(out, dim, storedNorm(index));
}

Status CpuPrepared::row(int64_t index, float* scratch, const float** out) const {
  CLIPCID_TRY(stored(index, scratch, out));
  if (!unit && !isFault(index)) return {};
  compared(index, *out, scratch);
  *out = scratch;
  return {};
}

bool CpuPrepared::inPlace(int64_t index) const {
  int64_t stride;
  return !unit && !isFault(index) && reader_.inPlace(offset_ + index, 1, &stride) != nullptr;
}

bool CpuPrepared::hasEncoded(const RowEncoding& encoding) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return kept_ && keptAs_ == encoding;
}

Filter CpuPrepared::keptFilter() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return kept_ ? keptAs_.filter : Filter::kAuto;
}

Status CpuPrepared::encoded(const Context& context, const RowEncoding& encoding,
                            std::shared_ptr<const EncodedRows>* out) const {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (kept_ && keptAs_ == encoding) {
      *out = kept_;
      return {};
    }
    kept_ = nullptr;
  }
  auto made = std::make_shared<EncodedRows>();
  CLIPCID_TRY(encode(context, encoding, 0, rows, made.get()));
  *out = made;
  std::lock_guard<std::mutex> lock(mutex_);
  keptAs_ = encoding;
  kept_ = std::move(made);
  return {};
}

Status CpuPrepared::encode(const Context& context, const RowEncoding& encoding, int64_t begin, int64_t count,
                           EncodedRows* out) const {
  out->allocate(encoding, begin, count);
  return eachRange(context, begin, count,
                   [&](int64_t from, int64_t here, const float* stored, int64_t stride, int) -> Status {
                     encodeRange(*this, encoding, from, here, stored, stride, out);
                     return {};
                   });
}

const CpuPrepared& cpuPrepared(const Prepared* prepared) {
  return static_cast<const CpuPrepared&>(*prepared);
}

}  // namespace clipcid
