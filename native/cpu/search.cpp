// In: queries [Q, D] (all, or `rows` of them), keys [K, D], what is known of each query's best key. Out: its best key.
//
// Each query has a floor: what its best key so far scores, canonically or nearly so. Only keys whose filtered score
// reaches it within their own bounds are looked at again, and at once: a better one raises the floor. With a good guess
// to begin with, one or two keys of a thousand are. A query without a floor gets one from its first strip: the key of
// highest filtered score.
//
// Bounds are those of single pairs: keys that are long, or badly rounded, do not spoil the others'. They are one-sided:
// the floor has no error, so a key within twice the bound of the best is not a candidate, unlike where scores are
// compared with each other.
//
// Best measured, 100,000 x 1,000, D = 256, with guesses and gaps, two threads: 40 ms, of which 29 are tiles; at the peak of
// int8 they would be 25 (AMD Zen 5, November 2026).
//
// Not more is kept of a query than its best key; however many keys are equal, no memory is needed for them.
#include "cpu/search.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

// So many keys over a floor tell that it is no good.
constexpr int64_t kMany = 8;
constexpr double kInfinite = std::numeric_limits<double>::infinity();

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
constexpr int kLanes = 16;

// The position of about the largest upper end.
CLIPCID_WIDE int64_t highest(const Strip& strip, int row) {
  const float* scores = strip.scores + row * strip.stride;
  const float step = strip.stepOf(row);
  const int64_t whole = strip.columns / kLanes * kLanes;
  Floats most = Floats{} - std::numeric_limits<float>::infinity();
  Ints at = {};
  for (int64_t j = 0; j < whole; j += kLanes) {
    Floats score, steps, base;
    memcpy(&score, scores + j, sizeof score);
    memcpy(&steps, strip.terms.steps + j, sizeof steps);
    memcpy(&base, strip.terms.base + j, sizeof base);
    const Floats value = score * (steps * step) + base;
    const Ints more = value > most;
    most = more ? value : most;
    at = more ? Ints{} + static_cast<int32_t>(j) : at;
  }
  float best = -std::numeric_limits<float>::infinity();
  int64_t position = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(most[lane] > best)) continue;
    best = most[lane];
    position = at[lane] + lane;
  }
  for (int64_t j = whole; j < strip.columns; ++j) {
    const float value = scores[j] * (step * strip.terms.steps[j]) + strip.terms.base[j];
    if (!(value > best)) continue;
    best = value;
    position = j;
  }
  return position;
}

// Whether `other` is the better key.
Status consider(Dots* dots, bool euclidean, int64_t query, Found other, int worker, Found* own) {
  if (other.index < 0 || other.index == own->index) return {};
  if (other.score + other.slack < own->low()) return {};
  if (!(other.low() > own->score + own->slack)) {
    CLIPCID_TRY(decide(dots, euclidean, query, worker, &other));
    CLIPCID_TRY(decide(dots, euclidean, query, worker, own));
    if (!(other.score > own->score || (other.score == own->score && other.index < own->index))) return {};
  }
  *own = other;
  return {};
}

class Search {
 public:
  Search(const Context& context, const SearchArgs& args) : context_(context), args_(args) {}

