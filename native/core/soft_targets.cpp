#include "core/soft_targets.h"

#include <algorithm>
#include <new>

#include "clipcid/canonical.h"
#include "core/loss_rows.h"
#include "core/read_rows.h"

namespace clipcid {
namespace {

constexpr int64_t kBlock = 4096;  // rows of the teacher at a time

// Rows that the host can read: a device's matrix is copied from it, unless it is the host's own memory.
Status readable(Backend& backend, const Context& context, const Rows& rows, AlignedArray<char>* copy,
                Rows* out) {
  *out = rows;
  if (!rows.device || rows.device->owner == &cpuBackend()) return {};
  const DeviceMatrix& matrix = *rows.device;
  *copy = AlignedArray<char>(static_cast<int64_t>(matrix.bytes()));
  CLIPCID_TRY(backend.download(context, matrix, copy->get()));
  *out = Rows(MatrixView{copy->get(), matrix.dtype, matrix.rows, matrix.dim, matrix.dim});
  return {};
}

// Rows [begin, begin + count), dense: where they lie, or read into `copy`.
Status floatRows(const Rows& rows, int64_t begin, int64_t count, AlignedArray<float>* copy,
                 const float** out) {
  const int64_t dim = rows.dim();
  if (!rows.device && rows.chunks.size() == 1 && !rows.chunks[0].inFile()) {
    const MatrixView& view = rows.chunks[0].view;
    if (view.dtype == Dtype::kFloat32 && view.stride == dim) {
      *out = view.floats() + begin * dim;
      return {};
    }
  }
  *copy = AlignedArray<float>(count * dim);
  *out = copy->get();
  return readRows(rows, begin, count, copy->get(), dim);
}

}  // namespace

Status softTargets(Backend& backend, const Context& context, const SoftTargetsArgs& args) {
  const int64_t count = args.teacher.count();
  const int64_t dim = args.teacher.dim();
  if (args.centroids.count() < 1 || args.centroids.dim() != dim) {
    return {Code::kInvalidArgument, "The centres are missing or of another width than the teacher"};
  }
  if (!(args.temperature > 0)) return {Code::kInvalidArgument, "The temperature isn't above 0"};
  try {
    AlignedArray<char> ownTeacher, ownCentroids;
    AlignedArray<float> copy;
    Rows rowsOfTeacher, rowsOfCentroids;
    CLIPCID_TRY(readable(backend, context, args.teacher, &ownTeacher, &rowsOfTeacher));
    SoftmaxSide centres;
    centres.count = args.centroids.count();
    const DeviceMatrix* matrix = args.centroids.device.get();
    if (matrix != nullptr && matrix->owner != &cpuBackend() && matrix->dtype == Dtype::kFloat32) {
      centres.device = matrix;
    } else {
      CLIPCID_TRY(readable(backend, context, args.centroids, &ownCentroids, &rowsOfCentroids));
      CLIPCID_TRY(floatRows(rowsOfCentroids, 0, centres.count, &copy, &centres.data));
    }
    std::vector<double> norms(static_cast<size_t>(args.centroids.count()));
    centres.measured = norms.data();
    std::vector<double> lse(static_cast<size_t>(std::min(count, kBlock)));
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t rows = std::min(kBlock, count - begin);
      AlignedArray<float> raw;
      const float* data = nullptr;
      CLIPCID_TRY(floatRows(rowsOfTeacher, begin, rows, &raw, &data));
      UnitRows teacher;
      // A fault is named by its place in the whole matrix.
      CLIPCID_TRY(normaliseRows(backend, context, "teacher", data, rows, dim, &teacher, begin));
      DistilArgs pass;
      pass.student = teacher.data();
      pass.rows = rows;
      pass.dim = dim;
      pass.keys = centres;
      pass.scale = 1 / args.temperature;
      pass.keeps = true;
      pass.lse = lse.data();
      pass.sums = args.softCentroids + begin * dim;
      CLIPCID_TRY(backend.distil(context, pass));
      if (begin == 0) CLIPCID_TRY(checkNorms("centroids", norms, nullptr));
      centres.measured = nullptr;
      centres.norms = norms.data();
      forRows(context, rows, [&](int64_t i) {
        const double along = canonicalDot(teacher.row(i), pass.sums + i * dim, dim);
        const double entropy = lse[static_cast<size_t>(i)] - along / args.temperature;
        args.entropies[begin + i] = static_cast<float>(entropy);
      });
      if (context.progress) context.progress(static_cast<double>(begin + rows), static_cast<double>(count));
    }
  } catch (const std::bad_alloc&) {
    return {Code::kOutOfMemory, "Out of memory for soft targets"};
  }
  return {};
}

}  // namespace clipcid
