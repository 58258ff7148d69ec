// Best: the key of highest canonical score for each chosen query.
//
// In: queries [Q, D] (all, or `rows` of them), keys [K, D]. Out: an index for each, and where asked for its score.
//
// So many queries at a time as their lists have room, with one block of keys after the other (best_pass.h). With several blocks
// of keys the winner's canonical score goes on as the floor of the next one. No step waits for the host.
#include "cuda/best.h"

#include <algorithm>
#include <limits>

#include "core/parallel.h"
#include "cuda/best_pass.h"
#include "cuda/operand.h"
#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

// Of what a call may hold on the device: listed queries that are collected.
constexpr double kCollectedShare = 1.0 / 16;

class Best {
 public:
  Best(Device& device, const Context& context, const BestArgs& args)
      : device_(device),
        context_(context),
        args_(args),
        queries_(cudaPrepared(args.queries)),
        keys_(cudaPrepared(args.keys)),
        count_(args.rows == nullptr ? queries_.rows : args.count),
        session_(&device) {}

  Status run() {
    if (count_ == 0) return {};
    CLIPCID_TRY(session_.begin());
    CLIPCID_TRY(planBest(context_, queries_, keys_, count_, args_.euclidean, &plan_));
    if (args_.plan != nullptr) *args_.plan = plan_.text(device_);
    OperandBlocks keys(context_, session_, keys_, plan_.keys, 2);
    CLIPCID_TRY(keys.begin());
    scored_ = args_.scores != nullptr || args_.above != nullptr || keys.count() > 1;
    return args_.rows == nullptr ? allQueries(&keys) : listedQueries(&keys);
  }

 private:
  Status allQueries(OperandBlocks* keys) {
    OperandBlocks queries(context_, session_, queries_, plan_.queries, keys->count() > 1 ? 1 : 2);
    CLIPCID_TRY(queries.begin());
    for (int64_t q = 0; q < queries.count(); ++q) {
      OperandBlocks::Block block;
      CLIPCID_TRY(queries.get(q, &block));
      for (int64_t from = 0; from < block.count; from += bestLimits().queries) {
        const int64_t here = std::min(bestLimits().queries, block.count - from);
        const DeviceRows stored = block.stored.part(from, here);
        const EncodedView encoded = block.encoded.part(from, here);
        CLIPCID_TRY(
            compare(stored, encoded, keys, block.begin + from, [&] { return queries.prefetch(q + 1); }));
      }
    }
    return {};
  }

  // As compared, and in the order of their list.
  Status listedQueries(OperandBlocks* keys) {
    const int64_t stride = deviceStride(Dtype::kFloat32, queries_.dim);
    int64_t budget = 0;
    CLIPCID_TRY(deviceBudget(context_, &budget));
    int64_t most = static_cast<int64_t>(static_cast<double>(budget) * kCollectedShare) / (4 * stride);
    most = std::clamp<int64_t>(most, 1, std::min(bestLimits().queries, count_));
    Buffer<float> rows;
    Buffer<double> norms;
    Buffer<int64_t> indices;
    CudaPrepared::Gathered gathered;
    EncodedRows encoded;
    Uploader uploader(context_, device_);
    for (int64_t from = 0; from < count_; from += most) {
      const int64_t here = std::min(most, count_ - from);
      const int64_t* list = args_.rows + from;
      DeviceRows stored;
      if (queries_.resident()) {
        CLIPCID_TRY(indices.atLeast(most, session_.stream()));
        CLIPCID_TRY(rows.atLeast(most * stride, session_.stream()));
        CLIPCID_TRY(norms.atLeast(most, session_.stream()));
        CLIPCID_TRY(copyToDevice(indices.get(), list, static_cast<size_t>(here) * 8, session_.stream()));
        CLIPCID_TRY(comparedRows(device_, session_.stream(), queries_.all(), indices.get(), here, stride,
                                 rows.get()));
        // They are taken as they are now; no norm is that of a fault.
        CLIPCID_TRY(fillBytes(norms.get(), 0, norms.bytes(), session_.stream()));
        stored.data = rows.get();
        stored.stride = stride;
        stored.dim = queries_.dim;
        stored.count = here;
        stored.norms = norms.get();
      } else {
        CLIPCID_TRY(queries_.gather(
            session_, uploader, [&](int64_t at) { return list[at]; }, here, &gathered));
        stored = gathered.rows;
      }
      CLIPCID_TRY(encodeRows(device_, session_.stream(), stored, plan_.queries, &encoded));
      CLIPCID_TRY(compare(stored, encoded.view(), keys, from, [] { return Status(); }));
    }
    return {};
  }

