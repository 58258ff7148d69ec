#include "core/kmeans_init.h"

#include <tuple>

#include "clipcid/philox.h"
#include "core/kmeans_sample.h"

namespace clipcid {
namespace {

constexpr int64_t kBlockShare = 8;  // a block of k-means++ adds this part of the centres so far
constexpr int64_t kMostBlock = 512;
constexpr int64_t kRounds = 5;
constexpr int64_t kKeys = 16384;  // candidates in one comparison, which bounds their memory

Status gatherRows(const Points& points, const int64_t* rows, int64_t count, float* out) {
  CLIPCID_TRY(points.backend.gather(points.context,
                                    {.rows = &points.rows, .indices = rows, .count = count, .out = out}));
  return points.backend.synchronise(points.context);
}

// Rows in the order of the rule 'random', as many as asked for.
std::vector<int64_t> randomOrder(const Points& points, uint64_t seed, int64_t wanted) {
  const int64_t count = points.count();
  std::vector<std::pair<uint64_t, int64_t>> draws, last;
  draws.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<uint64_t>(points.element * count + i);
    (points.weight(i) > 0 ? draws : last).emplace_back(philox64(seed, kPhiloxKmeansRandom, index), i);
  }
  const auto order = [&](std::vector<std::pair<uint64_t, int64_t>>& list) {
    const auto sorted = std::min<int64_t>(wanted, static_cast<int64_t>(list.size()));
    std::partial_sort(list.begin(), list.begin() + sorted, list.end());
  };
  order(draws);
  order(last);
  draws.insert(draws.end(), last.begin(), last.end());
  std::vector<int64_t> rows;
  for (int64_t at = 0; at < wanted; ++at) rows.push_back(draws[static_cast<size_t>(at)].second);
  return rows;
}

// K-means++ over rows, or over a list of them with weights of its own.
class PlusPlus {
 public:
  PlusPlus(const Points& points, const std::vector<int64_t>* rows, const std::vector<double>* weights,
           uint64_t seed, uint64_t drawStream, uint64_t acceptStream)
      : points_(points),
        weights_(weights),
        nearest_(points, rows),
        seed_(seed),
        drawStream_(drawStream),
        acceptStream_(acceptStream),
        chosen_(static_cast<size_t>(nearest_.count()), false) {}

  Status run(const Share& share, float* centroids) {
    centroids_ = centroids;
    Draw draw;
    const auto byWeight = [&](int64_t at) { return weight(at); };
    CLIPCID_TRY(Draw::make(points_, nearest_.count(), byWeight, &draw));
    CLIPCID_TRY(take({draw.find(scaleDraw(number(drawStream_), draw.total()), byWeight)}));
    ++drawn_;
    while (taken_ < points_.clusters) {
      CLIPCID_TRY(block());
      share(static_cast<double>(taken_) / static_cast<double>(points_.clusters));
    }
    return {};
  }

 private:
  double weight(int64_t at) const {
    return weights_ == nullptr ? points_.weight(at) : (*weights_)[static_cast<size_t>(at)];
  }
  uint64_t number(uint64_t stream) const {
    return philox64(seed_, stream, (static_cast<uint64_t>(points_.element) << 32) + drawn_);
  }

  // The rows at these places are the next centres.
  Status take(const std::vector<int64_t>& places) {
    std::vector<int64_t> rows;
    for (const int64_t at : places) {
      chosen_[static_cast<size_t>(at)] = true;
      rows.push_back(nearest_.row(at));
    }
    const auto count = static_cast<int64_t>(places.size());
    float* out = centroids_ + taken_ * points_.dim();
    CLIPCID_TRY(gatherRows(points_, rows.data(), count, out));
    taken_ += count;
    // Nobody asks for the distance to the last ones.
    return taken_ < points_.clusters ? nearest_.add(out, count) : Status();
  }

  Status takeUnchosen() {
    std::vector<int64_t> places;
    for (int64_t at = 0; taken_ + static_cast<int64_t>(places.size()) < points_.clusters; ++at) {
      if (!chosen_[static_cast<size_t>(at)]) places.push_back(at);
    }
    return take(places);
  }

