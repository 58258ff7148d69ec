#include "core/semdedup.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "clipcid/canonical.h"
#include "clipcid/philox.h"
#include "core/faults.h"

namespace clipcid {
namespace {

// Rows are gathered, cluster after cluster, into runs of about this size.
constexpr int64_t kRunBytes = int64_t{64} << 20;
// Scores that are asked for at once.
constexpr int64_t kScores = int64_t{1} << 18;

class Semdedup {
 public:
  Semdedup(Backend& backend, const Context& context, const SemdedupArgs& args,
           const std::vector<int32_t>& labels, const Prepared& rows)
      : backend_(backend), context_(context), args_(args), labels_(labels), rows_(rows) {
    quiet_.progress = nullptr;
  }

  Status run(SemdedupResult* result) {
    CLIPCID_TRY(sort());
    std::fill(args_.keep, args_.keep + rows_.rows, uint8_t{1});
    std::fill(args_.duplicateOf, args_.duplicateOf + rows_.rows, -1);
    std::fill(args_.similarity, args_.similarity + rows_.rows, 0.0f);
    best_.assign(static_cast<size_t>(rows_.rows), -std::numeric_limits<double>::infinity());
    for (size_t j = 0; j + 1 < starts_.size(); ++j) total_ += work(j);

    const int64_t bytes = context_.maxMemory > 0 ? std::min(kRunBytes, context_.maxMemory / 4) : kRunBytes;
    const int64_t most = std::max<int64_t>(bytes / (4 * rows_.dim), 1);
    for (size_t from = 0; from + 1 < starts_.size();) {
      size_t to = from + 1;
      while (to + 1 < starts_.size() && starts_[to + 1] - starts_[from] <= most) ++to;
      CLIPCID_TRY(compare(from, to));
      from = to;
    }
    result->pairs = pairs_;
    return {};
  }

 private:
  // Rows by cluster, and in a cluster by the order.
  Status sort() {
    order_.resize(static_cast<size_t>(rows_.rows));
    std::iota(order_.begin(), order_.end(), 0);
    const int32_t* labels = labels_.data();
    const auto by = [&](const auto& keys) {
      std::sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
        if (labels[a] != labels[b]) return labels[a] < labels[b];
        const auto first = keys[static_cast<size_t>(a)], second = keys[static_cast<size_t>(b)];
        return first != second ? first < second : a < b;
      });
    };
    if (args_.order == SemdedupOrder::kRandom) {
      std::vector<uint64_t> draws(order_.size());
      for (size_t i = 0; i < draws.size(); ++i) draws[i] = philox64(context_.seed, kPhiloxSemdedup, i);
      by(draws);
    } else {
      std::vector<double> scores(order_.size());
      CLIPCID_TRY(score(&scores));
      if (args_.order == SemdedupOrder::kEasy) {
        for (double& value : scores) value = -value;
      }
      by(scores);
    }
    for (size_t at = 0; at < order_.size(); ++at) {
      if (at == 0 || labels[order_[at]] != labels[order_[at - 1]])
        starts_.push_back(static_cast<int64_t>(at));
    }
    starts_.push_back(rows_.rows);
    return {};
  }

  Status score(std::vector<double>* scores) {
    std::unique_ptr<Prepared> centres;
    CLIPCID_TRY(backend_.prepare(
        quiet_, {.rows = Rows(floatView(args_.centroids, args_.clusters, rows_.dim))}, &centres));
    CLIPCID_TRY(requireSound(*centres, "centroids", 0));
    std::vector<Pair> pairs;
    for (int64_t from = 0; from < rows_.rows; from += kScores) {
      const int64_t to = std::min(from + kScores, rows_.rows);
      pairs.clear();
      for (int64_t i = from; i < to; ++i)
        pairs.push_back({static_cast<int32_t>(i), labels_[static_cast<size_t>(i)]});
      CLIPCID_TRY(backend_.pairDots(quiet_, {.queries = &rows_,
                                             .keys = centres.get(),
                                             .pairs = pairs.data(),
                                             .count = to - from,
                                             .dots = scores->data() + from}));
    }
    return backend_.synchronise(quiet_);
  }