  // Queries whose outputs begin at `out`, with all blocks of keys. `meanwhile` is called once the device has something to do.
  Status compare(const DeviceRows& stored, const EncodedView& encoded, OperandBlocks* keys, int64_t out,
                 const std::function<Status()>& meanwhile) {
    if (context_.cancelled()) return Status::aborted();
    const Stream stream = session_.stream();
    const auto count = static_cast<int32_t>(stored.count);
    if (!pass_) pass_ = std::make_unique<BestPass>(device_, stream);
    CLIPCID_TRY(labels_.atLeast(count, stream));
    if (scored_) {
      CLIPCID_TRY(scores_.atLeast(count, stream));
      CLIPCID_TRY(allScores_.atLeast(count, stream));
      CLIPCID_TRY(allLabels_.atLeast(count, stream));
      CLIPCID_TRY(fillBytes(allLabels_.get(), 0xff, static_cast<size_t>(count) * 4, stream));
    }
    const double* above = nullptr;
    if (args_.above != nullptr) {
      CLIPCID_TRY(above_.atLeast(count, stream));
      CLIPCID_TRY(copyToDevice(above_.get(), args_.above + out, static_cast<size_t>(count) * 8, stream));
      above = above_.get();
    }
    for (int64_t k = 0; k < keys->count(); ++k) {
      OperandBlocks::Block block;
      CLIPCID_TRY(keys->get(k, &block));
      BestSides sides{
          stored, block.stored, encoded, block.encoded, 1, count, static_cast<int32_t>(block.count), nullptr};
      if (args_.euclidean) {
        CLIPCID_TRY(squares_.atLeast(block.count, stream));
        CLIPCID_TRY(copyToDevice(squares_.get(), keys_.squares.data() + block.begin,
                                 static_cast<size_t>(block.count) * 8, stream));
        sides.squares = squares_.get();
      }
      CLIPCID_TRY(pass_->allocate(sides));
      if (k == 0) {
        CLIPCID_TRY(setFloors(device_, stream, count, above, plan_.scoreUnits(), pass_->floors()));
      } else {
        CLIPCID_TRY(raiseFloors(device_, stream, count, allLabels_.get(), allScores_.get(),
                                plan_.scoreUnits(), pass_->floors()));
      }
      CLIPCID_TRY(pass_->run(plan_, sides, nullptr, labels_.get()));
      if (k == 0) CLIPCID_TRY(meanwhile());
      if (!scored_) break;
      CLIPCID_TRY(scoresOfLabels(device_, stream, BestPass::decideParams(sides), count, above, labels_.get(),
                                 scores_.get()));
      CLIPCID_TRY(mergeBest(device_, stream, count, static_cast<int32_t>(block.begin), labels_.get(),
                            scores_.get(), allLabels_.get(), allScores_.get()));
      CLIPCID_TRY(keys->prefetch(k + 1));
      if (context_.cancelled()) return Status::aborted();
    }
    const int32_t* labels = scored_ ? allLabels_.get() : labels_.get();
    CLIPCID_TRY(copyToHost(args_.indices + out, labels, static_cast<size_t>(count) * 4, stream));
    if (args_.scores != nullptr)
      CLIPCID_TRY(copyToHost(args_.scores + out, allScores_.get(), static_cast<size_t>(count) * 8, stream));
    CLIPCID_TRY(session_.synchronise());
    done_ += count;
    if (context_.progress) context_.progress(static_cast<double>(done_), static_cast<double>(count_));
    return {};
  }

  Device& device_;
  const Context& context_;
  const BestArgs& args_;
  const CudaPrepared& queries_;
  const CudaPrepared& keys_;
  const int64_t count_;
  Session session_;
  FilterPlan plan_;
  bool scored_ = false;
  int64_t done_ = 0;
  std::unique_ptr<BestPass> pass_;
  // Of the queries at hand: of a block of keys, and of all so far.
  Buffer<int32_t> labels_, allLabels_;
  Buffer<double> scores_, allScores_, above_;
  Buffer<double> squares_;  // of the keys at hand
};

}  // namespace

Status bestKeys(Device& device, const Context& context, const BestArgs& args) {
  if (args.keys->rows < 1) return {Code::kInvalidArgument, "A selection among no keys"};
  return Best(device, context, args).run();
}

}  // namespace clipcid::cuda
