// The assignment of k-means from call to call: the nearest centre of each row, without comparing it with centres that
// cannot have become the nearest.
//
// In: rows [N, D], centres [K, D], labels [N] of before, how far each centre moved since. Out: labels.
//
// A row's score with the centre of its label is worked out first, canonically: with that for a floor, a comparison with
// all centres (search.cpp) leaves one or two of a thousand to be looked at.
//
// Bounds (Elkan, "Using the triangle inequality to accelerate k-means", ICML 2003), where N K bytes fit the memory: when
// a row is compared with all centres, a byte is kept of each, the gap: how much farther it is than the row's own, rounded
// down, in units of the call (its epoch). From then on centre j is out of the question for row i while
//   base_i + unit gap_ij - rise_j > own_i
// with base_i the distance to the row's centre then, own_i the one to the centre of its label now, and rise_j the sum of
// what j has moved since: one addition and one comparison of bytes. Centres that are left are compared one by one with the
// filter; where they are many, the row is compared with all, which makes its gaps new. Gaps are of distances, so labels may
// be changed by others in between.
//
// Distances are between the float32 rows and centres as points of real space (chords when spherical); decisions are about
// canonical float64 numbers. With E = (D / 16 + 8) 2^-50 (xx + max cc), more than what the roundings of scores, xx and cc
// can add up to in a squared distance, least and most of the centres' squares when spherical, else 0, and s a score:
//   base^2 = xx + least - 2 s - E    own^2 = xx + most - 2 s + E
// A score of at most u makes the distance at least (base^2 + 2 (s - u))^1/2, a concave function, for which two chords are
// taken: one up to 128 units, which is where gaps matter, and one for more, where a byte counts eight units as one.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/search.h"
#include "cpu/select_plan.h"

namespace clipcid {
namespace {

constexpr int64_t kRange = 512;
// Gaps in a byte: whole units while they are small, one in eight from there on.
constexpr int kFineGaps = 128, kCoarseGap = 8;
constexpr int kMostGap = kFineGaps + (255 - kFineGaps) * kCoarseGap;  // units
// Rows are asked for so many before their turn.
constexpr int64_t kAhead = 6;
constexpr uint8_t kNoEpoch = 255;
// Rows that are tried before all, to see what pays.
constexpr int64_t kTried = 512;

struct Epoch {
  double unit = 0;
  std::vector<double> moved;      // [K] since
  AlignedArray<uint8_t> rises{};  // [stride] the same in units, rounded up
};

// KeyTerms of one key.
struct KeyTerm {
  float step, base, ofError, ofLength;
};

// A number of units as the bytes of gaps have it, rounded up; 255: more than they can tell. The code of a sum is not above
// the sum of the codes.
uint8_t codeOf(double units) {
  const double whole = std::ceil(units * (1 + 0x1p-40));
  if (!(whole > 0)) return std::isnan(units) ? 255 : 0;
  if (whole < kFineGaps) return static_cast<uint8_t>(whole);
  return static_cast<uint8_t>(std::min(kFineGaps + std::floor((whole - kFineGaps) / kCoarseGap), 255.0));
}

class Memory final : public AssignMemory {
 public:
  int64_t calls = 0;
  FilterPlan plan;
  int64_t stride = 0;           // bytes of a row's gaps; 0 where none are kept
  AlignedArray<int8_t> gaps{};  // [N, stride] less 128
  std::vector<float> bases;     // [N]
  std::vector<uint8_t> epochs;  // [N] index in `list`
  std::vector<Epoch> list;
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
    if (memory_ != nullptr) CLIPCID_TRY(remember());
    bool all = true;
    if (known_) CLIPCID_TRY(tryOut(&all));
    CLIPCID_TRY(all ? compare(nullptr, rows_.rows, found_.data()) : compareOpen());
    for (int64_t i = 0; i < rows_.rows; ++i) args_.labels[i] = found_[static_cast<size_t>(i)].index;
    if (memory_ != nullptr) ++memory_->calls;
    return {};
  }

 private:
  // What is open for one row.
  enum class Verdict : uint8_t { kDecided, kAll };
  struct Scratch {
    explicit Scratch(int64_t stride) : open(static_cast<size_t>(stride) + 3), scores(open.size()) {}
    std::vector<int32_t> open;  // the first `count`
    std::vector<float> scores;
    int64_t count = 0;
  };

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

