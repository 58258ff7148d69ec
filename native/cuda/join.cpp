// Join: all pairs of a query and a key whose canonical dot is over the threshold; or the sets that such pairs make.
//
// In: prepared queries [Q, D] and keys [K, D]. Out: pairs, to a sink, or labels [N] and how many pairs there were.
//
// The tiles of a pair of blocks are worked through in bands. A band's kernels rule pairs in or out where the plan's bound allows
// it and list what it leaves open, then decide the list canonically; the next band is queued before the host looks at what
// came of this one. A list that was too short is told by its counter: then the band counts as not done, is cut in two, and
// the bands after it are shorter too. Sets need no output: what is over the threshold is united on the device, however much
// that is, and unions that a repeated band makes again change nothing.
#include "cuda/join.h"

#include <algorithm>
#include <deque>
#include <limits>

#include "core/parallel.h"
#include "cuda/join_kernels.h"
#include "cuda/operand.h"

namespace clipcid::cuda {
namespace {

constexpr int64_t kMostCapacity = int64_t{1} << 22;
constexpr double kListShare = 1.0 / 16;
// Tiles of queries that share a sweep over the keys: their words stay in the level-2 cache.
constexpr int32_t kBandRows = 32;
// Pairs in one call of the sink.
constexpr int64_t kSinkPairs = 4096;

struct Band {
  int32_t rowBegin, rowEnd, columnBegin, columnEnd;

  int64_t tiles() const { return static_cast<int64_t>(rowEnd - rowBegin) * (columnEnd - columnBegin); }
};

// What a band writes, on the device and brought to the host.
struct BandOutput {
  Band band;
  double pairs = 0;
  bool pending = false;
  Buffer<Pair> list, found;
  Buffer<double> dots;
  Buffer<JoinCounters> counters;
  Pinned<JoinCounters> counted;
  OwnedEvent done;
};

class Join {
 public:
  // One of `pairs` and `sets`.
  Join(Device& device, const Context& context, const JoinArgs* pairs, const ComponentsArgs* sets)
      : device_(device),
        context_(context),
        pairs_(pairs),
        sets_(sets),
        queries_(cudaPrepared(sets != nullptr ? sets->rows : pairs->queries)),
        keys_(cudaPrepared(sets != nullptr ? sets->rows : pairs->keys)),
        threshold_(sets != nullptr ? sets->threshold : pairs->threshold),
        self_(&queries_ == &keys_),
        dots_(pairs != nullptr && pairs->dots),
        session_(&device),
        output_(&device) {}

  Status run() {
    CLIPCID_TRY(session_.begin());
    CLIPCID_TRY(output_.begin());
    std::string* text = sets_ != nullptr ? sets_->plan : pairs_->plan;
    CLIPCID_TRY(planJoin(context_, queries_, keys_, threshold_, dots_, &plan_));
    if (text != nullptr) *text = plan_.text(device_);
    total_ = static_cast<double>(queries_.rows) * static_cast<double>(keys_.rows);
    if (sets_ != nullptr) {
      CLIPCID_TRY(parents_.allocate(std::max<int64_t>(queries_.rows, 1), session_.stream()));
      CLIPCID_TRY(beginSets(device_, session_.stream(), parents_.get(), queries_.rows));
    }
    CLIPCID_TRY(exclude());
    CLIPCID_TRY(allocate());
    if (queries_.rows > 0 && keys_.rows > 0) CLIPCID_TRY(compareBlocks());
    if (context_.progress && done_ < total_) context_.progress(total_, total_);
    if (sets_ == nullptr) return {};
    CLIPCID_TRY(flattenSets(device_, session_.stream(), parents_.get(), queries_.rows));
    CLIPCID_TRY(
        copyToHost(sets_->labels, parents_.get(), static_cast<size_t>(queries_.rows) * 4, session_.stream()));
    CLIPCID_TRY(session_.synchronise());
    *sets_->edges = edges_;
    return {};
  }

