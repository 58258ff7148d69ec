// Mainloop of the CPU.
//
// In: encoded queries [Q, words] and keys [K, words]. Out: strips of at most tileRows x 1,024 scores, handed to a
// visitor.
//
// A task takes a group of tiles of queries through a part of a key block, a strip of keys at a time: the strip's
// panels stay in the second-level cache for all the tiles, a tile's rows in the first.
//
// Memory, of a budget B: the encoded queries stay as a whole while they (and those of other keys) take at most
// 5/8 B, and are then kept for later calls too; otherwise a block of queries of B/2 is encoded at a time, so that the
// keys are read as few times as possible. Key panels take B/8 at a time, and as much twice over the encoded rows they are
// packed from when those are not kept, because the next are read and encoded while the panels are compared; read
// buffers take at most B/8.
//
// Invariant: every (query, key) pair is in exactly one strip, but for those that `triangle` leaves out.
//
// Best measured, self-join of 20,000 x 512 with all decisions, milliseconds of processor time: float32 1,300, bfloat16 205, int8
// 101, a prefix of 63 of int8 75 (AMX Xeon, two cores shared with other work, November 2026).
#include "cpu/sweep.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kGroupBytes = 512 << 10;
constexpr int64_t kStripBytes = 512 << 10;
// Rows of scores that are 2 KiB apart would all lie in the same few sets of the first-level cache.
constexpr int64_t kSkew = 16;
constexpr int64_t kStripBits = kMostStrip + 64;

struct Maxima {
  float error = 0, length = 0;
};

Maxima maximaOf(const EncodedRows& rows, int64_t begin, int64_t count) {
  const float* errors = rows.errors.get() + (begin - rows.begin);
  const float* lengths = rows.lengths.get() + (begin - rows.begin);
  Maxima most;
  for (int64_t i = 0; i < count; ++i) {
    most.error = std::max(most.error, errors[i]);
    most.length = std::max(most.length, lengths[i]);
  }
  return most;
}

class Pass {
 public:
  Pass(const Context& context, const Sweep& sweep)
      : context_(context),
        sweep_(sweep),
        plan_(*sweep.plan),
        kernel_(*plan_.kernel),
        words_(plan_.queries.words),
        budget_(memoryBudget(context)),
        queryCount_(sweep.rows != nullptr ? sweep.count : sweep.queries->rows) {
    const int64_t fits = kStripBytes / (4 * words_) / kernel_.panel * kernel_.panel;
    strip_ = std::clamp<int64_t>(fits, kernel_.panel,
                                 std::min<int64_t>(kMostStrip / kernel_.panel, 64) * kernel_.panel);
    group_ = std::clamp<int64_t>(kGroupBytes / (4 * words_ * kernel_.tileRows), 4, 64);
    scale_ =
        static_cast<float>(static_cast<double>(plan_.queries.step) * static_cast<double>(plan_.keys.step));
  }

  Status run() {
    if (queryCount_ == 0 || sweep_.keys->rows == 0) return {};
    for (int worker = 0; worker < std::max(context_.threads, 1); ++worker)
      scores_.emplace_back(kernel_.tileRows * (strip_ + kSkew));
    for (int worker = 0; sweep_.floors && worker < std::max(context_.threads, 1); ++worker)
      bits_.emplace_back(kernel_.tileRows * kStripBits / 8);
    total_ = static_cast<double>(queryCount_) * static_cast<double>(sweep_.keys->rows);
    CLIPCID_TRY(keepWhatFits());
    if (queriesKept_) {
      CLIPCID_TRY(runQueries(*queriesKept_, 0, queryCount_));
      return finish();
    }
    const int64_t blockRows = std::clamp<int64_t>(budget_ / 2 / EncodedRows::rowBytes(plan_.queries),
                                                  kernel_.tileRows, queryCount_);
    EncodedRows block;
    for (int64_t at = 0; at < queryCount_; at += blockRows) {
      const int64_t here = std::min(blockRows, queryCount_ - at);
      CLIPCID_TRY(encodeQueries(at, here, &block));
      CLIPCID_TRY(runQueries(block, at, here));
    }
    return finish();
  }

