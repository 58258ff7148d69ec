#include "core/soft_targets.h"

#include <algorithm>
#include <new>

#include "clipcid/canonical.h"
#include "core/loss_rows.h"
#include "core/read_rows.h"

namespace clipcid {
namespace {

constexpr int64_t kBlock = 4096;  // rows of the teacher at a time

// Rows [begin, begin + count) as unit rows; a fault is named by its place in the whole matrix.
Status readUnit(const Context& context, const std::string& name, const Rows& rows, int64_t begin,
                int64_t count, UnitRows* out) {
  const int64_t dim = rows.dim();
  FloatBuffer raw(count * dim);
  CLIPCID_TRY(readRows(rows, begin, count, raw.get(), dim));
  return normaliseRows(context, name, raw.get(), count, dim, nullptr, out, begin);
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
    UnitRows centres;
    CLIPCID_TRY(readUnit(context, "centroids", args.centroids, 0, args.centroids.count(), &centres));
    std::vector<float> lse(static_cast<size_t>(std::min(count, kBlock)));
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t rows = std::min(kBlock, count - begin);
      UnitRows teacher;
      CLIPCID_TRY(readUnit(context, "teacher", args.teacher, begin, rows, &teacher));
      SoftmaxLossArgs pass;
      pass.q = teacher.data();
      pass.k = centres.data();
      pass.queries = rows;
      pass.keys = centres.rows;
      pass.dim = dim;
      pass.scale = 1 / args.temperature;
      pass.lse = lse.data();
      pass.values = args.softCentroids + begin * dim;
      CLIPCID_TRY(backend.softmaxLoss(context, pass));
      for (int64_t i = 0; i < rows; ++i) {
        const double along = canonicalDot(teacher.row(i), pass.values + i * dim, dim);
        const double entropy = static_cast<double>(lse[static_cast<size_t>(i)]) - along / args.temperature;
        args.entropies[begin + i] = static_cast<float>(entropy);
      }
      if (context.progress) context.progress(static_cast<double>(begin + rows), static_cast<double>(count));
    }
  } catch (const std::bad_alloc&) {
    return {Code::kOutOfMemory, "Out of memory for soft targets"};
  }
  return {};
}

}  // namespace clipcid