 private:
  // Rows that are in no pair: faults, and what the caller skips.
  Status exclude() {
    const uint8_t* skip = sets_ != nullptr ? sets_->skip : nullptr;
    for (const CudaPrepared* side : {&queries_, &keys_}) {
      const int at = side == &queries_ ? 0 : 1;
      if (at == 1 && self_) break;
      if (side->faults.empty() && skip == nullptr) continue;
      std::vector<uint8_t> mask(static_cast<size_t>(side->rows), 0);
      if (skip != nullptr) std::copy(skip, skip + side->rows, mask.begin());
      for (const int64_t fault : side->faults) mask[static_cast<size_t>(fault)] = 1;
      CLIPCID_TRY(excluded_[at].allocate(side->rows, session_.stream()));
      CLIPCID_TRY(copyToDevice(excluded_[at].get(), mask.data(), mask.size(), session_.stream()));
    }
    return {};
  }

  Status allocate() {
    const TileSize tile = plan_.tile();
    const int64_t ofTile = int64_t{tile.rows} * tile.columns;
    int64_t budget = 0;
    CLIPCID_TRY(deviceBudget(context_, &budget));
    constexpr int64_t kEntry = 2 * (2 * sizeof(Pair) + sizeof(double));
    capacity_ =
        std::min(static_cast<int64_t>(static_cast<double>(budget) * kListShare) / kEntry, kMostCapacity);
    if (joinLimits().capacity > 0) capacity_ = joinLimits().capacity;
    // Never more than there are pairs, nor less than a tile may have.
    const double most = std::min(total_, static_cast<double>(kMostCapacity));
    capacity_ = std::max(std::min(capacity_, static_cast<int64_t>(most)), ofTile);
    for (BandOutput& output : outputs_) {
      CLIPCID_TRY(output.list.allocate(capacity_, session_.stream()));
      CLIPCID_TRY(output.counters.allocate(1, session_.stream()));
      CLIPCID_TRY(output.counted.allocate(1));
      CLIPCID_TRY(output.done.create());
      if (sets_ == nullptr) CLIPCID_TRY(output.found.allocate(capacity_, session_.stream()));
      if (dots_) CLIPCID_TRY(output.dots.allocate(capacity_, session_.stream()));
    }
    return {};
  }

  Status compareBlocks() {
    OperandBlocks queries(context_, session_, queries_, plan_.queries, 1);
    OperandBlocks keys(context_, session_, keys_, plan_.keys, 2);
    CLIPCID_TRY(queries.begin());
    CLIPCID_TRY(keys.begin());
    for (int64_t q = 0; q < queries.count(); ++q) {
      OperandBlocks::Block query;
      CLIPCID_TRY(queries.get(q, &query));
      // Blocks of a self-join are the same on both sides.
      for (int64_t k = self_ ? q : 0; k < keys.count(); ++k) {
        OperandBlocks::Block key;
        CLIPCID_TRY(keys.get(k, &key));
        const bool diagonal = self_ && query.begin == key.begin && query.count == key.count;
        CLIPCID_TRY(compare(query, key, diagonal, [&] { return keys.prefetch(k + 1); }));
      }
    }
    return {};
  }

  // All tiles of two blocks. `meanwhile` is called once the device has something to do.
  Status compare(const OperandBlocks::Block& query, const OperandBlocks::Block& key, bool diagonal,
                 const std::function<Status()>& meanwhile) {
    query_ = &query;
    key_ = &key;
    diagonal_ = diagonal;
    const TileSize tile = plan_.tile();
    const auto rowTiles = static_cast<int32_t>((query.count + tile.rows - 1) / tile.rows);
    const auto columnTiles = static_cast<int32_t>((key.count + tile.columns - 1) / tile.columns);
    std::deque<Band> bands;
    for (int32_t row = 0; row < rowTiles; row += kBandRows) {
      // Keys from the first one behind the band's first query on.
      const int32_t first = diagonal ? static_cast<int32_t>(std::min<int64_t>(
                                           (int64_t{row} * tile.rows + 1) / tile.columns, columnTiles))
                                     : 0;
      bands.push_back({row, std::min(row + kBandRows, rowTiles), first, columnTiles});
    }
    bool told = false;
    int turn = 0;
    while (!bands.empty() || outputs_[0].pending || outputs_[1].pending) {
      if (context_.cancelled()) return Status::aborted();
      if (!bands.empty()) {
        const Band band = bands.front();
        bands.pop_front();
        if (band.tiles() > bandTiles_) {
          cut(band, &bands);
          continue;
        }
        if (band.tiles() > 0) CLIPCID_TRY(launch(band, &outputs_[turn]));
        if (!told) {
          told = true;
          CLIPCID_TRY(meanwhile());
        }
      }
      // The band before the one just queued.
      turn ^= 1;
      if (outputs_[turn].pending) CLIPCID_TRY(finish(&outputs_[turn], &bands));
    }
    return {};
  }

