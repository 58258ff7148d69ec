// The assignment of k-means from call to call: the nearest centre of each row, without comparing it with centres that
// cannot have become the nearest.
//
// In: rows [N, D], centres [K, D], labels [N] of before, how far each centre moved since. Out: labels.
//
// A row's score with the centre of its label is worked out first, canonically: with that for a floor, a comparison with
// all centres (search.cpp) leaves one or two of a thousand to be looked at.
//
// Bounds (Elkan, "Using the triangle inequality to accelerate k-means", ICML 2003; groups as in Ding et al., "Yinyang
// k-means", ICML 2015): when a row is compared with all centres, gaps.h keeps how much farther than its own the others are.
// In later calls only those are compared, one by one with the filter, that may have become the nearest since; where they are
// many, the row is compared with all again, which makes its gaps new. Gaps are of distances, so labels may be changed by
// others in between. Before they are kept of all rows they are tried on a few.
//
// Distances are between the float32 rows and centres as points of real space (chords when spherical); decisions are about
// canonical float64 numbers. With E = (D / 16 + 8) 2^-50 (xx + max cc), more than what the roundings of scores, xx and cc
// can add up to in a squared distance, least and most of the centres' squares when spherical, else 0, and s a score, a
// distance squared lies between xx + least - 2 s - E and xx + most - 2 s + E.
//
// Best measured, 100,000 x 256 into 1,000, two threads: 40 ms for all rows with all centres; with gaps 14 ms where they
// leave 3 centres of a row open, 21 ms where they leave 30 (AMD Zen 5, November 2026).
#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/gaps.h"
#include "cpu/search.h"
#include "cpu/select_plan.h"

namespace clipcid {
namespace {

constexpr int64_t kRange = 512;
// Rows are asked for so many before their turn.
constexpr int64_t kAhead = 4;
// Of a call with gaps, in time of one that compares all: when it is made, and when gaps are kept of all rows.
constexpr double kWorth = 0.7, kPromising = 1.1;
// Gaps are fine up to so many times what centres moved last.
constexpr double kMovesKept = 2;

class Memory final : public AssignMemory {
 public:
  int64_t calls = 0;
  FilterPlan plan;
  Gaps gaps;
};

class Assign {
 public:
  Assign(const Context& context, const AssignArgs& args)
      : context_(context),
        args_(args),
        rows_(cpuPrepared(args.rows)),
        keys_(cpuPrepared(args.centres)),
        threads_(std::max(context.threads, 1)),
        dots_(rows_, keys_, threads_),
        found_(static_cast<size_t>(rows_.rows)) {
    const auto [least, most] = std::minmax_element(keys_.squares.begin(), keys_.squares.end());
    factor_ = std::ldexp(static_cast<double>(rows_.dim) / 16 + 8, -50);
    most_ = *most;
    if (!args.euclidean) spread_ = {*least, *most};
  }

  Status run() {
    if (rows_.rows == 0) return {};
    if (args_.memory != nullptr) {
      if (*args_.memory == nullptr) *args_.memory = std::make_unique<Memory>();
      memory_ = static_cast<Memory*>(args_.memory->get());
    }
    CLIPCID_TRY(plan());
    bool all = true;
    if (memory_ != nullptr && memory_->calls > 0) CLIPCID_TRY(remember(&all));
    CLIPCID_TRY(all ? compare(nullptr, rows_.rows, found_.data()) : compareOpen());
    for (int64_t i = 0; i < rows_.rows; ++i) args_.labels[i] = found_[static_cast<size_t>(i)].index;
    if (memory_ != nullptr) ++memory_->calls;
    return {};
  }

 private:
  // One a worker, on cache lines of its own.
  struct alignas(128) Scratch {
    std::vector<int32_t> groups, open;
    std::vector<float> scores;
    int64_t count = 0;            // of `open`
    AlignedArray<int8_t> gaps{};  // [kMostTileRows, kMostStrip + kMostPanel]
  };
  static constexpr int64_t kScratchGaps = kMostStrip + kMostPanel;

