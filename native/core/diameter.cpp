// Groups are split along their spanning trees, from the top.
//
// The edges of a group's tree, strongest first, merge its rows step by step; the tree of these merges is laid out so that
// every part it knows is a run of one list. A part's sum in fixed point is what is left of the whole's when the other
// parts are taken out, exactly, so that only the smaller parts are ever summed again; and a part that fails is mostly
// seen to fail by a row that failed before. Rows are gathered in batches, so memory stays O(N).
// Best measured: not yet measured.
#include "core/diameter.h"

#include <algorithm>
#include <numeric>

#include "clipcid/canonical.h"
#include "core/aligned.h"
#include "core/parallel.h"

namespace clipcid {
namespace {

constexpr int64_t kBatch = 1024;

// A merge of two parts; they are leaves (rows by place in the group, as ~place) or earlier merges.
struct Merge {
  double dot;
  int32_t left, right;
  int64_t begin, size;  // its run of the list
};

class Splitter {
 public:
  Splitter(Backend& backend, const Context& context, const Prepared& rows, double leastScore, int32_t* labels)
      : backend_(backend),
        context_(context),
        rows_(rows),
        leastScore_(leastScore),
        scale_(fixedScale(1, rows.rows)),
        labels_(labels),
        batch_(kBatch * rows.dim),
        mean_(static_cast<size_t>(rows.dim)) {}

  // `edges` is the group's tree, in order; their ends are places in `members`, ascending rows.
  Status split(const int32_t* members, int64_t size, const std::vector<Edge>& edges) {
    layOut(members, size, edges);
    Sum sum(static_cast<size_t>(rows_.dim), 0);
    CLIPCID_TRY(add(0, size, &sum));
    return part(static_cast<int32_t>(merges_.size()) - 1, &sum);
  }

 private:
  using Sum = std::vector<int64_t>;

  int64_t beginOf(int32_t node) const {
    return node < 0 ? places_[static_cast<size_t>(~node)] : merges_[static_cast<size_t>(node)].begin;
  }
  int64_t sizeOf(int32_t node) const { return node < 0 ? 1 : merges_[static_cast<size_t>(node)].size; }

  void layOut(const int32_t* members, int64_t size, const std::vector<Edge>& edges) {
    const auto count = static_cast<size_t>(size);
    merges_.clear();
    std::vector<int32_t> sets(count), nodes(count), next(count, -1), heads(count), tails(count);
    std::iota(sets.begin(), sets.end(), 0);
    std::iota(heads.begin(), heads.end(), 0);
    std::iota(tails.begin(), tails.end(), 0);
    for (size_t place = 0; place < count; ++place) nodes[place] = ~static_cast<int32_t>(place);
    const auto find = [&](int32_t place) {
      auto at = static_cast<size_t>(place);
      while (sets[at] != static_cast<int32_t>(at)) {
        sets[at] = sets[static_cast<size_t>(sets[at])];
        at = static_cast<size_t>(sets[at]);
      }
      return at;
    };
    for (const Edge& edge : edges) {
      const size_t a = find(edge.first), b = find(edge.second);
      const int64_t merged = sizeOf(nodes[a]) + sizeOf(nodes[b]);
      merges_.push_back({edge.dot, nodes[a], nodes[b], heads[a], merged});
      next[static_cast<size_t>(tails[a])] = heads[b];
      tails[a] = tails[b];
      sets[b] = static_cast<int32_t>(a);
      nodes[a] = static_cast<int32_t>(merges_.size()) - 1;
    }
    list_.clear();
    places_.assign(count, 0);
    for (int32_t place = heads[find(0)]; place >= 0; place = next[static_cast<size_t>(place)]) {
      places_[static_cast<size_t>(place)] = static_cast<int64_t>(list_.size());
      list_.push_back(members[place]);
    }
    for (Merge& merge : merges_) merge.begin = places_[static_cast<size_t>(merge.begin)];
    suspects_.clear();
    scan_ = 0;
  }

