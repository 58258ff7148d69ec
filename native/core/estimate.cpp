#include "core/estimate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "clipcid/philox.h"
#include "core/aligned.h"
#include "core/parallel.h"
#include "core/read_rows.h"

namespace clipcid {
namespace {

constexpr int64_t kMostKeys = 65536;
constexpr int64_t kLeastQueries = 256;
// Rows that are read one after the other, to time that.
constexpr int64_t kRun = 16384;

class Timer {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::vector<int64_t> drawRows(int64_t rows, int64_t count, uint64_t seed, uint64_t offset) {
  std::vector<int64_t> drawn(static_cast<size_t>(count));
  for (int64_t t = 0; t < count; ++t) {
    const int64_t begin = rows * t / count, end = rows * (t + 1) / count;
    const uint64_t draw = philox64(seed, kPhiloxEstimate, offset + static_cast<uint64_t>(t));
    drawn[static_cast<size_t>(t)] =
        begin + static_cast<int64_t>(scaleDraw(draw, static_cast<uint64_t>(end - begin)));
  }
  return drawn;
}

struct Sample {
  std::vector<int64_t> rows;
  AlignedArray<float> data;
  std::unique_ptr<Prepared> prepared;
};

Status takeSample(Backend& backend, const Context& context, const Rows& rows, Sample* out) {
  const auto count = static_cast<int64_t>(out->rows.size());
  const int64_t dim = rows.dim();
  out->data = AlignedArray<float>(count * dim);
  if (rows.device) {
    std::unique_ptr<Prepared> all;
    CLIPCID_TRY(backend.prepare(context, {.rows = rows}, &all));
    CLIPCID_TRY(backend.gather(
        context, {.rows = all.get(), .indices = out->rows.data(), .count = count, .out = out->data.get()}));
    CLIPCID_TRY(backend.synchronise(context));
  } else {
    const RowReader reader(rows);
    CLIPCID_TRY(parallelTry(context, count, [&](int64_t at, int) -> Status {
      return reader.read(out->rows[static_cast<size_t>(at)], 1, out->data.get() + at * dim, dim);
    }));
  }
  return backend.prepare(context, {.rows = Rows(floatView(out->data.get(), count, dim)), .unit = true},
                         &out->prepared);
}

// Of an encoded row, by the plan's words: "int8, 256 of 512 dimensions, …".
double encodedBytes(const std::string& plan, double dim) {
  const size_t comma = plan.find(", ");
  const double coordinates = comma == std::string::npos ? 0 : std::strtod(plan.c_str() + comma + 2, nullptr);
  const double each = plan.starts_with("int8") ? 1 : plan.starts_with("bfloat16") ? 2 : 4;
  return each * (coordinates > 0 ? std::min(coordinates, dim) : dim);
}

// Time of the comparing alone, from how far a join says it is and when: choosing a filter and encoding rows come before
// it begins to say so.
class Pace {
 public:
  void report(double done, double total) {
    total_ = total;
    (calls_++ == 0 ? first_ : last_) = {done, timer_.seconds()};
  }
  // Of the whole join; `seconds` it took in all, for one too short to tell.
  double comparing(double seconds) const {
    const double done = last_.done - first_.done;
    return calls_ < 2 || !(done > 0) ? seconds : std::min(seconds, (last_.at - first_.at) / done * total_);
  }

 private:
  struct Mark {
    double done = 0, at = 0;
  };
  Timer timer_;
  int64_t calls_ = 0;
  double total_ = 0;
  Mark first_, last_;
};

double variance(const std::vector<int64_t>& values) {
  const auto count = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const int64_t value : values) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  return count < 2 ? 0 : std::max(0.0, (squares - sum * sum / count) / (count - 1));
}

class Estimate {
 public:
  Estimate(Backend& backend, const Context& context, const EstimateArgs& args, EstimateResult* result)
      : backend_(backend), context_(context), args_(args), result_(result), count_(args.rows.count()) {}

  Status run() {
    const double n = static_cast<double>(count_), dim = static_cast<double>(args_.rows.dim());
    if (n * n / 2 * dim <= args_.work) {
      CLIPCID_TRY(compareAll());
    } else {
      CLIPCID_TRY(sample());
    }
    constexpr double kRowExtra = 128;  // padding, errors, norms, labels
    const double encoded = n * (encodedBytes(result_->plan, dim) + kRowExtra);
    const double budget = context_.maxMemory > 0 ? static_cast<double>(context_.maxMemory)
                                                 : static_cast<double>(backend_.memory().free) / 2;
    result_->memory = std::min(budget, encoded + std::min(encoded, budget / 8));
    return {};
  }

