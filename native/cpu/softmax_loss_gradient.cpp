// Weighted sums of values with the weights of a softmax's gradient, streaming (clipcid/backend.h, SoftmaxGradientArgs).
//
// In: q [M, D], k and v [N, D], log-sum-exps by row or column. Out: sum_j g_ij v_j, [M, D], and sum_ij g_ij z_ij,
// summed up in float64: by row over the keys in order, then over the rows in order.
//
// Best measured, time of one thread: 1,024 x 512 against 1,024 keys, both directions' log-sum-exps first and both
// gradients, 22 ms with AMX (240 GFLOP/s; Xeon, two cores shared with other work, November 2026).
#include <algorithm>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/softmax_loss_pass.h"
#include "cpu/softmax_loss_rows.h"

namespace clipcid {
namespace {

constexpr double kLog2e = 1.4426950408889634;

class Backward final : public SoftmaxPass {
 public:
  Backward(const Context& context, const SoftmaxGradientArgs& args)
      : SoftmaxPass(context, shapeOf(args)),
        args_(args),
        scale_(static_cast<float>(args.scale * kLog2e)),
        rowWeight_(args.rowLse != nullptr ? args.rowWeight : 0),
        columnWeight_(args.columnLse != nullptr ? args.columnWeight : 0),
        rows_(args.rowLse, rowWeight_ != 0 ? args.queries.count : 0, rowWeight_, args.queries.count),
        columns_(args.columnLse, columnWeight_ != 0 ? args.keys.count : 0, columnWeight_,
                 columnWeight_ != 0 ? (args.keys.count + kKeyBlock - 1) / kKeyBlock * kKeyBlock : 0) {
    if (args.logitGradient != nullptr) logitSums_.assign(static_cast<size_t>(args.queries.count), 0.0);
  }

  double logitGradient() const {
    double total = 0;
    for (const double sum : logitSums_) total += sum;
    return args_.scale * total;
  }

 private:
  static Shape shapeOf(const SoftmaxGradientArgs& args) {
    Shape shape;
    shape.queries = {args.queries};
    shape.keys = args.keys;
    shape.values = args.values;
    shape.dim = args.dim;
    shape.sums = true;
    shape.mirrored = args.mirrored;
    return shape;
  }

  bool epilogue(const Tile& tile, int64_t firstKey, int64_t keys, float* z, float*) override {
    const int64_t padded = (keys + kRowLanes - 1) / kRowLanes * kRowLanes;
    const auto targetWeight = static_cast<float>(rowWeight_ + columnWeight_);
    for (int64_t r = 0; r < tile.count; ++r) {
      float* row = z + r * kStride;
      const int64_t query = tile.first + r;
      std::fill(row + keys, row + padded, 0.0f);
      const int64_t target = args_.targets != nullptr ? args_.targets[query] - firstKey : -1;
      const bool hit = target >= 0 && target < keys;
      const double dot = hit ? static_cast<double>(row[target]) : 0;
      WeighRow weigh;
      weigh.scale = scale_;
      weigh.rowWeight = rows_.weights[static_cast<size_t>(query)];
      weigh.rowLse = rows_.lse[static_cast<size_t>(query)];
      weigh.columnWeights = columnWeight_ != 0 ? columns_.weights.data() + firstKey : nullptr;
      weigh.columnLse = columnWeight_ != 0 ? columns_.lse.data() + firstKey : nullptr;
      double sum = softmaxRows().weigh(row, padded, weigh);
      if (hit) {
        row[target] -= targetWeight;
        sum -= static_cast<double>(targetWeight) * dot;
      }
      if (!logitSums_.empty()) logitSums_[static_cast<size_t>(query)] += sum;
    }
    return false;
  }

  void finish(const Tile& tile, const float* sums, int64_t stride) override {
    const int32_t* indices = args_.queries.indices;
    for (int64_t r = 0; r < tile.count; ++r, sums += stride) {
      const int64_t query = tile.first + r;
      float* out = args_.sums + (indices != nullptr ? indices[query] : query) * args_.dim;
      if (args_.add) {
        for (int64_t d = 0; d < args_.dim; ++d) out[d] += sums[d];
      } else {
        for (int64_t d = 0; d < args_.dim; ++d) out[d] = sums[d];
      }
    }
  }

  const SoftmaxGradientArgs& args_;
  const float scale_;  // in units of ln(2)
  const double rowWeight_, columnWeight_;
  const RoundedLse rows_, columns_;
  std::vector<double> logitSums_;  // by query
};

}  // namespace

Status CpuBackend::softmaxGradient(const Context& context, const SoftmaxGradientArgs& args) {
  if (args.queries.count < 0 || args.keys.count < 1 || args.dim < 1 || args.sums == nullptr ||
      (args.values.data != nullptr && args.values.count != args.keys.count)) {
    return {Code::kInvalidArgument, "A softmax's gradient over no keys, of no width or without an output"};
  }
  return guarded([&]() -> Status {
    Backward pass(context, args);
    CLIPCID_TRY(pass.run());
    if (args.logitGradient != nullptr) *args.logitGradient = pass.logitGradient();
    return {};
  });
}

}  // namespace clipcid
