// TopK: the k keys of highest canonical dot for each query, or of the highest product of two.
//
// In: queries [Q, D] (or a range of them) and keys [K, D]; a second pair [Q, E] and [K, E] for products. Out: indices and
// canonical scores [Q, k].
//
// Each query has a list of candidates and a floor. Keys come in ranges, at first of as many as a list holds, later each as long
// as all before: as floors rise with what was seen, about k keys of a range reach theirs. Behind a range the lists are pruned.
// A range that overflows some list counts as not done, and comes again in halves. What is left when a block of keys is done,
// or when lists stay more than half full because scores are too close to tell, is decided canonically, and the host keeps the k
// best of each query.
#include "cuda/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cuda/operand.h"
#include "cuda/top_k_kernels.h"

namespace clipcid::cuda {
namespace {

// Of what a call may hold on the device: the lists of the queries at hand, and their scores.
constexpr double kListShare = 1.0 / 8;

struct Decided {
  double score;
  int32_t key;

  bool before(const Decided& other) const {
    return score > other.score || (score == other.score && key < other.key);
  }
};

class TopK {
 public:
  TopK(Device& device, const Context& context, const TopKArgs& args)
      : device_(device),
        context_(context),
        args_(args),
        product_(args.secondQueries != nullptr),
        queries_(cudaPrepared(args.queries)),
        keys_(cudaPrepared(args.keys)),
        begin_(args.begin),
        count_(args.count < 0 ? queries_.rows - args.begin : args.count),
        session_(&device) {}

  Status run() {
    if (count_ == 0) return {};
    CLIPCID_TRY(session_.begin());
    CLIPCID_TRY(plan());
    OperandBlocks keys(context_, session_, keys_, plans_[0].keys, 2);
    std::unique_ptr<OperandBlocks> secondKeys;
    int64_t blockRows = 0;
    CLIPCID_TRY(keys.fitting(&blockRows));
    if (product_) {
      secondKeys = std::make_unique<OperandBlocks>(context_, session_, cudaPrepared(args_.secondKeys),
                                                   plans_[1].keys, 2);
      int64_t second = 0;
      CLIPCID_TRY(secondKeys->fitting(&second));
      blockRows = std::min(blockRows, second);
      CLIPCID_TRY(secondKeys->begin(blockRows));
    }
    CLIPCID_TRY(keys.begin(blockRows));
    CLIPCID_TRY(allocate());
    for (int64_t from = 0; from < count_; from += queriesAtOnce_) {
      const int64_t here = std::min(queriesAtOnce_, count_ - from);
      CLIPCID_TRY(bringQueries(begin_ + from, here));
      CLIPCID_TRY(select(&keys, secondKeys.get(), from));
    }
    return {};
  }

 private:
  Status plan() {
    const double pairs = static_cast<double>(count_) * static_cast<double>(keys_.rows);
    CLIPCID_TRY(planTopK(context_, queries_, keys_, pairs, &plans_[0]));
    std::string text = plans_[0].text(device_);
    if (product_) {
      const CudaPrepared& queries = cudaPrepared(args_.secondQueries);
      const CudaPrepared& keys = cudaPrepared(args_.secondKeys);
      if (queries.rows != queries_.rows || keys.rows != keys_.rows || queries.dim != keys.dim)
        return {Code::kInternal, "A selection over rows of different shapes"};
      CLIPCID_TRY(planTopK(context_, queries, keys, pairs, &plans_[1]));
      // Both with one kind of multiplication, so that their tiles are the same.
      if (plans_[0].math() != plans_[1].math()) {
        const Math math = std::min(plans_[0].math(), plans_[1].math());
        CLIPCID_TRY(planMath(context_, queries_, keys_, math, &plans_[0]));
        CLIPCID_TRY(planMath(context_, queries, keys, math, &plans_[1]));
        // Where int8 does not hold the rows of one side.
        if (plans_[0].math() != plans_[1].math()) {
          CLIPCID_TRY(planMath(context_, queries_, keys_, Math::kFloat16, &plans_[0]));
          CLIPCID_TRY(planMath(context_, queries, keys, Math::kFloat16, &plans_[1]));
        }
      }
      for (FilterPlan& one : plans_) one.shape = TileShape::kMedium;
      text = plans_[0].text(device_) + "; " + plans_[1].text(device_);
    }
    if (args_.plan != nullptr) *args_.plan = text;
    return {};
  }

  double units() const { return plans_[0].scoreUnits() * (product_ ? plans_[1].scoreUnits() : 1); }