  // Rows keep their encoding from call to call; whether it is the right one is asked for the first centres, which may be
  // rows, and for the next, which are means.
  Status plan() {
    const int64_t calls = memory_ == nullptr ? 0 : memory_->calls;
    FilterPlan* kept = memory_ == nullptr ? &plan_ : &memory_->plan;
    if (calls < 2) {
      CLIPCID_TRY(planSelect(
          context_, {.queries = &rows_, .keys = &keys_, .count = rows_.rows, .euclidean = args_.euclidean},
          kept));
    }
    plan_ = *kept;
    return {};
  }

  // Brings what is known up to date, and tells whether all rows are to be compared with all centres. The first centres move
  // so far that gaps from them are of no use.
  Status remember(bool* all) {
    Gaps& gaps = memory_->gaps;
    // Not out of proportion to the rows: memory must be had first.
    const int64_t most =
        std::min({memoryBudget(context_) / 4, preparedLimits().gapBytes, 16 * rows_.rows * rows_.dim});
    if (memory_->calls == 1 &&
        EncodedRows::rowBytes(plan_.queries) * rows_.rows <= memoryBudget(context_) / 4)
      gaps.make(rows_.rows, keys_.rows, rows_.rows * keys_.rows <= preparedLimits().gapBytesUntried, most);
    if (!gaps.made() || args_.drift == nullptr) return {};
    drift_ = 0;
    for (int64_t j = 0; j < keys_.rows; ++j) drift_ += args_.drift[j] / static_cast<double>(keys_.rows);
    gaps.advance(args_.drift);
    scratch_.resize(static_cast<size_t>(threads_));
    if (gaps.known()) {
      CLIPCID_TRY(makeTerms());
      double share = 0;
      CLIPCID_TRY(tryOut(&share));
      if (!gaps.whole() && share < kPromising) {
        gaps.make(rows_.rows, keys_.rows, true, most);
      } else {
        *all = !gaps.whole() || share > kWorth;
      }
    }
    return {};
  }

  // Both sides encoded, and KeyTerms, for single pairs.
  Status makeTerms() {
    CLIPCID_TRY(keys_.encoded(context_, plan_.keys, &keyRows_));
    CLIPCID_TRY(rows_.encoded(context_, plan_.queries, &queryRows_));
    const AlignedArray<float> arrays(4 * keys_.rows);
    const Terms terms = {arrays.get(), arrays.get() + keys_.rows, arrays.get() + 2 * keys_.rows,
                         arrays.get() + 3 * keys_.rows};
    writeTerms(plan_, *keyRows_, args_.euclidean ? keys_.squares.data() : nullptr, 0, keys_.rows, keys_.rows,
               terms);
    terms_.clear();
    for (int64_t j = 0; j < keys_.rows; ++j)
      terms_.push_back({terms.steps[j], terms.base[j], terms.ofError[j], terms.ofLength[j]});
    for (Scratch& scratch : scratch_) {
      scratch.groups.resize(static_cast<size_t>(memory_->gaps.stride()) + 3);
      scratch.open.resize(static_cast<size_t>(std::max(keys_.rows, memory_->gaps.stride())) + 3);
      scratch.scores.resize(scratch.open.size());
    }
    return {};
  }

  double error(double square) const { return factor_ * (square + most_); }
  // Not above the distance that a score of at most `score` means, and not below that of one of at least `score`.
  double distanceBelow(int64_t row, double score) const {
    const double square = rows_.squares[static_cast<size_t>(row)];
    const double left = square + spread_.first - 2 * score - error(square);
    return left > 0 ? std::sqrt(left) * (1 - 0x1p-50) : 0;
  }
  double distanceAbove(int64_t row, double score) const {
    const double square = rows_.squares[static_cast<size_t>(row)];
    const double left = square + spread_.second - 2 * score + error(square);
    return left > 0 ? std::sqrt(left) * (1 + 0x1p-50) : 0;
  }

  // Cycles, about: of a row with all keys, and of one whose gaps are looked at, alone and for each key that they leave open.
  double costOfAll() const {
    const auto dim = static_cast<double>(rows_.dim);
    return static_cast<double>(keys_.rows) * (1.15 * dim / plan_.kernel->speed + 0.8);
  }
  double costOfGaps() const {
    return 600 + 0.3 * static_cast<double>(memory_->gaps.stride() + 2 * rows_.dim);
  }
  // Bytes of keys that the second-level cache has room for come twice as fast as others.
  double costOfOpen() const {
    const double bytes = 4 * static_cast<double>(plan_.queries.words);
    return 6 + bytes / (bytes * static_cast<double>(keys_.rows) < 512e3 ? 25 : 10);
  }