  Status block() {
    const auto p = [&](int64_t at) { return weight(at) * nearest_.square(at); };
    Draw draw;
    CLIPCID_TRY(Draw::make(points_, nearest_.count(), p, &draw));
    if (draw.total() == 0) return takeUnchosen();
    const int64_t size =
        std::min({std::max<int64_t>(1, taken_ / kBlockShare), kMostBlock, points_.clusters - taken_});
    std::vector<int64_t> places;
    std::vector<uint64_t> shares;
    for (int64_t n = 0; n < size; ++n, ++drawn_) {
      const int64_t at = draw.find(scaleDraw(number(drawStream_), draw.total()), p);
      places.push_back(at);
      const auto whole = static_cast<uint64_t>(toFixed(p(at), draw.scale()));
      shares.push_back(scaleDraw(number(acceptStream_), whole));
    }
    std::vector<double> euclids;
    CLIPCID_TRY(compareDrawn(places, &euclids));
    std::vector<size_t> accepted;
    std::vector<int64_t> next;
    for (size_t n = 0; n < places.size(); ++n) {
      double square = nearest_.square(places[n]);
      for (const size_t other : accepted)
        square = std::min(square, points_.square(nearest_.row(places[n]), euclids[n * (n - 1) / 2 + other]));
      const int64_t left = toFixed(weight(places[n]) * square, draw.scale());
      if (shares[n] >= static_cast<uint64_t>(left)) continue;
      accepted.push_back(n);
      next.push_back(places[n]);
    }
    return take(next);
  }

  // euclid(n-th drawn, m-th drawn) for m < n, at n (n - 1) / 2 + m.
  Status compareDrawn(const std::vector<int64_t>& places, std::vector<double>* euclids) {
    const size_t count = places.size();
    if (count == 1) return {};
    std::vector<int64_t> rows;
    for (const int64_t at : places) rows.push_back(nearest_.row(at));
    const int64_t dim = points_.dim();
    std::vector<float> gathered(count * static_cast<size_t>(dim));
    CLIPCID_TRY(gatherRows(points_, rows.data(), static_cast<int64_t>(count), gathered.data()));
    std::unique_ptr<Prepared> drawn;
    CLIPCID_TRY(points_.backend.prepare(
        points_.context, {.rows = Rows(floatView(gathered.data(), static_cast<int64_t>(count), dim))},
        &drawn));
    std::vector<Pair> pairs;
    for (size_t n = 1; n < count; ++n) {
      for (size_t m = 0; m < n; ++m) pairs.push_back({static_cast<int32_t>(n), static_cast<int32_t>(m)});
    }
    euclids->resize(pairs.size());
    CLIPCID_TRY(points_.backend.pairDots(points_.context, {.queries = drawn.get(),
                                                           .keys = drawn.get(),
                                                           .pairs = pairs.data(),
                                                           .count = static_cast<int64_t>(pairs.size()),
                                                           .dots = euclids->data()}));
    CLIPCID_TRY(points_.backend.synchronise(points_.context));
    for (size_t at = 0; at < pairs.size(); ++at)
      (*euclids)[at] -= drawn->squares[static_cast<size_t>(pairs[at].second)] / 2;
    return {};
  }