  // In two halves, which come next.
  static void cut(const Band& band, std::deque<Band>* bands) {
    Band first = band, second = band;
    if (band.columnEnd - band.columnBegin > 1) {
      first.columnEnd = second.columnBegin = band.columnBegin + (band.columnEnd - band.columnBegin) / 2;
    } else {
      first.rowEnd = second.rowBegin = band.rowBegin + (band.rowEnd - band.rowBegin) / 2;
    }
    bands->push_front(second);
    bands->push_front(first);
  }

  Status launch(const Band& band, BandOutput* output) {
    const Stream stream = session_.stream();
    const TileSize tile = plan_.tile();
    output->band = band;
    const double rows =
        std::min<double>(tile.rows * (band.rowEnd - band.rowBegin),
                         static_cast<double>(query_->count - int64_t{tile.rows} * band.rowBegin));
    const double columns =
        std::min<double>(tile.columns * (band.columnEnd - band.columnBegin),
                         static_cast<double>(key_->count - int64_t{tile.columns} * band.columnBegin));
    output->pairs = rows * columns;
    CLIPCID_TRY(fillBytes(output->counters.get(), 0, sizeof(JoinCounters), stream));

    MainloopParams params;
    params.queries = {query_->encoded.words, query_->encoded.stride, static_cast<int32_t>(query_->count)};
    params.keys = {key_->encoded.words, key_->encoded.stride, static_cast<int32_t>(key_->count)};
    params.depths = plan_.depths();
    Schedule& schedule = params.schedule;
    schedule.rowBegin = band.rowBegin;
    schedule.rowEnd = band.rowEnd;
    schedule.columnBegin = band.columnBegin;
    schedule.columnEnd = band.columnEnd;
    schedule.triangle = diagonal_;
    schedule.tileRows = tile.rows;
    schedule.tileColumns = tile.columns;

    const double threshold = threshold_ * plan_.scoreUnits();
    JoinParams join;
    join.queries = query_->encoded;
    join.keys = key_->encoded;
    join.terms = plan_.terms();
    join.thresholdBelow = roundDown(threshold);
    join.thresholdAbove = roundUp(threshold);
    join.self = self_;
    join.oneSided = plan_.oneSided;
    join.decideAll = dots_;
    join.queryBegin = static_cast<int32_t>(query_->begin);
    join.keyBegin = static_cast<int32_t>(key_->begin);
    join.excluded[0] = excluded_[0].get();
    join.excluded[1] = self_ ? excluded_[0].get() : excluded_[1].get();
    join.parents = parents_.get();
    join.list = output->list.get();
    join.capacity = capacity_;
    join.counters = output->counters.get();
    CLIPCID_TRY(joinTiles(device_, stream, plan_.math(), plan_.shape, params, join));

    RecheckParams recheck;
    recheck.queries = query_->stored;
    recheck.keys = key_->stored;
    recheck.queryBegin = join.queryBegin;
    recheck.keyBegin = join.keyBegin;
    recheck.threshold = threshold_;
    recheck.list = output->list.get();
    recheck.capacity = capacity_;
    recheck.counters = output->counters.get();
    recheck.parents = parents_.get();
    recheck.found = output->found.get();
    recheck.dots = output->dots.get();
    CLIPCID_TRY(recheckPairs(device_, stream, recheck));
    CLIPCID_TRY(copyToHost(output->counted.get(), output->counters.get(), sizeof(JoinCounters), stream));
    output->pending = true;
    return record(output->done.get(), stream);
  }