  Status run() {
    SelectSweep pass;
    pass.plan = args_.plan;
    pass.queries = args_.queries;
    pass.keys = args_.keys;
    pass.rows = args_.rows;
    pass.count = args_.rows == nullptr ? -1 : args_.count;
    pass.euclidean = args_.euclidean;
    pass.stateBytes = static_cast<int64_t>(sizeof(Found) + sizeof(float));
    pass.open = [&](const QueryBlock& block) -> Status {
      block_ = block;
      const Found* known = args_.found + block.out;
      floors_.resize(static_cast<size_t>(block.count * block.parts));
      others_.resize(static_cast<size_t>(block.count * (block.parts - 1)));
      for (int64_t part = 0; part < block.parts; ++part) {
        if (part > 0) std::copy(known, known + block.count, others_.begin() + (part - 1) * block.count);
        for (int64_t place = 0; place < block.count; ++place)
          floors_[static_cast<size_t>(part * block.count + place)] = roundDown(known[place].low());
      }
      return {};
    };
    workers_.resize(static_cast<size_t>(std::max(context_.threads, 1)));
    pass.floors = [&](const Strip& strip, int worker) { return floorsOf(strip, worker); };
    pass.visit = [&](const Strip& strip, int worker) -> Status {
      CLIPCID_TRY(workers_[static_cast<size_t>(worker)].status);
      for (int r = 0; r < strip.rows; ++r) CLIPCID_TRY(visitRow(strip, r, worker));
      return {};
    };
    pass.close = [&](const QueryBlock& block) -> Status {
      for (int64_t at = 0; at < static_cast<int64_t>(others_.size()); ++at) {
        const int64_t place = at % block.count;
        Found& own = args_.found[block.out + place];
        CLIPCID_TRY(consider(args_.dots, args_.euclidean, block.row(place), others_[static_cast<size_t>(at)],
                             0, &own));
      }
      return {};
    };
    return selectSweep(context_, pass);
  }

 private:
  struct alignas(128) Worker {
    GapTerms gaps[kMostTileRows];
    int8_t nowhere[kMostStrip + kMostPanel];
    const float* ahead[3 * kMostTileRows];
    Status status{};  // of what is worked out before a strip
  };

  Found& foundOf(const Strip& strip, int64_t place) {
    return strip.part == 0 ? args_.found[block_.out + place]
                           : others_[static_cast<size_t>((strip.part - 1) * block_.count + place)];
  }

  Sweep::Floors floorsOf(const Strip& strip, int worker) {
    const int64_t first = strip.query - block_.first;
    float* floors = &floors_[static_cast<size_t>(strip.part * block_.count + first)];
    Worker& own = workers_[static_cast<size_t>(worker)];
    Sweep::Floors out{.floors = floors, .scores = args_.guesses == nullptr};
    for (int r = 0; r < strip.rows; ++r) {
      Found& found = foundOf(strip, first + r);
      const int64_t query = block_.row(first + r);
      if (args_.guesses != nullptr && found.index < 0 && args_.guesses[query] >= 0) {
        own.status = nearScore(args_.dots, args_.euclidean, query, args_.guesses[query], worker, &found);
        if (!own.status.ok()) return {floors};
        floors[r] = roundDown(found.low());
      }
      out.scores = out.scores || lacks(found);
      if (!args_.gaps) continue;
      own.gaps[r] = args_.gaps(strip, r, block_.out + first + r, found, worker);
      if (own.gaps[r].to != nullptr) {
        out.gaps = own.gaps;
      } else {
        own.gaps[r] = {own.nowhere, 0, 0, 0, 0};
      }
    }
    askAhead(strip, first + plan().kernel->tileRows, &own, &out);
    return out;
  }

  // Of the tile after this one: queries, in both forms, and the keys that are guessed.
  void askAhead(const Strip& strip, int64_t first, Worker* own, Sweep::Floors* out) const {
    const int64_t count = std::min<int64_t>(strip.rows, block_.count - first);
    const auto ask = [&](const float* row) {
      if (row != nullptr) own->ahead[out->aheadCount++] = row;
    };
    for (int64_t place = first; place < first + count; ++place) {
      const int64_t query = block_.row(place);
      ask(args_.queries->placeOf(query));
      if (args_.guesses != nullptr && args_.guesses[query] >= 0)
        ask(args_.keys->placeOf(args_.guesses[query]));
    }
    out->ahead = own->ahead;
    out->aheadDim = args_.queries->dim;
  }

  static bool lacks(const Found& found) { return found.index < 0 && found.score == -kInfinite; }