 private:
  Status sample() {
    const double dim = static_cast<double>(args_.rows.dim());
    CLIPCID_TRY(timeReading());
    result_->keys = std::min(count_, kMostKeys);
    if (context_.maxMemory > 0) {
      const double fits = static_cast<double>(context_.maxMemory) / (12 * dim);
      result_->keys = std::clamp<int64_t>(static_cast<int64_t>(fits), 1, result_->keys);
    }
    const double queries = args_.work / (dim * static_cast<double>(result_->keys));
    result_->queries =
        std::clamp<int64_t>(static_cast<int64_t>(queries), std::min(kLeastQueries, count_), count_);
    return compareSamples();
  }

  // Few rows: what a balance would do.
  Status compareAll() {
    const Timer timer;
    std::unique_ptr<Prepared> rows;
    CLIPCID_TRY(backend_.prepare(context_, {.rows = args_.rows, .unit = true}, &rows));
    int64_t hits = 0;
    Timings unused;
    CLIPCID_TRY(join(*rows, *rows, &unused,
                     [&](const Pair*, size_t number) { hits += static_cast<int64_t>(number); }));
    result_->queries = result_->keys = count_;
    result_->pairs = result_->low = result_->high = static_cast<double>(hits);
    result_->seconds = timer.seconds();
    return {};
  }

  Status timeReading() {
    const int64_t run = std::min(count_, kRun);
    const Timer timer;
    std::unique_ptr<Prepared> part;
    CLIPCID_TRY(backend_.prepare(
        context_, {.rows = args_.rows, .begin = (count_ - run) / 2, .count = run, .unit = true}, &part));
    result_->seconds += timer.seconds() * static_cast<double>(count_) / static_cast<double>(run);
    return {};
  }

  Status compareSamples() {
    Sample queries, keys;
    queries.rows = drawRows(count_, result_->queries, context_.seed, uint64_t{1} << 32);
    keys.rows = drawRows(count_, result_->keys, context_.seed, 0);
    CLIPCID_TRY(takeSample(backend_, context_, args_.rows, &queries));
    CLIPCID_TRY(takeSample(backend_, context_, args_.rows, &keys));

    std::vector<int64_t> byQuery(queries.rows.size(), 0), byKey(keys.rows.size(), 0);
    Timings first, second;
    CLIPCID_TRY(join(*queries.prepared, *keys.prepared, &first, [&](const Pair* pairs, size_t number) {
      for (size_t at = 0; at < number; ++at) {
        const auto query = static_cast<size_t>(pairs[at].first), key = static_cast<size_t>(pairs[at].second);
        if (queries.rows[query] == keys.rows[key]) continue;
        ++byQuery[query];
        ++byKey[key];
      }
    }));
    // Again: what it took longer the first time went into encoding the rows.
    CLIPCID_TRY(join(*queries.prepared, *keys.prepared, &second, [](const Pair*, size_t) {}));

    const auto n = static_cast<double>(count_);
    const auto q = static_cast<double>(result_->queries), k = static_cast<double>(result_->keys);
    const double comparing = std::min(first.comparing, second.comparing);
    const double planning = std::max(0.0, second.all - second.comparing);
    const double encoding = std::max(0.0, first.all - first.comparing - planning);
    result_->seconds += comparing * (n / q) * (n / k) / 2 + planning + encoding * n / (q + k);
    const double each = (n / q) * (n / k) / 2;  // pairs that a hit stands for
    const auto hits = static_cast<double>(std::accumulate(byQuery.begin(), byQuery.end(), int64_t{0}));
    const double error = std::sqrt(q * variance(byQuery) * (1 - q / n) + k * variance(byKey) * (1 - k / n));
    result_->pairs = hits * each;
    result_->low = std::max(0.0, hits - 2 * error) * each;
    result_->high = std::min(std::max(hits + 2 * error, hits + 3) * each, n * (n - 1) / 2);
    return {};
  }

  struct Timings {
    double all = 0, comparing = 0;
  };

  template <typename Hits>
  Status join(const Prepared& queries, const Prepared& keys, Timings* timings, Hits&& hits) {
    Pace pace;
    Context watched = context_;
    watched.progress = [&](double done, double total) { pace.report(done, total); };
    const Timer timer;
    const auto sink = [&](const Pair* pairs, const double*, size_t number) -> Status {
      hits(pairs, number);
      return {};
    };
    CLIPCID_TRY(backend_.join(watched, {.queries = &queries,
                                        .keys = &keys,
                                        .threshold = args_.threshold,
                                        .sink = sink,
                                        .plan = &result_->plan}));
    CLIPCID_TRY(backend_.synchronise(context_));
    timings->all = timer.seconds();
    timings->comparing = pace.comparing(timings->all);
    return {};
  }

  Backend& backend_;
  const Context& context_;
  const EstimateArgs& args_;
  EstimateResult* const result_;
  const int64_t count_;
};

}  // namespace

Status estimateBalance(Backend& backend, const Context& context, const EstimateArgs& args,
                       EstimateResult* result) {
  *result = {};
  if (args.rows.count() == 0) return {};
  Context quiet = context;
  quiet.progress = nullptr;
  return guarded([&] { return Estimate(backend, quiet, args, result).run(); });
}

}  // namespace clipcid