  Status finish(BandOutput* output, std::deque<Band>* bands) {
    output->pending = false;
    CLIPCID_TRY(synchronise(output->done.get()));
    const JoinCounters counted = *output->counted.get();
    const auto listed = static_cast<int64_t>(counted.listed);
    const auto tiles = static_cast<int32_t>(std::max<int64_t>(output->band.tiles(), 1));
    if (listed > capacity_) {
      bandTiles_ = std::max(tiles / 2, 1);
      cut(output->band, bands);
      return {};
    }
    if (listed < capacity_ / 4)
      bandTiles_ = std::min(2 * std::max(bandTiles_, tiles), joinLimits().bandTiles);
    edges_ += static_cast<int64_t>(counted.certain + counted.found);
    if (sets_ == nullptr) CLIPCID_TRY(deliver(*output, static_cast<int64_t>(counted.found)));
    done_ += output->pairs;
    if (context_.progress && done_ < total_) context_.progress(done_, total_);
    return {};
  }

  // Brings pairs to the host, a piece at a time, and hands them on.
  Status deliver(const BandOutput& output, int64_t count) {
    if (count == 0) return {};
    if (staging_.get() == nullptr) CLIPCID_TRY(device_.takeStaging(&staging_));
    const int64_t entry = sizeof(Pair) + (dots_ ? sizeof(double) : 0);
    const int64_t piece = std::max<int64_t>(staging_.count() / entry / 8 * 8, 1);
    std::vector<char> own;
    char* memory = staging_.get();
    if (piece * entry > staging_.count()) {
      own.resize(static_cast<size_t>(piece * entry));
      memory = own.data();
    }
    for (int64_t from = 0; from < count; from += piece) {
      const int64_t here = std::min(piece, count - from);
      auto* pairs = reinterpret_cast<Pair*>(memory);
      auto* dots =
          dots_ ? reinterpret_cast<double*>(memory + piece * static_cast<int64_t>(sizeof(Pair))) : nullptr;
      CLIPCID_TRY(copyToHost(pairs, output.found.get() + from, static_cast<size_t>(here) * sizeof(Pair),
                             output_.stream()));
      if (dots != nullptr)
        CLIPCID_TRY(
            copyToHost(dots, output.dots.get() + from, static_cast<size_t>(here) * 8, output_.stream()));
      CLIPCID_TRY(output_.synchronise());
      const auto hand = [&](int64_t task, int) -> Status {
        const int64_t first = task * kSinkPairs;
        return pairs_->sink(pairs + first, dots == nullptr ? nullptr : dots + first,
                            static_cast<size_t>(std::min(kSinkPairs, here - first)));
      };
      const int64_t tasks = (here + kSinkPairs - 1) / kSinkPairs;
      if (pairs_->concurrent) {
        CLIPCID_TRY(parallelTry(context_, tasks, hand));
      } else {
        for (int64_t task = 0; task < tasks; ++task) CLIPCID_TRY(hand(task, 0));
      }
    }
    return {};
  }

  Device& device_;
  const Context& context_;
  const JoinArgs* const pairs_;
  const ComponentsArgs* const sets_;
  const CudaPrepared& queries_;
  const CudaPrepared& keys_;
  const double threshold_;
  const bool self_, dots_;
  Session session_, output_;
  FilterPlan plan_;
  Buffer<int32_t> parents_;
  Buffer<uint8_t> excluded_[2];
  BandOutput outputs_[2];
  Pinned<char> staging_;
  int64_t capacity_ = 0, edges_ = 0;
  int32_t bandTiles_ = joinLimits().bandTiles;
  double done_ = 0, total_ = 0;
  // What is compared at the moment.
  const OperandBlocks::Block* query_ = nullptr;
  const OperandBlocks::Block* key_ = nullptr;
  bool diagonal_ = false;

 public:
  ~Join() {
    if (staging_.get() != nullptr) device_.returnStaging(std::move(staging_));
  }
};

}  // namespace

JoinLimits& joinLimits() {
  static JoinLimits limits;
  return limits;
}

Status joinPairs(Device& device, const Context& context, const JoinArgs& args) {
  return Join(device, context, &args, nullptr).run();
}

Status joinSets(Device& device, const Context& context, const ComponentsArgs& args) {
  return Join(device, context, nullptr, &args).run();
}

}  // namespace clipcid::cuda