  // Brings what is known up to date, and makes room for more. The first centres move so far that gaps from them are of
  // no use.
  Status remember() {
    if (memory_->calls == 0) return {};
    if (memory_->calls == 1) {
      const int64_t stride = (keys_.rows + 63) / 64 * 64, most = memoryBudget(context_) / 4;
      if (stride * rows_.rows > most || EncodedRows::rowBytes(plan_.queries) * rows_.rows > most) return {};
      memory_->stride = stride;
      memory_->gaps = AlignedArray<int8_t>(stride * rows_.rows);
      memory_->bases.resize(static_cast<size_t>(rows_.rows));
      memory_->epochs.assign(static_cast<size_t>(rows_.rows), kNoEpoch);
    }
    if (memory_->stride == 0 || args_.drift == nullptr) return {};
    double drift = 0;
    for (int64_t j = 0; j < keys_.rows; ++j) drift += args_.drift[j] / static_cast<double>(keys_.rows);
    for (Epoch& epoch : memory_->list) advance(&epoch);
    known_ = !memory_->list.empty();
    if (memory_->list.size() + 1 == kNoEpoch) {
      memory_->list.clear();
      std::fill(memory_->epochs.begin(), memory_->epochs.end(), kNoEpoch);
      known_ = false;
    }
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
    drift_ = drift;
    return {};
  }