  Status gather(int64_t begin, int64_t count) {
    int64_t indices[kBatch];
    std::copy_n(list_.begin() + begin, count, indices);
    CLIPCID_TRY(
        backend_.gather(context_, {.rows = &rows_, .indices = indices, .count = count, .out = batch_.get()}));
    return backend_.synchronise(context_);
  }

  // Adds the rows of a run of the list.
  Status add(int64_t begin, int64_t size, Sum* sum) {
    for (int64_t from = begin; from < begin + size; from += kBatch) {
      const int64_t count = std::min(kBatch, begin + size - from);
      CLIPCID_TRY(gather(from, count));
      constexpr int64_t kColumns = 64;
      CLIPCID_TRY(
          parallelTry(context_, (rows_.dim + kColumns - 1) / kColumns, [&](int64_t range, int) -> Status {
            const int64_t end = std::min((range + 1) * kColumns, rows_.dim);
            for (int64_t i = 0; i < count; ++i) {
              const float* row = batch_.get() + i * rows_.dim;
              for (int64_t k = range * kColumns; k < end; ++k)
                (*sum)[static_cast<size_t>(k)] += toFixed(static_cast<double>(row[k]), scale_);
            }
            return {};
          }));
    }
    return {};
  }

  // Scores of a run of at most kBatch rows with mean_.
  Status score(int64_t begin, int64_t count) {
    CLIPCID_TRY(gather(begin, count));
    constexpr int64_t kRange = 64;
    return parallelTry(context_, (count + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      for (int64_t i = range * kRange; i < std::min((range + 1) * kRange, count); ++i)
        scores_[i] = zero_ ? 0 : canonicalDot(batch_.get() + i * rows_.dim, mean_.data(), rows_.dim);
      return {};
    });
  }

  // Whether a member of the run has a score below the least, by the mean of `sum`.
  Status fails(int64_t begin, int64_t size, const Sum& sum, bool* out) {
    for (size_t k = 0; k < mean_.size(); ++k) mean_[k] = fixedMean(sum[k], scale_, size);
    const double norm = canonicalNorm(mean_.data(), rows_.dim);
    zero_ = norm == 0;
    if (!zero_) canonicalRow(mean_.data(), rows_.dim, norm, mean_.data());
    *out = true;
    for (; !suspects_.empty(); suspects_.pop_back()) {
      const int64_t suspect = suspects_.back();
      if (suspect < begin || suspect >= begin + size) continue;
      CLIPCID_TRY(score(suspect, 1));
      if (scores_[0] < leastScore_) return {};
    }
    // Round the run from where the last look found something.
    const int64_t start = scan_ > begin && scan_ < begin + size ? scan_ : begin;
    for (const auto& [first, last] : {std::pair(start, begin + size), std::pair(begin, start)}) {
      for (int64_t from = first; from < last; from += kBatch) {
        if (context_.cancelled()) return Status::aborted();
        const int64_t count = std::min(kBatch, last - from);
        CLIPCID_TRY(score(from, count));
        for (int64_t i = 0; i < count; ++i) {
          if (scores_[i] < leastScore_) suspects_.push_back(from + i);
        }
        scan_ = from;
        if (!suspects_.empty()) return {};
      }
    }
    *out = false;
    return {};
  }

  // Parts of a merge when all its weakest edges, those of its own dot, go.
  std::vector<int32_t> partsOf(int32_t node) const {
    const double dot = merges_[static_cast<size_t>(node)].dot;
    std::vector<int32_t> open = {node}, parts;
    while (!open.empty()) {
      const Merge& merge = merges_[static_cast<size_t>(open.back())];
      open.pop_back();
      for (const int32_t child : {merge.left, merge.right}) {
        const bool same = child >= 0 && merges_[static_cast<size_t>(child)].dot == dot;
        (same ? open : parts).push_back(child);
      }
    }
    return parts;
  }