 private:
  bool self() const { return sweep_.queries == sweep_.keys && plan_.queries == plan_.keys; }

  Status keepWhatFits() {
    const int64_t limit = budget_ / 8 * 5;
    const int64_t ofQueries = sweep_.queries->rows * EncodedRows::rowBytes(plan_.queries);
    const int64_t ofKeys = self() ? 0 : sweep_.keys->rows * EncodedRows::rowBytes(plan_.keys);
    const bool keepKeys = ofKeys <= limit;
    const bool keepQueries = ofQueries + (keepKeys ? ofKeys : 0) <= limit;
    // Rows of a few listed queries are not worth encoding all for, unless they are encoded already.
    const bool few = sweep_.rows != nullptr && queryCount_ < sweep_.queries->rows / 8 &&
                     !sweep_.queries->hasEncoded(plan_.queries);
    if (keepQueries && !few) CLIPCID_TRY(sweep_.queries->encoded(context_, plan_.queries, &wholeQueries_));
    if (self()) {
      wholeKeys_ = wholeQueries_;
    } else if (keepKeys) {
      CLIPCID_TRY(sweep_.keys->encoded(context_, plan_.keys, &wholeKeys_));
    }
    if (wholeQueries_ && sweep_.rows == nullptr) queriesKept_ = wholeQueries_.get();
    return {};
  }

  // Queries [at, at + count), by place.
  Status encodeQueries(int64_t at, int64_t count, EncodedRows* out) {
    if (sweep_.rows == nullptr) return sweep_.queries->encode(context_, plan_.queries, at, count, out);
    const int64_t* rows = sweep_.rows + at;
    out->allocate(plan_.queries, at, count);
    constexpr int64_t kRange = 64;
    return parallelTry(context_, (count + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      const int64_t end = std::min((range + 1) * kRange, count);
      const AlignedArray<float> scratch(sweep_.queries->dim);
      EncodedRows one;
      for (int64_t place = range * kRange; place < end; ++place) {
        if (wholeQueries_) {
          if (place + kRowsAhead < end)
            prefetchRow(reinterpret_cast<const float*>(wholeQueries_->row(rows[place + kRowsAhead])),
                        wholeQueries_->stride);
          copyEncoded(*wholeQueries_, rows[place], out, at + place);
          continue;
        }
        const float* stored;
        CLIPCID_TRY(sweep_.queries->stored(rows[place], scratch.get(), &stored));
        one.allocate(plan_.queries, rows[place], 1);
        encodeRange(*sweep_.queries, plan_.queries, rows[place], 1, stored, sweep_.queries->dim, &one);
        copyEncoded(one, rows[place], out, at + place);
      }
      return {};
    });
  }