  void advance(Epoch* epoch) const {
    for (int64_t j = 0; j < keys_.rows; ++j) {
      double& moved = epoch->moved[static_cast<size_t>(j)];
      moved = (moved + args_.drift[j]) * (1 + 0x1p-50);
      epoch->rises.get()[j] = codeOf(moved / epoch->unit);
    }
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

  // Whether comparing rows with all centres is cheaper, and by how much gaps are to be rounded.
  Status tryOut(bool* all) {
    const int64_t count = std::min(kTried, rows_.rows);
    std::atomic<int64_t> cost{0};
    CLIPCID_TRY(parallelTry(context_, count, [&](int64_t at, int worker) -> Status {
      const int64_t row = (2 * at + 1) * rows_.rows / (2 * count);
      Scratch scratch(memory_->stride);
      Verdict verdict;
      CLIPCID_TRY(openOf(row, worker, &scratch, &verdict));
      cost += verdict == Verdict::kAll
                  ? keys_.rows
                  : static_cast<int64_t>(static_cast<double>(scratch.count) * pairCost());
      return {};
    }));
    *all = static_cast<double>(cost.load()) > kWorthwhile * static_cast<double>(count * keys_.rows);
    return {};
  }
  static constexpr double kWorthwhile = 0.45;

  // Of one key by itself, in keys of a comparison with all.
  double pairCost() const { return 8; }

  // What is known of the row's own centre, and the centres that it must be compared with.
  Status openOf(int64_t row, int worker, Scratch* scratch, Verdict* verdict) {
    Found& own = found_[static_cast<size_t>(row)];
    const int32_t label = args_.labels[row];
    *verdict = Verdict::kAll;
    if (label < 0) return {};
    CLIPCID_TRY(nearScore(&dots_, args_.euclidean, row, label, worker, &own));
    const uint8_t at = memory_->epochs[static_cast<size_t>(row)];
    if (at == kNoEpoch) return {};
    const Epoch& epoch = memory_->list[at];
    const double farther =
        distanceAbove(row, own.low()) - static_cast<double>(memory_->bases[static_cast<size_t>(row)]);
    const uint8_t more = codeOf(farther / epoch.unit);
    if (more == 255) return {};
    int64_t count = kernels().notOver(memory_->gaps.get() + row * memory_->stride, epoch.rises.get(), more,
                                      memory_->stride, scratch->open.data());
    // Behind the last key lies nothing.
    while (count > 0 && scratch->open[static_cast<size_t>(count - 1)] >= keys_.rows) --count;
    if (static_cast<double>(count) * pairCost() > static_cast<double>(keys_.rows)) return {};
    scratch->count = count;
    *verdict = Verdict::kDecided;
    return {};
  }

  Status compareOpen() {
    const int64_t ranges = (rows_.rows + kRange - 1) / kRange;
    std::vector<std::vector<int64_t>> left(static_cast<size_t>(ranges));
    CLIPCID_TRY(parallelTry(context_, ranges, [&](int64_t range, int worker) -> Status {
      Scratch scratch(memory_->stride);
      const int64_t end = std::min((range + 1) * kRange, rows_.rows);
      for (int64_t row = range * kRange; row < end; ++row) {
        if (row + kAhead < end) {
          const int64_t ahead = row + kAhead;
          rows_.prefetch(ahead);
          if (args_.labels[ahead] >= 0) keys_.prefetch(args_.labels[ahead]);
          const int8_t* gaps = memory_->gaps.get() + ahead * memory_->stride;
          for (int64_t k = 0; k < memory_->stride; k += 64) __builtin_prefetch(gaps + k);
        }
        Verdict verdict;
        CLIPCID_TRY(openOf(row, worker, &scratch, &verdict));
        if (verdict == Verdict::kAll) {
          left[static_cast<size_t>(range)].push_back(row);
        } else {
          CLIPCID_TRY(compareListed(row, worker, &scratch));
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
  Status compareListed(int64_t row, int worker, Scratch* scratch) {
    Found& own = found_[static_cast<size_t>(row)];
    std::vector<int32_t>& open = scratch->open;
    const int64_t count = scratch->count;
    plan_.kernel->pairs(queryRows_->row(row), keyRows_->words.get(), keyRows_->stride, keyRows_->sums.get(),
                        open.data(), count, plan_.queries.words, scratch->scores.data());
    const float floor = roundDown(own.low()), error = queryRows_->errors.get()[row];
    const float length = queryRows_->lengths.get()[row], step = queryRows_->steps.get()[row];
    int64_t reaching = 0;
    for (int64_t at = 0; at < count; ++at) {
      const int32_t j = open[static_cast<size_t>(at)];
      const KeyTerm& key = terms_[static_cast<size_t>(j)];
      const float more = error * key.ofError + (length * key.ofLength + key.base);
      const float upper = scratch->scores[static_cast<size_t>(at)] * (step * key.step) + more;
      open[static_cast<size_t>(reaching)] = j;
      reaching += !(upper < floor) & (j != own.index);
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
    const bool keeps = memory_ != nullptr && memory_->stride > 0 && memory_->calls > 0;
    double unit = 0;
    if (keeps) {
      unit = unitOf();
      args.gaps = [&](const Strip& strip, int64_t place, const Found& own) {
        return gapsOf(rows == nullptr ? place : rows[place], own, unit, strip.key);
      };
    }
    CLIPCID_TRY(search(context_, args));
    if (!keeps) return {};
    const auto epoch = static_cast<uint8_t>(memory_->list.size());
    Epoch& made = memory_->list.emplace_back();
    made.unit = unit;
    made.moved.assign(static_cast<size_t>(keys_.rows), 0);
    made.rises = AlignedArray<uint8_t>(memory_->stride);
    std::fill(made.rises.get(), made.rises.get() + memory_->stride, uint8_t{0});
    for (int64_t place = 0; place < count; ++place) {
      const int64_t row = rows == nullptr ? place : rows[place];
      const auto at = static_cast<size_t>(row);
      memory_->epochs[at] = epoch;
      memory_->bases[at] = roundDown(distanceBelow(row, found[place].score + found[place].slack));
    }
    return {};
  }

  // Gaps of a row from key `first` on.
  GapTerms gapsOf(int64_t row, const Found& own, double unit, int64_t first) const {
    int8_t* to = memory_->gaps.get() + row * memory_->stride + first;
    const double near = distanceBelow(row, own.low()), floor = static_cast<double>(roundDown(own.low()));
    if (!(near > 0)) return {to, 0, -128, 0, -128};
    // How far below the floor scores are at the end of the fine gaps, and of all.
    const auto below = [&](double units) { return units * unit * (near + units * unit / 2); };
    const double fine = kFineGaps / below(kFineGaps);
    const double coarse = (255 - kFineGaps) / (below(kMostGap) - below(kFineGaps));
    // Rounded to the nearest number, half a unit less is rounded down; float32 rounds too.
    const auto from = [&](double slope, double at0) {
      return static_cast<float>(at0 - 128.5 + slope * floor - 0x1p-20 * (slope * std::fabs(floor) + 512));
    };
    return {to, static_cast<float>(-fine), from(fine, 0), static_cast<float>(-coarse),
            from(coarse, kFineGaps - coarse * below(kFineGaps))};
  }

  // Fine where a few moves like the last would end.
  double unitOf() const {
    double distance = 0;
    const int64_t count = std::min(kTried, rows_.rows);
    for (int64_t at = 0; at < count; ++at)
      distance += std::sqrt(rows_.squares[static_cast<size_t>((2 * at + 1) * rows_.rows / (2 * count))]);
    distance /= static_cast<double>(count);
    const double fine = std::clamp(kMovesKept * drift_, 0.001 * distance, 0.2 * distance);
    return fine > 0 ? fine / kFineGaps : 1;
  }
  static constexpr double kMovesKept = 2;

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
  bool known_ = false;  // whether gaps of some rows are
  double drift_ = 0;    // mean
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