  const Points& points_;
  const std::vector<double>* weights_;
  Nearest nearest_;
  const uint64_t seed_, drawStream_, acceptStream_;
  std::vector<bool> chosen_;
  float* centroids_ = nullptr;
  int64_t taken_ = 0;
  uint64_t drawn_ = 0;
};

// The candidates of k-means||, in their order.
Status chooseCandidates(const Points& points, uint64_t seed, const Share& share, Nearest* nearest,
                        std::vector<int64_t>* candidates) {
  const int64_t count = points.count(), dim = points.dim();
  const auto first = static_cast<uint64_t>(points.element) * static_cast<uint64_t>(kRounds * count + 1);
  std::vector<float> rows;
  const auto add = [&](size_t from) -> Status {
    for (size_t at = from; at < candidates->size(); at += kKeys) {
      const int64_t number = std::min<int64_t>(kKeys, static_cast<int64_t>(candidates->size() - at));
      rows.resize(static_cast<size_t>(number * dim));
      CLIPCID_TRY(gatherRows(points, candidates->data() + at, number, rows.data()));
      CLIPCID_TRY(nearest->add(rows.data(), number));
    }
    return {};
  };
  const auto byWeight = [&](int64_t i) { return points.weight(i); };
  Draw draw;
  CLIPCID_TRY(Draw::make(points, count, byWeight, &draw));
  candidates->push_back(
      draw.find(scaleDraw(philox64(seed, kPhiloxKmeansOversample, first), draw.total()), byWeight));
  CLIPCID_TRY(add(0));
  const auto p = [&](int64_t i) { return points.weight(i) * nearest->square(i); };
  for (int64_t round = 0; round < kRounds; ++round) {
    CLIPCID_TRY(Draw::make(points, count, p, &draw));
    if (draw.total() == 0) break;
    const uint64_t base = first + 1 + static_cast<uint64_t>(round * count);
    std::vector<int64_t> found;
    CLIPCID_TRY(selectRows(
        points,
        [&](int64_t i) {
          const auto share = static_cast<uint64_t>(toFixed(p(i), draw.scale()));
          if (share == 0) return false;
          const uint64_t u = philox64(seed, kPhiloxKmeansOversample, base + static_cast<uint64_t>(i));
          return static_cast<unsigned __int128>(scaleDraw(u, draw.total())) <
                 static_cast<unsigned __int128>(share) * static_cast<uint64_t>(points.clusters);
        },
        &found));
    const size_t from = candidates->size();
    candidates->insert(candidates->end(), found.begin(), found.end());
    CLIPCID_TRY(add(from));
    share(static_cast<double>(round + 1) / static_cast<double>(kRounds + 1));
  }
  return {};
}

}  // namespace

Status chooseRandom(const Points& points, uint64_t seed, float* centroids) {
  const std::vector<int64_t> rows = randomOrder(points, seed, points.clusters);
  return gatherRows(points, rows.data(), points.clusters, centroids);
}

Status choosePlusPlus(const Points& points, uint64_t seed, const Share& share, float* centroids) {
  return PlusPlus(points, nullptr, nullptr, seed, kPhiloxKmeansPlusPlus, kPhiloxKmeansAccept)
      .run(share, centroids);
}

Status chooseParallel(const Points& points, uint64_t seed, const Share& share, float* centroids) {
  const int64_t count = points.count();
  std::vector<int64_t> candidates;
  std::vector<double> weights;
  {
    Nearest nearest(points, nullptr);
    CLIPCID_TRY(chooseCandidates(points, seed, share, &nearest, &candidates));
    const double scale = points.weightScale();
    std::vector<int64_t> sums(candidates.size(), 0);
    for (int64_t i = 0; i < count; ++i)
      sums[static_cast<size_t>(nearest.nearest(i))] += toFixed(points.weight(i), scale);
    for (const int64_t sum : sums) weights.push_back(static_cast<double>(sum) / scale);
  }
  const auto found = static_cast<int64_t>(candidates.size());
  if (found < points.clusters) {
    std::vector<bool> is(static_cast<size_t>(count), false);
    for (const int64_t i : candidates) is[static_cast<size_t>(i)] = true;
    for (const int64_t i : randomOrder(points, seed, count)) {
      if (static_cast<int64_t>(candidates.size()) == points.clusters) break;
      if (!is[static_cast<size_t>(i)]) candidates.push_back(i);
    }
    return gatherRows(points, candidates.data(), points.clusters, centroids);
  }
  std::vector<std::pair<int64_t, double>> ascending;
  for (size_t at = 0; at < candidates.size(); ++at) ascending.emplace_back(candidates[at], weights[at]);
  std::sort(ascending.begin(), ascending.end());
  for (size_t at = 0; at < candidates.size(); ++at) std::tie(candidates[at], weights[at]) = ascending[at];
  return PlusPlus(points, &candidates, &weights, seed, kPhiloxKmeansReduce, kPhiloxKmeansReduceAccept)
      .run([](double) {}, centroids);
}

}  // namespace clipcid