  Status runQueries(const EncodedRows& queries, int64_t first, int64_t count) {
    const int64_t tiles = (count + kernel_.tileRows - 1) / kernel_.tileRows;
    tileMaxima_.resize(static_cast<size_t>(tiles));
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = tile * kernel_.tileRows;
      tileMaxima_[static_cast<size_t>(tile)] =
          maximaOf(queries, first + row, std::min<int64_t>(kernel_.tileRows, count - row));
    }
    const int64_t keyCount = sweep_.keys->rows;
    // Whether keys are among the queries at hand.
    const auto resident = [&](int64_t begin, int64_t here) {
      return self() && sweep_.rows == nullptr && begin >= first && begin + here <= first + count;
    };
    Ahead ahead;
    int64_t blockRows = budget_ / 8 / (4 * words_);
    if (preparedLimits().blockRows > 0) blockRows = preparedLimits().blockRows;
    blockRows = std::max<int64_t>(blockRows / strip_ * strip_, strip_);
    // Blocks of about one size.
    const int64_t blocks = (keyCount + blockRows - 1) / blockRows;
    blockRows = ((keyCount + blocks - 1) / blocks + strip_ - 1) / strip_ * strip_;
    // Strips must begin at the same keys whatever the queries, so that panels can be kept.
    int64_t begin = sweep_.triangle ? first / blockRows * blockRows : 0;
    for (; begin < keyCount; begin += blockRows) {
      const int64_t here = std::min(blockRows, keyCount - begin);
      const EncodedRows* keys = wholeKeys_.get();
      if (keys == nullptr && resident(begin, here)) keys = &queries;
      if (keys == nullptr) {
        if (ahead.begin == begin) {
          std::swap(keyRows_[0], keyRows_[1]);
        } else {
          CLIPCID_TRY(sweep_.keys->encode(context_, plan_.keys, begin, here, &keyRows_[0]));
        }
        keys = &keyRows_[0];
        const int64_t next = begin + blockRows;
        if (next < keyCount && !resident(next, std::min(blockRows, keyCount - next)))
          encodeAhead(next, std::min(blockRows, keyCount - next), &ahead);
      }
      CLIPCID_TRY(packKeys(*keys, begin, here));
      CLIPCID_TRY(runBlocks(queries, first, count, *keys, begin, here));
      CLIPCID_TRY(ahead.wait());
    }
    return {};
  }

  // Keys that a thread of their own encodes, and reads, while those before them are compared.
  struct Ahead {
    int64_t begin = -1;
    Status status;
    std::thread thread;

    ~Ahead() {
      if (thread.joinable()) thread.join();
    }
    Status wait() {
      if (thread.joinable()) thread.join();
      return status;
    }
  };

  void encodeAhead(int64_t begin, int64_t count, Ahead* ahead) {
    const auto work = [this, begin, count, ahead] {
      ahead->status = guarded([&] {
        Context alone = context_;
        alone.threads = 1;
        alone.progress = nullptr;
        return sweep_.keys->encode(alone, plan_.keys, begin, count, &keyRows_[1]);
      });
    };
    try {
      ahead->thread = std::thread(work);
      ahead->begin = begin;
    } catch (const std::system_error&) {
      // They are encoded when their turn comes.
    }
  }

  Status packKeys(const EncodedRows& keys, int64_t begin, int64_t count) {
    const int64_t panels = (count + kernel_.panel - 1) / kernel_.panel, panelWords = words_ * kernel_.panel;
    if (panels * panelWords > panelsHeld_) {
      panels_ = AlignedArray<uint32_t>(panels * panelWords);
      panelsHeld_ = panels * panelWords;
    }
    const int64_t strips = (count + strip_ - 1) / strip_, perStrip = strip_ / kernel_.panel;
    stripMaxima_.resize(static_cast<size_t>(strips));
    if (sweep_.floors && panels * kernel_.panel > termsHeld_) {
      termsHeld_ = panels * kernel_.panel;
      terms_ = AlignedArray<float>(4 * termsHeld_);
    }
    return parallelTry(context_, strips, [&](int64_t strip, int) -> Status {
      const int64_t row = strip * strip_;
      if (sweep_.floors) {
        const double* squares = sweep_.euclidean ? sweep_.keys->squares.data() : nullptr;
        writeTerms(plan_, keys, squares, begin + row, std::min(strip_, count - row),
                   std::min(strip_, panels * kernel_.panel - row), termsAt(row));
      }
      stripMaxima_[static_cast<size_t>(strip)] = maximaOf(keys, begin + row, std::min(strip_, count - row));
      for (int64_t panel = strip * perStrip; panel < std::min(panels, (strip + 1) * perStrip); ++panel) {
        const int64_t from = panel * kernel_.panel;
        packPanel(kernel_, keys, words_, begin + from, std::min<int64_t>(kernel_.panel, count - from),
                  panels_.get() + panel * panelWords);
      }
      return {};
    });
  }

  // Arrays of Terms for the keys of a block, one behind the other.
  Terms termsAt(int64_t place) {
    float* at = terms_.get() + place;
    return {at, at + termsHeld_, at + 2 * termsHeld_, at + 3 * termsHeld_};
  }

  Status runBlocks(const EncodedRows& queries, int64_t first, int64_t count, const EncodedRows& keys,
                   int64_t begin, int64_t keyCount) {
    // Queries behind all keys have nothing to do in a triangle.
    int64_t wanted = count;
    if (sweep_.triangle) wanted = std::clamp<int64_t>(begin + keyCount - 1 - first, 0, count);
    if (wanted == 0) return {};
    const int64_t tiles = (wanted + kernel_.tileRows - 1) / kernel_.tileRows;
    // Enough groups that threads end together.
    const int64_t group = std::clamp<int64_t>(tiles / (8 * std::max(context_.threads, 1)),
                                              std::min<int64_t>(8, group_), group_);
    const int64_t groups = (tiles + group - 1) / group;
    const int64_t strips = (keyCount + strip_ - 1) / strip_;
    // Few queries: the keys are cut too, so that every thread has work.
    const int64_t parts =
        sweep_.triangle ? 1
                        : std::clamp<int64_t>(4 * static_cast<int64_t>(context_.threads) / groups, 1, strips);
    if (sweep_.begin) CLIPCID_TRY(sweep_.begin({first, wanted, begin, keyCount, parts}));
    CLIPCID_TRY(parallelTry(context_, groups * parts, [&](int64_t task, int worker) -> Status {
      const EnterKernel entered(kernel_);
      const int64_t part = task % parts;
      Strip strip = {};
      strip.queries = &queries;
      strip.keys = &keys;
      strip.part = part;
      strip.scores = scores_[static_cast<size_t>(worker)].get();
      strip.stride = strip_ + kSkew;
      strip.panel = kernel_.panel;
      if (sweep_.floors) strip.bits = bits_[static_cast<size_t>(worker)].get();
      strip.strideBits = kStripBits / 8;
      const int64_t tileBegin = task / parts * group, tileEnd = std::min(tileBegin + group, tiles);
      for (int64_t at = strips * part / parts; at < strips * (part + 1) / parts; ++at) {
        strip.key = begin + at * strip_;
        strip.columns = std::min(strip_, begin + keyCount - strip.key);
        strip.keyError = stripMaxima_[static_cast<size_t>(at)].error;
        strip.keyLength = stripMaxima_[static_cast<size_t>(at)].length;
        if (sweep_.floors) strip.terms = termsAt(at * strip_).constant();
        CLIPCID_TRY(runStrip(&strip, first, wanted, tileBegin, tileEnd, at, worker));
        if (context_.cancelled()) return Status::aborted();
      }
      return {};
    }));
    return {};
  }

  // The strip with each tile of a group.
  Status runStrip(Strip* strip, int64_t first, int64_t count, int64_t tileBegin, int64_t tileEnd, int64_t at,
                  int worker) {
    const int64_t panelWords = words_ * kernel_.panel;
    const uint32_t* panels = panels_.get() + at * (strip_ / kernel_.panel) * panelWords;
    const int64_t panelCount = (strip->columns + kernel_.panel - 1) / kernel_.panel;
    for (int64_t tile = tileBegin; tile < tileEnd; ++tile) {
      const int64_t row = tile * kernel_.tileRows;
      strip->query = first + row;
      strip->rows = static_cast<int>(std::min<int64_t>(kernel_.tileRows, count - row));
      int64_t panel = 0;
      // Panels whose last key is not behind the tile's first query.
      if (sweep_.triangle) panel = std::max<int64_t>((strip->query + 1 - strip->key) / kernel_.panel, 0);
      if (panel >= panelCount) continue;
      const Maxima& most = tileMaxima_[static_cast<size_t>(tile)];
      strip->queryError = most.error;
      strip->queryLength = most.length;
      const uint32_t* rows = strip->queries->row(strip->query);
      const int32_t* sums = strip->queries->sums.get() + (strip->query - strip->queries->begin);
      if (sweep_.floors) {
        runFloors(strip, rows, sums, panels, panelCount, worker);
        CLIPCID_TRY(sweep_.visit(*strip, worker));
        continue;
      }
      const float limit =
          sweep_.limit ? sweep_.limit(*strip, worker) : -std::numeric_limits<float>::infinity();
      uint64_t hits = 0;
      for (; panel < panelCount; ++panel) {
        const bool hit = kernel_.tile(rows, strip->queries->stride, sums, panels + panel * panelWords, words_,
                                      scale_, limit, strip->scores + panel * kernel_.panel, strip->stride);
        hits |= static_cast<uint64_t>(hit) << panel;
      }
      if (hits == 0) continue;
      strip->hits = hits;
      CLIPCID_TRY(sweep_.visit(*strip, worker));
    }
    progress((tileEnd - tileBegin) * kernel_.tileRows * strip->columns, worker);
    return {};
  }

  // One tile of queries, with floors of their own.
  void runFloors(Strip* strip, const uint32_t* rows, const int32_t* sums, const uint32_t* panels,
                 int64_t panelCount, int worker) {
    const auto error = static_cast<double>(strip->queryError),
               length = static_cast<double>(strip->queryLength);
    const double keyNorm = static_cast<double>(strip->keyError) + static_cast<double>(strip->keyLength);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    // Where the bound is infinite, so must what is made of it be.
    strip->known = (error + length) * keyNorm < 1e37;
    const Sweep::Floors asked = sweep_.floors(*strip, worker);
    // A tile's rows are all worked out; nothing reaches the floor of those that are not there.
    float floors[kMostTileRows];
    int8_t nowhere[kMostPanel];
    GapTerms gaps[kMostTileRows];
    for (int r = 0; r < kernel_.tileRows; ++r) {
      const bool there = r < strip->rows;
      floors[r] = there ? asked.floors[r] : kInfinity;
      if (asked.gaps != nullptr) gaps[r] = there ? asked.gaps[r] : GapTerms{nowhere, 0, 0, 0, 0};
    }
    const QueryTerms queries = {strip->known ? strip->queryError : kInfinity, strip->queryLength,
                                strip->queries->steps.get() + (strip->query - strip->queries->begin), floors,
                                asked.gaps == nullptr ? nullptr : gaps};
    const int64_t panelWords = words_ * kernel_.panel, stride = strip->queries->stride;
    for (int64_t panel = 0; panel < panelCount; ++panel) {
      const int64_t at = panel * kernel_.panel;
      prefetchPart(asked, panel, panelCount);
      const KeyTerms keys = {strip->terms.steps + at, strip->terms.base + at, strip->terms.ofError + at,
                             strip->terms.ofLength + at};
      float* scores = strip->scores + at;
      uint8_t* bits = strip->bits + at / 8;
      if (kernel_.reach != nullptr) {
        kernel_.reach(rows, stride, sums, panels + panel * panelWords, words_, queries, keys,
                      asked.scores ? scores : nullptr, strip->stride, bits, strip->strideBits);
      } else {
        kernel_.tile(rows, stride, sums, panels + panel * panelWords, words_, 1, -kInfinity, scores,
                     strip->stride);
        kernels_.reaching(scores, strip->stride, kernel_.tileRows, kernel_.panel, queries, keys, bits,
                          strip->strideBits);
      }
      for (int r = 0; asked.gaps != nullptr && r < strip->rows; ++r) gaps[r].to += kernel_.panel;
    }
  }

  // Asks for a part of what the next tile needs, so that it is there when its turn comes.
  void prefetchPart(const Sweep::Floors& asked, int64_t part, int64_t parts) const {
    for (int64_t i = asked.aheadCount * part / parts; i < asked.aheadCount * (part + 1) / parts; ++i)
      prefetchRow(asked.ahead[i], asked.aheadDim);
  }

  Status finish() {
    if (context_.progress && reported_ < total_) context_.progress(total_, total_);
    return context_.cancelled() ? Status::aborted() : Status();
  }

  void progress(int64_t pairs, int worker) {
    const int64_t done = done_.fetch_add(pairs, std::memory_order_relaxed) + pairs;
    // Worker 0 is the calling thread: so calls never overlap, and `done` only grows.
    if (worker != 0 || !context_.progress) return;
    reported_ = std::min(static_cast<double>(done), total_);
    context_.progress(reported_, total_);
  }

  class EnterKernel {
   public:
    explicit EnterKernel(const FilterKernel& kernel) : kernel_(kernel) {
      if (kernel.enter != nullptr) kernel.enter();
    }
    ~EnterKernel() {
      if (kernel_.leave != nullptr) kernel_.leave();
    }
    EnterKernel(const EnterKernel&) = delete;
    EnterKernel& operator=(const EnterKernel&) = delete;

   private:
    const FilterKernel& kernel_;
  };

  const Context& context_;
  const Sweep& sweep_;
  const FilterPlan& plan_;
  const FilterKernel& kernel_;
  const Kernels& kernels_ = kernels();
  const int64_t words_, budget_, queryCount_;
  int64_t strip_ = 0, group_ = 0;
  float scale_ = 1;
  double total_ = 0, reported_ = 0;
  std::atomic<int64_t> done_{0};
  std::vector<AlignedArray<float>> scores_;  // one a worker
  std::vector<AlignedArray<uint8_t>> bits_;  // one a worker
  AlignedArray<float> terms_;                // KeyTerms, [4, termsHeld_]
  int64_t termsHeld_ = 0;
  std::shared_ptr<const EncodedRows> wholeQueries_, wholeKeys_;
  const EncodedRows* queriesKept_ = nullptr;
  EncodedRows keyRows_[2];  // the keys at hand, where they are not kept, and the next
  AlignedArray<uint32_t> panels_;
  int64_t panelsHeld_ = 0;
  std::vector<Maxima> tileMaxima_, stripMaxima_;
};

}  // namespace