  // Of the clusters [from, to): their rows are laid side by side, in order, and each is joined with itself.
  Status compare(size_t from, size_t to) {
    const int64_t begin = starts_[from], count = starts_[to] - begin;
    std::vector<float> data(static_cast<size_t>(count * rows_.dim));
    CLIPCID_TRY(backend_.gather(
        quiet_, {.rows = &rows_, .indices = order_.data() + begin, .count = count, .out = data.data()}));
    CLIPCID_TRY(backend_.synchronise(quiet_));
    const Rows run(floatView(data.data(), count, rows_.dim));
    for (size_t cluster = from; cluster < to; ++cluster) {
      const int64_t start = starts_[cluster], size = starts_[cluster + 1] - start;
      if (size > 1) {
        // They are canonical rows already, and normalising them again would change them.
        std::unique_ptr<Prepared> members;
        CLIPCID_TRY(backend_.prepare(quiet_, {.rows = run, .begin = start - begin, .count = size}, &members));
        const int64_t* order = order_.data() + start;
        const auto drop = [&](const Pair* pairs, const double* dots, size_t number) -> Status {
          pairs_ += static_cast<int64_t>(number);
          for (size_t at = 0; at < number; ++at)
            duplicate(order[pairs[at].second], order[pairs[at].first], dots[at]);
          return {};
        };
        CLIPCID_TRY(backend_.join(quiet_, {.queries = members.get(),
                                           .keys = members.get(),
                                           .threshold = args_.threshold,
                                           .dots = true,
                                           .sink = drop}));
        CLIPCID_TRY(backend_.synchronise(quiet_));
      }
      if (context_.cancelled()) return Status::aborted();
      done_ += work(cluster);
      if (context_.progress) context_.progress(done_, total_);
    }
    return {};
  }

  void duplicate(int64_t row, int64_t of, double dot) {
    double& best = best_[static_cast<size_t>(row)];
    int32_t& at = args_.duplicateOf[row];
    if (dot < best || (dot == best && of > at)) return;
    best = dot;
    at = static_cast<int32_t>(of);
    args_.keep[row] = 0;
    args_.similarity[row] = static_cast<float>(dot);
  }

  // Rows to gather and pairs to compare of a cluster, for the progress.
  double work(size_t cluster) const {
    const auto size = static_cast<double>(starts_[cluster + 1] - starts_[cluster]);
    return size * (size + 1) / 2;
  }

  Backend& backend_;
  const Context& context_;
  Context quiet_ = context_;
  const SemdedupArgs& args_;
  const std::vector<int32_t>& labels_;
  const Prepared& rows_;
  std::vector<int64_t> order_;   // [N]
  std::vector<int64_t> starts_;  // of the clusters that have rows, in `order_`; and N
  std::vector<double> best_;     // [N]
  double done_ = 0, total_ = 0;
  int64_t pairs_ = 0;
};

}  // namespace

Status semdedup(Backend& backend, const Context& context, const SemdedupArgs& args, SemdedupResult* result) {
  *result = {};
  const int64_t count = args.rows.count();
  // A copy: they index memory, so what was checked may not change.
  const std::vector<int32_t> labels(args.labels, args.labels + count);
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= args.clusters) {
      return {Code::kInvalidArgument, "Expected an integer from 0 to " + std::to_string(args.clusters - 1) +
                                          " for labels[" + std::to_string(i) + "] but received " +
                                          std::to_string(labels[i])};
    }
  }
  if (count == 0) return {};
  std::unique_ptr<Prepared> rows;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.rows, .unit = true}, &rows));
  CLIPCID_TRY(requireSound(*rows, "rows", 0));
  return Semdedup(backend, context, args, labels, *rows).run(result);
}

}  // namespace clipcid