  // The key of about the highest upper end, after which fewer others reach the floor. Scores must be there.
  Status considerHighest(const Strip& strip, int r, int64_t query, int worker, Found* own, float* floor) {
    const auto key = static_cast<int32_t>(strip.key + highest(strip, r));
    if (lacks(*own)) {
      CLIPCID_TRY(nearScore(args_.dots, args_.euclidean, query, key, worker, own));
    } else {
      CLIPCID_TRY(considerAll(args_.dots, args_.euclidean, query, &key, 1, worker, own));
    }
    *floor = roundDown(own->low());
    markAgain(strip, r, *floor);
    return {};
  }

  // Keys that reach the floor, but for the one that made it.
  static int64_t hitsOf(const Strip& strip, int r, const Found& own, int32_t* keys) {
    int64_t count = 0;
    eachHit(strip, r, [&](int64_t column) {
      const auto key = static_cast<int32_t>(strip.key + column);
      keys[count] = key;
      count += key != own.index;
    });
    return count;
  }

  const FilterPlan& plan() const { return *args_.plan; }

  Status visitRow(const Strip& strip, int r, int worker) {
    const int64_t place = strip.query + r - block_.first, query = block_.row(place);
    Found& own = foundOf(strip, place);
    float& floor = floors_[static_cast<size_t>(strip.part * block_.count + place)];
    if (lacks(own)) CLIPCID_TRY(considerHighest(strip, r, query, worker, &own, &floor));
    if (args_.gapsStored) args_.gapsStored(strip, r, block_.out + place, worker);
    int32_t keys[kMostStrip];
    int64_t count = hitsOf(strip, r, own, keys);
    if (count > kMany && args_.guesses == nullptr) {
      // The floor was not a good one.
      CLIPCID_TRY(considerHighest(strip, r, query, worker, &own, &floor));
      count = hitsOf(strip, r, own, keys);
    }
    if (count == 0) return {};
    CLIPCID_TRY(considerAll(args_.dots, args_.euclidean, query, keys, count, worker, &own));
    floor = roundDown(own.low());
    return {};
  }

  const Context& context_;
  const SearchArgs& args_;
  QueryBlock block_;
  std::vector<float> floors_;  // [parts, queries]
  std::vector<Found> others_;  // [parts - 1, queries]: of all parts but the first
  std::vector<Worker> workers_;
};

}  // namespace

Status search(const Context& context, const SearchArgs& args) { return Search(context, args).run(); }

Status considerAll(Dots* dots, bool euclidean, int64_t query, const int32_t* keys, int64_t count, int worker,
                   Found* own) {
  constexpr int64_t kTogether = 16;
  for (int64_t from = 0; from < count; from += kTogether) {
    const int64_t here = std::min(kTogether, count - from);
    double scores[kTogether];
    CLIPCID_TRY(dots->near(query, keys + from, here, worker, scores));
    for (int64_t at = 0; at < here; ++at) {
      const int32_t key = keys[from + at];
      Found other{scores[at], dots->slack(key), key};
      if (euclidean) other.score -= dots->keys().squares[static_cast<size_t>(key)] / 2;
      CLIPCID_TRY(consider(dots, euclidean, query, other, worker, own));
    }
  }
  return {};
}

Status nearScore(Dots* dots, bool euclidean, int64_t query, int32_t key, int worker, Found* out) {
  CLIPCID_TRY(dots->near(query, &key, 1, worker, &out->score));
  if (euclidean) out->score -= dots->keys().squares[static_cast<size_t>(key)] / 2;
  out->slack = dots->slack(key);
  out->index = key;
  return {};
}

Status decide(Dots* dots, bool euclidean, int64_t query, int worker, Found* found) {
  if (found->slack == 0 || found->index < 0) return {};
  CLIPCID_TRY(dots->exact(query, found->index, worker, &found->score));
  if (euclidean) found->score -= dots->keys().squares[static_cast<size_t>(found->index)] / 2;
  found->slack = 0;
  return {};
}

}  // namespace clipcid
