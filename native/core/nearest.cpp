#include "core/nearest.h"

#include <algorithm>

#include "core/faults.h"

namespace clipcid {
namespace {

// Scores come as float64, and there may be more of them than memory should hold.
constexpr int64_t kScoresAtOnce = 8 << 20;

// `selection` but for the range of queries and the outputs.
Status selectRanges(Backend& backend, const Context& context, TopKArgs selection, int32_t* indices,
                    float* scores) {
  const int64_t queries = selection.queries->rows, k = selection.k;
  const int64_t range = std::clamp<int64_t>(kScoresAtOnce / k, 1, std::max<int64_t>(queries, 1));
  std::vector<double> wide(static_cast<size_t>(range * k));
  selection.scores = wide.data();
  for (int64_t begin = 0; begin < queries; begin += range) {
    selection.begin = begin;
    selection.count = std::min(range, queries - begin);
    selection.indices = indices + begin * k;
    Context part = context;
    if (context.progress) {
      part.progress = [&](double done, double total) {
        const double share = done / total * static_cast<double>(selection.count);
        context.progress(static_cast<double>(begin) + share, static_cast<double>(queries));
      };
    }
    CLIPCID_TRY(backend.topK(part, selection));
    CLIPCID_TRY(backend.synchronise(part));
    for (int64_t at = 0; at < selection.count * k; ++at)
      scores[begin * k + at] = static_cast<float>(wide[static_cast<size_t>(at)]);
  }
  return {};
}

Status requireAtMost(int64_t k, int64_t most, const char* what) {
  if (k >= 1 && k <= most) return {};
  return {Code::kInvalidArgument, "Expected at most " + std::to_string(most) + ", " + what +
                                      ", for k but received " + std::to_string(k)};
}

}  // namespace

Status nearest(Backend& backend, const Context& context, const NearestArgs& args) {
  CLIPCID_TRY(requireAtMost(args.k, args.base.count(), "the rows of the base"));
  if (args.queries.dim() != args.base.dim()) {
    return {Code::kInvalidArgument, "Expected queries and base of one width"};
  }
  std::unique_ptr<Prepared> queries, base;
  CLIPCID_TRY(
      backend.prepare(context, {.rows = args.queries, .unit = args.cosine, .squares = false}, &queries));
  CLIPCID_TRY(requireSound(*queries, "queries", 0));
  CLIPCID_TRY(backend.prepare(context, {.rows = args.base, .unit = args.cosine, .squares = false}, &base));
  CLIPCID_TRY(requireSound(*base, "base", 0));
  return selectRanges(backend, context,
                      {.queries = queries.get(), .keys = base.get(), .k = args.k, .plan = args.plan},
                      args.indices, args.scores);
}

Status nearestProduct(Backend& backend, const Context& context, const NearestProductArgs& args) {
  CLIPCID_TRY(requireAtMost(args.k, args.images.count() - (args.self ? 1 : 0),
                            args.self ? "the other pairs" : "the pairs of the base"));
  if (args.texts.count() != args.images.count()) {
    return {Code::kInvalidArgument, "Expected as many texts as images"};
  }
  std::unique_ptr<Prepared> queryImages, queryTexts, images, texts;
  if (!args.self) {
    if (args.queryTexts.count() != args.queryImages.count()) {
      return {Code::kInvalidArgument, "Expected as many texts as images of the queries"};
    }
    if (args.queryImages.dim() != args.images.dim() || args.queryTexts.dim() != args.texts.dim()) {
      return {Code::kInvalidArgument, "Expected queries and base of one width"};
    }
    CLIPCID_TRY(
        backend.prepare(context, {.rows = args.queryImages, .unit = true, .squares = false}, &queryImages));
    CLIPCID_TRY(requireSound(*queryImages, "queries.images", 0));
    CLIPCID_TRY(
        backend.prepare(context, {.rows = args.queryTexts, .unit = true, .squares = false}, &queryTexts));
    CLIPCID_TRY(requireSound(*queryTexts, "queries.texts", 0));
  }
  CLIPCID_TRY(backend.prepare(context, {.rows = args.images, .unit = true, .squares = false}, &images));
  CLIPCID_TRY(requireSound(*images, "images", 0));
  CLIPCID_TRY(backend.prepare(context, {.rows = args.texts, .unit = true, .squares = false}, &texts));
  CLIPCID_TRY(requireSound(*texts, "texts", 0));
  return selectRanges(backend, context,
                      {.queries = args.self ? images.get() : queryImages.get(),
                       .keys = images.get(),
                       .secondQueries = args.self ? texts.get() : queryTexts.get(),
                       .secondKeys = texts.get(),
                       .cutoff = args.cutoff,
                       .skipSelf = args.self,
                       .k = args.k,
                       .plan = args.plan},
                      args.indices, args.scores);
}

}  // namespace clipcid