  Status allocate() {
    const TileSize tile = plans_[0].tile();
    capacity_ = std::max({int64_t{4} * args_.k, topKLimits().capacity, int64_t{2} * tile.columns});
    capacity_ = std::min<int64_t>(capacity_, std::max<int64_t>(2 * keys_.rows, 2 * tile.columns));
    int64_t budget = 0;
    CLIPCID_TRY(deviceBudget(context_, &budget));
    const int64_t bytes = capacity_ * static_cast<int64_t>(sizeof(Candidate) + sizeof(double));
    queriesAtOnce_ = static_cast<int64_t>(static_cast<double>(budget) * kListShare) / bytes;
    queriesAtOnce_ = std::clamp<int64_t>(queriesAtOnce_, 1, std::min(topKLimits().queries, count_));
    const Stream stream = session_.stream();
    CLIPCID_TRY(candidates_.allocate(queriesAtOnce_ * capacity_, stream));
    CLIPCID_TRY(scores_.allocate(queriesAtOnce_ * capacity_, stream));
    CLIPCID_TRY(counts_.allocate(queriesAtOnce_, stream));
    CLIPCID_TRY(countsBefore_.allocate(queriesAtOnce_, stream));
    CLIPCID_TRY(floors_.allocate(queriesAtOnce_, stream));
    CLIPCID_TRY(crowded_.allocate(queriesAtOnce_, stream));
    return state_.allocate(1, stream);
  }

  // Queries [begin, begin + count), as stored and encoded.
  Status bringQueries(int64_t begin, int64_t count) {
    for (int side = 0; side < (product_ ? 2 : 1); ++side) {
      const CudaPrepared& from = cudaPrepared(side == 0 ? args_.queries : args_.secondQueries);
      Brought& to = brought_[side];
      if (from.resident()) {
        to.stored = from.part(begin, count);
      } else {
        Uploader uploader(context_, device_);
        CLIPCID_TRY(to.rows.atLeast(count * from.rowBytes(), session_.stream()));
        CLIPCID_TRY(from.bring(uploader, begin, count, to.rows.get(), session_.stream()));
        to.stored = from.brought(to.rows.get(), begin, count);
      }
      CLIPCID_TRY(encodeRows(device_, session_.stream(), to.stored, plans_[side].queries, &to.encoded));
    }
    queryBegin_ = begin;
    queryCount_ = static_cast<int32_t>(count);
    return {};
  }

  // The k best of the queries at hand, whose outputs begin at `out`.
  Status select(OperandBlocks* keys, OperandBlocks* secondKeys, int64_t out) {
    const Stream stream = session_.stream();
    best_.assign(static_cast<size_t>(queryCount_), {});
    hostFloors_.assign(static_cast<size_t>(queryCount_), -std::numeric_limits<float>::infinity());
    CLIPCID_TRY(copyToDevice(floors_.get(), hostFloors_.data(), hostFloors_.size() * 4, stream));
    CLIPCID_TRY(fillBytes(counts_.get(), 0, counts_.bytes(), stream));
    for (int64_t k = 0; k < keys->count(); ++k) {
      OperandBlocks::Block first, second;
      CLIPCID_TRY(keys->get(k, &first));
      if (product_) CLIPCID_TRY(secondKeys->get(k, &second));
      const double before = static_cast<double>(out) * static_cast<double>(keys_.rows) +
                            static_cast<double>(queryCount_) * static_cast<double>(first.begin);
      CLIPCID_TRY(selectFrom(first, second, before, [&]() -> Status {
        CLIPCID_TRY(keys->prefetch(k + 1));
        return product_ ? secondKeys->prefetch(k + 1) : Status();
      }));
    }
    for (int64_t query = 0; query < queryCount_; ++query) {
      const std::vector<Decided>& best = best_[static_cast<size_t>(query)];
      // Rows that changed while they were compared may leave fewer.
      if (static_cast<int64_t>(best.size()) < args_.k)
        return {Code::kInvalidData, "Rows changed while they were compared"};
      for (int64_t rank = 0; rank < args_.k; ++rank) {
        args_.indices[(out + query) * args_.k + rank] = best[static_cast<size_t>(rank)].key;
        args_.scores[(out + query) * args_.k + rank] = best[static_cast<size_t>(rank)].score;
      }
    }
    return {};
  }

