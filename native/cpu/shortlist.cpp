#include "cpu/shortlist.h"

#include <algorithm>

#include "cpu/encoding.h"

namespace clipcid {
namespace {

constexpr size_t kAhead = 4;  // rows are asked for this many before their turn

int32_t placesFor(int64_t k) {
  // A list of one fills at once where rows are near copies; a longer one loses little by a few places more.
  return static_cast<int32_t>(k == 1 ? 16 : 2 * k + 96);
}

// Where the score may be expected.
float likely(const Candidate& one) {
  return one.low > -std::numeric_limits<float>::infinity() ? one.low / 2 + one.high / 2 : one.high;
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

// Raises the floor to the k-th largest lower end and drops the candidates that cannot reach it.
void dropBelow(int64_t k, Shortlists::Rest* rest) {
  rest->lows.clear();
  for (const Candidate& one : rest->pending) rest->lows.push_back(one.low);
  for (const Decided& one : rest->decided) rest->lows.push_back(roundDown(one.score));
  rest->floor = std::max(rest->floor, kthLargest(&rest->lows, k));
  std::erase_if(rest->pending, [&](const Candidate& one) { return one.high < rest->floor; });
}

}  // namespace

Shortlists::Shortlists(int64_t queries, int64_t parts, int64_t k, Judge judge)
    : queries_(queries),
      parts_(parts),
      k_(k),
      places_(placesFor(k)),
      judge_(std::move(judge)),
      floors_(static_cast<size_t>(queries * parts), -std::numeric_limits<float>::infinity()),
      lists_(static_cast<size_t>(queries * parts)),
      pending_(queries * parts * places_),
      lows_(queries * parts * k),
      decided_(queries * parts * k) {}

int64_t Shortlists::bytes(int64_t k) {
  return static_cast<int64_t>(sizeof(List) + sizeof(float)) +
         placesFor(k) * static_cast<int64_t>(sizeof(Candidate)) +
         k * static_cast<int64_t>(sizeof(Decided) + sizeof(float));
}

void Shortlists::takeLow(size_t slot, float low) {
  float* heap = lows_.get() + static_cast<int64_t>(slot) * k_;
  List& list = lists_[slot];
  if (list.lows < k_) {
    heap[list.lows++] = low;
    if (list.lows < k_) return;
    std::make_heap(heap, heap + k_, std::greater<float>());
  } else {
    if (!(low > heap[0])) return;
    int64_t place = 0;
    for (int64_t next = 1; next < k_; next = 2 * place + 1) {
      if (next + 1 < k_ && heap[next + 1] < heap[next]) ++next;
      if (!(heap[next] < low)) break;
      heap[place] = heap[next];
      place = next;
    }
    heap[place] = low;
  }
  floors_[slot] = std::max(floors_[slot], heap[0]);
}

void Shortlists::prune(size_t slot) {
  List& list = lists_[slot];
  Candidate* pending = pending_.get() + static_cast<int64_t>(slot) * places_;
  const float floor = floors_[slot];
  const Candidate* end = std::remove_if(pending, pending + list.pending,
                                        [floor](const Candidate& one) { return one.high < floor; });
  list.pending = static_cast<int32_t>(end - pending);
}

void Shortlists::pruneAnew(size_t slot) {
  List& list = lists_[slot];
  list.lows = 0;
  const Candidate* pending = pending_.get() + static_cast<int64_t>(slot) * places_;
  const Decided* decided = decided_.get() + static_cast<int64_t>(slot) * k_;
  // One that is at the floor counts among those that made it what it is.
  for (int32_t p = 0; p < list.pending; ++p) {
    if (pending[p].low >= floors_[slot]) takeLow(slot, pending[p].low);
  }
  for (int32_t d = 0; d < list.decided; ++d) takeLow(slot, roundDown(decided[d].score));
  prune(slot);
}

Status Shortlists::tightenFirst(int64_t query, Candidate* candidates, size_t count, int worker) const {
  Candidate* wide[Judge::kTogether];
  int64_t found = 0;
  const auto tighten = [&]() -> Status {
    CLIPCID_TRY(judge_.tighten(query, wide, found, worker));
    for (int64_t at = 0; at < found; ++at) wide[at]->tight = true;
    found = 0;
    return {};
  };
  for (size_t at = 0; at < count; ++at) {
    if (candidates[at].tight) continue;
    wide[found++] = &candidates[at];
    if (found == Judge::kTogether) CLIPCID_TRY(tighten());
  }
  return found > 0 ? tighten() : Status();
}

Status Shortlists::tightenBest(int64_t query, Candidate* candidates, size_t count, int worker) const {
  const size_t best = std::min(count, static_cast<size_t>(k_));
  if (best < count) {
    std::nth_element(candidates, candidates + best, candidates + count,
                     [](const Candidate& a, const Candidate& b) { return likely(a) > likely(b); });
  }
  return tightenFirst(query, candidates, best, worker);
}

Status Shortlists::makeRoom(int64_t query, int64_t part, int worker) {
  const size_t slot = at(query, part);
  List& list = lists_[slot];
  Candidate* pending = pending_.get() + static_cast<int64_t>(slot) * places_;
  prune(slot);
  // As long as a fair share of the places is free again, pruning costs little for each candidate.
  if (!crowded(list)) return {};
  CLIPCID_TRY(tightenBest(query, pending, static_cast<size_t>(list.pending), worker));
  pruneAnew(slot);
  if (!crowded(list)) return {};
  // Where that did not help before, it will not now: copies, or nearly.
  if (list.decided == 0) {
    CLIPCID_TRY(tightenFirst(query, pending, static_cast<size_t>(list.pending), worker));
    pruneAnew(slot);
    if (!crowded(list)) return {};
  }
  Decided* decided = decided_.get() + static_cast<int64_t>(slot) * k_;
  std::vector<Decided> all(decided, decided + list.decided);
  for (int32_t p = 0; p < list.pending; ++p) {
    double score;
    CLIPCID_TRY(judge_.decide(query, pending[p].index, worker, &score));
    all.push_back({score, pending[p].index});
  }
  keepBest(&all, k_);
  std::copy(all.begin(), all.end(), decided);
  list.decided = static_cast<int32_t>(all.size());
  list.pending = 0;
  pruneAnew(slot);
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
    out->floor = std::max(out->floor, floors_[slot]);
  }
  dropBelow(k_, out);
}

Status Shortlists::tighten(int64_t query, int worker, Rest* rest) const {
  CLIPCID_TRY(tightenBest(query, rest->pending.data(), rest->pending.size(), worker));
  dropBelow(k_, rest);
  CLIPCID_TRY(tightenFirst(query, rest->pending.data(), rest->pending.size(), worker));
  dropBelow(k_, rest);
  return {};
}

Status Shortlists::finish(int64_t query, int worker, Rest* scratch, std::vector<Decided>* out,
                          bool* right) const {
  rest(query, scratch);
  if (static_cast<int64_t>(scratch->pending.size() + scratch->decided.size()) > k_)
    CLIPCID_TRY(tighten(query, worker, scratch));
  out->assign(scratch->decided.begin(), scratch->decided.end());
  for (size_t at = 0; at < scratch->pending.size(); ++at) {
    const Candidate& one = scratch->pending[at];
    if (at + kAhead < scratch->pending.size()) judge_.prefetch(scratch->pending[at + kAhead].index);
    double score;
    CLIPCID_TRY(judge_.decide(query, one.index, worker, &score));
    out->push_back({score, one.index});
  }
  keepBest(out, k_);
  std::sort(out->begin(), out->end(), [](const Decided& a, const Decided& b) { return a.before(b); });
  *right =
      static_cast<int64_t>(out->size()) == k_ && static_cast<double>(scratch->floor) <= out->back().score;
  return {};
}

}  // namespace clipcid
