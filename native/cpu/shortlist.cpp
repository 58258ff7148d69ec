#include "cpu/shortlist.h"

#include <algorithm>

#include "cpu/sweep.h"

namespace clipcid {
namespace {

int32_t placesFor(int64_t k) {
  // A list of one fills at once where rows are near copies; a longer one loses little by a few places more.
  return static_cast<int32_t>(k == 1 ? 8 : 2 * k + 64);
}

// The k-th largest; -infinity when there are fewer. Reorders the values.
float kthLargest(std::vector<float>* values, int64_t k) {
  if (static_cast<int64_t>(values->size()) < k) return -std::numeric_limits<float>::infinity();
  std::nth_element(values->begin(), values->begin() + (k - 1), values->end(), std::greater<float>());
  return (*values)[static_cast<size_t>(k - 1)];
}

void keepBest(std::vector<Decided>* list, int64_t k) {
  if (static_cast<int64_t>(list->size()) <= k) return;
  std::nth_element(list->begin(), list->begin() + (k - 1), list->end(),
                   [](const Decided& a, const Decided& b) { return a.before(b); });
  list->resize(static_cast<size_t>(k));
}

}  // namespace

Shortlists::Shortlists(int64_t queries, int64_t parts, int64_t k, Decide decide)
    : queries_(queries),
      parts_(parts),
      k_(k),
      places_(placesFor(k)),
      decide_(std::move(decide)),
      lists_(static_cast<size_t>(queries * parts)),
      pending_(queries * parts * places_),
      decided_(queries * parts * k) {}

int64_t Shortlists::bytes(int64_t k) {
  return static_cast<int64_t>(sizeof(List)) + placesFor(k) * static_cast<int64_t>(sizeof(Candidate)) +
         k * static_cast<int64_t>(sizeof(Decided));
}

Status Shortlists::makeRoom(int64_t query, int64_t part, int worker) {
  const size_t slot = at(query, part);
  List& list = lists_[slot];
  Candidate* pending = pending_.get() + static_cast<int64_t>(slot) * places_;
  Decided* decided = decided_.get() + static_cast<int64_t>(slot) * k_;
  if (k_ > 1) {
    std::vector<float> lows;
    lows.reserve(static_cast<size_t>(list.pending + list.decided));
    for (int32_t p = 0; p < list.pending; ++p) lows.push_back(pending[p].low);
    for (int32_t d = 0; d < list.decided; ++d) lows.push_back(roundDown(decided[d].score));
    list.floor = std::max(list.floor, kthLargest(&lows, k_));
  }
  const Candidate* end = std::remove_if(pending, pending + list.pending,
                                        [&](const Candidate& one) { return one.high < list.floor; });
  list.pending = static_cast<int32_t>(end - pending);
  // As long as a fair share of the places is free again, pruning costs little for each candidate.
  if (list.pending <= places_ - std::max(2, places_ / 8)) return {};
  std::vector<Decided> all(decided, decided + list.decided);
  for (int32_t p = 0; p < list.pending; ++p) {
    double score;
    CLIPCID_TRY(decide_(query, pending[p].index, worker, &score));
    all.push_back({score, pending[p].index});
  }
  keepBest(&all, k_);
  std::copy(all.begin(), all.end(), decided);
  list.decided = static_cast<int32_t>(all.size());
  list.pending = 0;
  if (list.decided == k_) {
    double least = all[0].score;
    for (const Decided& one : all) least = std::min(least, one.score);
    list.floor = std::max(list.floor, roundDown(least));
  }
  return {};
}

void Shortlists::rest(int64_t query, Rest* out) const {
  out->pending.clear();
  out->decided.clear();
  out->floor = -std::numeric_limits<float>::infinity();
  for (int64_t part = 0; part < parts_; ++part) {
    const size_t slot = at(query, part);
    const List& list = lists_[slot];
    const Candidate* pending = pending_.get() + static_cast<int64_t>(slot) * places_;
    const Decided* decided = decided_.get() + static_cast<int64_t>(slot) * k_;
    out->pending.insert(out->pending.end(), pending, pending + list.pending);
    out->decided.insert(out->decided.end(), decided, decided + list.decided);
    out->floor = std::max(out->floor, list.floor);
  }
  if (k_ > 1 || parts_ > 1) {
    std::vector<float> lows;
    lows.reserve(out->pending.size() + out->decided.size());
    for (const Candidate& one : out->pending) lows.push_back(one.low);
    for (const Decided& one : out->decided) lows.push_back(roundDown(one.score));
    out->floor = std::max(out->floor, kthLargest(&lows, k_));
  }
  std::erase_if(out->pending, [&](const Candidate& one) { return one.high < out->floor; });
}

Status Shortlists::finish(int64_t query, int worker, std::vector<Decided>* out) const {
  Rest left;
  rest(query, &left);
  *out = std::move(left.decided);
  for (const Candidate& one : left.pending) {
    double score;
    CLIPCID_TRY(decide_(query, one.index, worker, &score));
    out->push_back({score, one.index});
  }
  keepBest(out, k_);
  std::sort(out->begin(), out->end(), [](const Decided& a, const Decided& b) { return a.before(b); });
  return {};
}

}  // namespace clipcid