  // What share of the time of comparing all a call with gaps would take.
  Status tryOut(double* share) {
    const Gaps& gaps = memory_->gaps;
    std::atomic<int64_t> cycles{0};
    CLIPCID_TRY(parallelTry(context_, gaps.tried(), [&](int64_t at, int worker) -> Status {
      bool open;
      Scratch& scratch = scratch_[static_cast<size_t>(worker)];
      CLIPCID_TRY(openOf(gaps.triedRow(at), worker, &open));
      const double rest = open ? costOfOpen() * static_cast<double>(scratch.count) : costOfAll();
      cycles += static_cast<int64_t>(costOfGaps() + rest);
      return {};
    }));
    *share = static_cast<double>(cycles.load()) / (static_cast<double>(gaps.tried()) * costOfAll());
    return {};
  }

  // The row's score with its own centre, and the centres that it must be compared with besides; `open` is false where these
  // are all, or so many that it makes no difference.
  Status openOf(int64_t row, int worker, bool* open) {
    Found& own = found_[static_cast<size_t>(row)];
    Scratch& scratch = scratch_[static_cast<size_t>(worker)];
    const int32_t label = args_.labels[row];
    *open = false;
    if (label < 0) return {};
    CLIPCID_TRY(nearScore(&dots_, args_.euclidean, row, label, worker, &own));
    scratch.count =
        memory_->gaps.open(row, distanceAbove(row, own.low()), scratch.groups.data(), scratch.open.data());
    *open = scratch.count >= 0 && static_cast<double>(scratch.count) * costOfOpen() < costOfAll();
    return {};
  }

  Status compareOpen() {
    const int64_t ranges = (rows_.rows + kRange - 1) / kRange;
    std::vector<std::vector<int64_t>> left(static_cast<size_t>(ranges));
    CLIPCID_TRY(parallelTry(context_, ranges, [&](int64_t range, int worker) -> Status {
      const int64_t end = std::min((range + 1) * kRange, rows_.rows);
      for (int64_t row = range * kRange; row < end; ++row) {
        if (row + kAhead < end) {
          const int64_t ahead = row + kAhead;
          rows_.prefetch(ahead);
          if (args_.labels[ahead] >= 0) keys_.prefetch(args_.labels[ahead]);
          memory_->gaps.prefetch(ahead);
        }
        bool open;
        CLIPCID_TRY(openOf(row, worker, &open));
        if (open) {
          CLIPCID_TRY(compareListed(row, worker));
        } else {
          left[static_cast<size_t>(range)].push_back(row);
        }
      }
      return {};
    }));
    std::vector<int64_t> rest;
    for (const std::vector<int64_t>& here : left) rest.insert(rest.end(), here.begin(), here.end());
    if (rest.empty()) return {};
    std::vector<Found> found;
    for (const int64_t row : rest) found.push_back(found_[static_cast<size_t>(row)]);
    CLIPCID_TRY(compare(rest.data(), static_cast<int64_t>(rest.size()), found.data()));
    for (size_t at = 0; at < rest.size(); ++at) found_[static_cast<size_t>(rest[at])] = found[at];
    return {};
  }

  // The row with the centres that are open, by the filter.
  Status compareListed(int64_t row, int worker) {
    Found& own = found_[static_cast<size_t>(row)];
    Scratch& scratch = scratch_[static_cast<size_t>(worker)];
    std::vector<int32_t>& open = scratch.open;
    const int64_t count = scratch.count;
    plan_.kernel->pairs(queryRows_->row(row), keyRows_->words.get(), keyRows_->stride, keyRows_->sums.get(),
                        open.data(), count, plan_.queries.words, scratch.scores.data());
    const float floor = roundDown(own.low());
    const QueryTerms query = {queryRows_->errors.get()[row], queryRows_->lengths.get()[row],
                              queryRows_->steps.get() + row, &floor};
    int64_t reaching =
        kernels().reachingListed(scratch.scores.data(), query, terms_.data(), count, open.data());
    // Its own is among them.
    for (int64_t at = 0; at < reaching; ++at) {
      if (open[static_cast<size_t>(at)] == own.index)
        open[static_cast<size_t>(at)] = open[static_cast<size_t>(--reaching)];
    }
    return considerAll(&dots_, args_.euclidean, row, open.data(), reaching, worker, &own);
  }