  Status selectFrom(const OperandBlocks::Block& first, const OperandBlocks::Block& second, double before,
                    const std::function<Status()>& meanwhile) {
    const TileSize tile = plans_[0].tile();
    const auto tiles = static_cast<int32_t>((first.count + tile.columns - 1) / tile.columns);
    const auto fits = static_cast<int32_t>(std::max<int64_t>(capacity_ / 2 / tile.columns, 1));
    int32_t range = fits;
    bool told = false;
    for (int32_t column = 0; column < tiles;) {
      if (context_.cancelled()) return Status::aborted();
      const int32_t end = std::min(column + range, tiles);
      CLIPCID_TRY(launch(first, second, column, end));
      if (!told) {
        told = true;
        CLIPCID_TRY(meanwhile());
      }
      TopKState state;
      CLIPCID_TRY(readState(&state));
      if (state.most > capacity_) {
        // As it was before; lists that are at most half full take a tile's keys in any case.
        CLIPCID_TRY(copyOnDevice(counts_.get(), countsBefore_.get(), counts_.bytes(), session_.stream()));
        range = std::max((end - column) / 2, 1);
        continue;
      }
      CLIPCID_TRY(clearState());
      CLIPCID_TRY(pruneLists(device_, session_.stream(), queryCount_, static_cast<int32_t>(args_.k),
                             params(first, second), floors_.get(), state_.get(), crowded_.get()));
      CLIPCID_TRY(readState(&state));
      if (state.crowded > 0) CLIPCID_TRY(decide(first, second, state.most));
      column = end;
      // As many keys as were seen of all blocks so far.
      range = static_cast<int32_t>(
          std::clamp<int64_t>((first.begin + int64_t{column} * tile.columns) / tile.columns, fits, 1 << 14));
      if (context_.progress) {
        const double keys =
            std::min(static_cast<double>(first.count), static_cast<double>(int64_t{column} * tile.columns));
        context_.progress(before + keys * queryCount_,
                          static_cast<double>(count_) * static_cast<double>(keys_.rows));
      }
    }
    CLIPCID_TRY(clearState());
    CLIPCID_TRY(longestList(device_, session_.stream(), queryCount_, counts_.get(), state_.get()));
    TopKState state;
    CLIPCID_TRY(readState(&state));
    return decide(first, second, state.most);
  }

  TopKParams params(const OperandBlocks::Block& first, const OperandBlocks::Block& second) const {
    TopKParams params;
    params.side = {brought_[0].encoded.view(), first.encoded, plans_[0].terms(), 0};
    if (product_) {
      params.second = {brought_[1].encoded.view(), second.encoded, plans_[1].terms(), 0};
      params.side.cutoff = roundDown(args_.cutoff * plans_[0].scoreUnits());
      params.second.cutoff = roundDown(args_.cutoff * plans_[1].scoreUnits());
    }
    params.skipSelf = args_.skipSelf;
    params.queryBegin = static_cast<int32_t>(queryBegin_);
    params.keyBegin = static_cast<int32_t>(first.begin);
    params.floors = floors_.get();
    params.candidates = candidates_.get();
    params.counts = counts_.get();
    params.capacity = static_cast<int32_t>(capacity_);
    return params;
  }

  Status launch(const OperandBlocks::Block& first, const OperandBlocks::Block& second, int32_t column,
                int32_t end) {
    const Stream stream = session_.stream();
    const TileSize tile = plans_[0].tile();
    const EncodedView queries = brought_[0].encoded.view();
    MainloopParams loop;
    loop.queries = {queries.words, queries.stride, queryCount_};
    loop.keys = {first.encoded.words, first.encoded.stride, static_cast<int32_t>(first.count)};
    loop.depths = plans_[0].depths();
    loop.schedule.rowEnd = (queryCount_ + tile.rows - 1) / tile.rows;
    loop.schedule.columnBegin = column;
    loop.schedule.columnEnd = end;
    CLIPCID_TRY(copyOnDevice(countsBefore_.get(), counts_.get(), counts_.bytes(), stream));
    if (product_) {
      const EncodedView others = brought_[1].encoded.view();
      loop.secondQueries = {others.words, others.stride, queryCount_};
      loop.secondKeys = {second.encoded.words, second.encoded.stride, static_cast<int32_t>(second.count)};
      loop.secondDepths = plans_[1].depths();
      CLIPCID_TRY(topKProductTiles(device_, stream, plans_[0].math(), loop, params(first, second)));
    } else {
      CLIPCID_TRY(topKTiles(device_, stream, plans_[0].math(), plans_[0].shape, loop, params(first, second)));
    }
    CLIPCID_TRY(clearState());
    return longestList(device_, stream, queryCount_, counts_.get(), state_.get());
  }

  Status clearState() { return fillBytes(state_.get(), 0, sizeof(TopKState), session_.stream()); }
  Status readState(TopKState* out) {
    CLIPCID_TRY(copyToHost(out, state_.get(), sizeof(TopKState), session_.stream()));
    return session_.synchronise();
  }