// upper - score = FilterPlan::bound, which is linear in the query's error and length but for a constant; and what rounds:
// each of at most 8 operations by 2^-24 of what is added up, which is at most the product of the lengths, the bound and
// half the key's square.
void writeTerms(const FilterPlan& plan, const EncodedRows& keys, const double* squares, int64_t begin,
                int64_t count, int64_t padded, const Terms& out) {
  constexpr double kRounding = 0x1p-21;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < count; ++j) {
    const int64_t at = begin + j - keys.begin;
    const auto error = static_cast<double>(keys.errors.get()[at]);
    const auto length = static_cast<double>(keys.lengths.get()[at]);
    const double norm = error + length, half = squares == nullptr ? 0 : squares[begin + j] / 2;
    out.steps[j] = keys.steps.get()[at];
    out.base[j] =
        norm * norm < 1e37 ? roundUp(plan.bound(0, 0, error, length) - half + kRounding * half) : kInfinity;
    out.ofError[j] = roundUp(plan.bound(1, 0, error, length) + 2 * kRounding * norm);
    out.ofLength[j] = roundUp(plan.bound(0, 1, error, length) + 2 * kRounding * norm);
  }
  for (int64_t j = count; j < padded; ++j) {
    out.steps[j] = out.ofError[j] = out.ofLength[j] = 0;
    out.base[j] = -kInfinity;
  }
}

Status sweep(const Context& context, const Sweep& sweep) {
  if (sweep.queries->dim != sweep.keys->dim)
    return {Code::kInternal, "A sweep over rows of different widths"};
  return Pass(context, sweep).run();
}

}  // namespace clipcid