  // Splits until every part holds. The largest part is gone on with, so that calls nest log2 N deep.
  Status part(int32_t node, Sum* sum) {
    for (;;) {
      const int64_t begin = beginOf(node), size = sizeOf(node);
      bool split = false;
      if (size > 1) CLIPCID_TRY(fails(begin, size, *sum, &split));
      if (!split) {
        const auto from = list_.begin() + begin;
        const int32_t label = *std::min_element(from, from + size);
        std::for_each(from, from + size, [&](int64_t row) { labels_[row] = label; });
        return {};
      }
      const std::vector<int32_t> parts = partsOf(node);
      const int32_t largest = *std::max_element(parts.begin(), parts.end(),
                                                [&](int32_t a, int32_t b) { return sizeOf(a) < sizeOf(b); });
      for (const int32_t other : parts) {
        if (other == largest) continue;
        Sum own(sum->size(), 0);
        CLIPCID_TRY(add(beginOf(other), sizeOf(other), &own));
        for (size_t k = 0; k < own.size(); ++k) (*sum)[k] -= own[k];
        CLIPCID_TRY(part(other, &own));
      }
      node = largest;
    }
  }

  Backend& backend_;
  const Context& context_;
  const Prepared& rows_;
  const double leastScore_;
  const double scale_;
  int32_t* labels_;
  AlignedArray<float> batch_;  // [kBatch, D]
  double scores_[kBatch];
  std::vector<float> mean_;  // canonical row of the mean
  bool zero_ = false;        // the mean's norm is zero
  std::vector<Merge> merges_;
  std::vector<int64_t> list_;      // rows, so that every merge is a run
  std::vector<int64_t> places_;    // of the members in it
  std::vector<int64_t> suspects_;  // places in the list that failed before
  int64_t scan_ = 0;
};

}  // namespace

Status splitWide(Backend& backend, const Context& context, const Prepared& rows, bool inFile,
                 const std::vector<Edge>& forest, double threshold, double leastScore, int32_t* labels) {
  const Groups groups = groupsOf(labels, rows.rows);
  std::vector<double> scores(groups.members.size());
  CLIPCID_TRY(groupScores(backend, context, rows, groups, inFile, scores.data()));
  std::vector<int64_t> wide;
  for (int64_t group = 0; group < groups.count(); ++group) {
    const auto from = scores.begin() + groups.starts[static_cast<size_t>(group)];
    if (*std::min_element(from, from + groups.size(group)) < leastScore) wide.push_back(group);
  }
  scores = {};
  if (wide.empty()) return {};

  // The edges of the wide groups, by group and then in order.
  constexpr int32_t kNone = -1;
  std::vector<int32_t> wideOf(static_cast<size_t>(rows.rows), kNone),
      placeOf(static_cast<size_t>(rows.rows), 0);
  std::vector<std::vector<Edge>> trees(wide.size());
  for (size_t at = 0; at < wide.size(); ++at) {
    for (int64_t place = 0; place < groups.size(wide[at]); ++place) {
      const auto row = static_cast<size_t>(groups.of(wide[at])[place]);
      wideOf[row] = static_cast<int32_t>(at);
      placeOf[row] = static_cast<int32_t>(place);
    }
  }
  for (const Edge& edge : forest) {
    if (!(edge.dot > threshold)) break;
    const int32_t at = wideOf[static_cast<size_t>(edge.first)];
    if (at == kNone) continue;
    trees[static_cast<size_t>(at)].push_back(
        {edge.dot, placeOf[static_cast<size_t>(edge.first)], placeOf[static_cast<size_t>(edge.second)]});
  }
  Splitter splitter(backend, context, rows, leastScore, labels);
  for (size_t at = 0; at < wide.size(); ++at) {
    CLIPCID_TRY(splitter.split(groups.of(wide[at]), groups.size(wide[at]), trees[at]));
    trees[at] = {};
  }
  return {};
}

}  // namespace clipcid