  // Decides all candidates, the longest list of which has `most`, and keeps the k best of each query on the host.
  Status decide(const OperandBlocks::Block& first, const OperandBlocks::Block& second, int64_t most) {
    if (most == 0) return {};
    const Stream stream = session_.stream();
    TopKDecideParams work;
    work.queries = brought_[0].stored;
    work.keys = first.stored;
    if (product_) {
      work.secondQueries = brought_[1].stored;
      work.secondKeys = second.stored;
    }
    work.product = product_;
    work.cutoff = args_.cutoff;
    work.keyBegin = static_cast<int32_t>(first.begin);
    work.candidates = candidates_.get();
    work.counts = counts_.get();
    work.capacity = static_cast<int32_t>(capacity_);
    work.scores = scores_.get();
    CLIPCID_TRY(decideLists(device_, stream, work, nullptr, queryCount_));
    const auto queries = static_cast<size_t>(queryCount_), width = static_cast<size_t>(most);
    std::vector<Candidate> candidates(queries * width);
    std::vector<double> scores(queries * width);
    std::vector<int32_t> counts(queries);
    CLIPCID_TRY(copyRowsToHost(candidates.data(), width * sizeof(Candidate), candidates_.get(),
                               static_cast<size_t>(capacity_) * sizeof(Candidate), width * sizeof(Candidate),
                               queries, stream));
    CLIPCID_TRY(copyRowsToHost(scores.data(), width * 8, scores_.get(), static_cast<size_t>(capacity_) * 8,
                               width * 8, queries, stream));
    CLIPCID_TRY(copyToHost(counts.data(), counts_.get(), queries * 4, stream));
    CLIPCID_TRY(session_.synchronise());
    constexpr int64_t kRange = 64;
    CLIPCID_TRY(parallelTry(context_, (queryCount_ + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      for (int64_t query = range * kRange; query < std::min<int64_t>((range + 1) * kRange, queryCount_);
           ++query) {
        std::vector<Decided>& best = best_[static_cast<size_t>(query)];
        for (int32_t at = 0; at < counts[static_cast<size_t>(query)]; ++at) {
          const size_t place = static_cast<size_t>(query) * width + static_cast<size_t>(at);
          best.push_back({scores[place], candidates[place].key});
        }
        const auto kept = std::min<size_t>(best.size(), static_cast<size_t>(args_.k));
        std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(kept), best.end(),
                          [](const Decided& a, const Decided& b) { return a.before(b); });
        best.resize(kept);
        if (static_cast<int64_t>(kept) < args_.k) continue;
        // Not above the k-th's score.
        const float floor = roundDown(best.back().score * units());
        float& known = hostFloors_[static_cast<size_t>(query)];
        known = std::max(known, floor - std::fabs(floor) * 0x1p-22f - 0x1p-140f);
      }
      return {};
    }));
    // Floors of lists that were pruned are not above these, or of those that have not k decided yet.
    std::vector<float> floors(queries);
    CLIPCID_TRY(copyToHost(floors.data(), floors_.get(), queries * 4, stream));
    CLIPCID_TRY(session_.synchronise());
    for (size_t query = 0; query < queries; ++query)
      floors[query] = std::max(floors[query], hostFloors_[query]);
    CLIPCID_TRY(copyToDevice(floors_.get(), floors.data(), queries * 4, stream));
    return fillBytes(counts_.get(), 0, counts_.bytes(), stream);
  }

  struct Brought {
    Buffer<char> rows;
    EncodedRows encoded;
    DeviceRows stored;
  };

  Device& device_;
  const Context& context_;
  const TopKArgs& args_;
  const bool product_;
  const CudaPrepared& queries_;
  const CudaPrepared& keys_;
  const int64_t begin_, count_;
  Session session_;
  FilterPlan plans_[2];
  int64_t capacity_ = 0, queriesAtOnce_ = 0;
  Buffer<Candidate> candidates_;
  Buffer<double> scores_;
  Buffer<int32_t> counts_, countsBefore_, crowded_;
  Buffer<float> floors_;
  Buffer<TopKState> state_;
  // Of the queries at hand.
  Brought brought_[2];
  int64_t queryBegin_ = 0;
  int32_t queryCount_ = 0;
  std::vector<std::vector<Decided>> best_;
  std::vector<float> hostFloors_;
};

}  // namespace

TopKLimits& topKLimits() {
  static TopKLimits limits;
  return limits;
}

Status topKeys(Device& device, const Context& context, const TopKArgs& args) {
  if (args.k < 1 || args.k > args.keys->rows - (args.skipSelf ? 1 : 0))
    return {Code::kInvalidArgument, "k is not in the number of keys"};
  return TopK(device, context, args).run();
}

}  // namespace clipcid::cuda