  // Listed rows, or all, with all centres, by the filter.
  Status compare(const int64_t* rows, int64_t count, Found* found) {
    SearchArgs args{.queries = &rows_,
                    .keys = &keys_,
                    .euclidean = args_.euclidean,
                    .rows = rows,
                    .count = count,
                    .plan = &plan_,
                    .dots = &dots_,
                    .found = found,
                    .guesses = args_.labels};
    if (memory_ == nullptr || memory_->calls == 0 || !memory_->gaps.made()) return search(context_, args);
    Gaps& gaps = memory_->gaps;
    const auto rowAt = [&](int64_t place) { return rows == nullptr ? place : rows[place]; };
    gaps.beginEpoch(unitOf());
    for (Scratch& scratch : scratch_) scratch.gaps = AlignedArray<int8_t>(kMostTileRows * kScratchGaps);
    CLIPCID_TRY(eachRange(count, [&](int64_t place) { gaps.clear(rowAt(place)); }));
    const auto scratchOf = [&](int r, int worker) {
      return scratch_[static_cast<size_t>(worker)].gaps.get() + r * kScratchGaps;
    };
    args.gaps = [&](const Strip& strip, int r, int64_t place, const Found& own, int worker) -> GapTerms {
      const int64_t row = rowAt(place);
      if (!gaps.keeps(row)) return {};
      return gaps.terms(distanceBelow(row, own.low()), roundDown(own.low()),
                        gaps.place(row, strip.key, scratchOf(r, worker)));
    };
    args.gapsStored = [&](const Strip& strip, int r, int64_t place, int worker) {
      const int64_t row = rowAt(place);
      if (gaps.keeps(row)) gaps.take(row, strip.key, strip.columns, scratchOf(r, worker));
    };
    CLIPCID_TRY(search(context_, args));
    return eachRange(count, [&](int64_t place) {
      const int64_t row = rowAt(place);
      gaps.setBase(row, roundDown(distanceBelow(row, found[place].score + found[place].slack)));
    });
  }

  template <typename Body>
  Status eachRange(int64_t count, const Body& body) {
    constexpr int64_t kPlaces = 8192;
    return parallelTry(context_, (count + kPlaces - 1) / kPlaces, [&](int64_t range, int) -> Status {
      for (int64_t place = range * kPlaces; place < std::min((range + 1) * kPlaces, count); ++place)
        body(place);
      return {};
    });
  }

  // The unit of gaps that are made now.
  double unitOf() const {
    constexpr int64_t kSample = 512;
    double distance = 0;
    const int64_t count = std::min(kSample, rows_.rows);
    for (int64_t at = 0; at < count; ++at)
      distance += std::sqrt(rows_.squares[static_cast<size_t>((2 * at + 1) * rows_.rows / (2 * count))]);
    distance /= static_cast<double>(count);
    const double fine = std::clamp(kMovesKept * drift_, 0.001 * distance, 0.2 * distance);
    return fine > 0 ? fine / 128 : 1;
  }

  const Context& context_;
  const AssignArgs& args_;
  const CpuPrepared& rows_;
  const CpuPrepared& keys_;
  const int threads_;
  FilterPlan plan_;
  Dots dots_;
  std::vector<Found> found_;  // [N]
  double factor_ = 0, most_ = 0;
  std::pair<double, double> spread_ = {0, 0};  // least and most
  Memory* memory_ = nullptr;
  double drift_ = 0;              // mean
  std::vector<Scratch> scratch_;  // [threads]
  std::shared_ptr<const EncodedRows> keyRows_, queryRows_;
  std::vector<KeyTerm> terms_;  // [K]
};

}  // namespace

Status CpuBackend::assign(const Context& context, const AssignArgs& args) {
  return guarded([&]() -> Status {
    if (args.centres->rows < 1) return {Code::kInvalidArgument, "A selection among no keys"};
    return Assign(context, args).run();
  });
}

}  // namespace clipcid
