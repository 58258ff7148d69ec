#include "core/nearest.h"

#include "core/faults.h"

namespace clipcid {

Status nearest(Backend& backend, const Context& context, const NearestArgs& args) {
  const int64_t queryCount = args.queries.count();
  if (args.k > args.base.count()) {
    return {Code::kInvalidArgument, "Expected at most " + std::to_string(args.base.count()) +
                                        ", the rows of the base, for k but received " +
                                        std::to_string(args.k)};
  }
  if (args.queries.dim() != args.base.dim()) {
    return {Code::kInvalidArgument, "Expected queries and base of one width"};
  }
  std::unique_ptr<Prepared> queries, base;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.queries, .unit = args.cosine}, &queries));
  CLIPCID_TRY(requireSound(*queries, "queries", 0));
  CLIPCID_TRY(backend.prepare(context, {.rows = args.base, .unit = args.cosine}, &base));
  CLIPCID_TRY(requireSound(*base, "base", 0));
  if (queryCount == 0) return {};
  std::vector<double> scores(static_cast<size_t>(queryCount * args.k));
  CLIPCID_TRY(backend.topK(context, {.queries = queries.get(),
                                     .keys = base.get(),
                                     .k = args.k,
                                     .indices = args.indices,
                                     .scores = scores.data()}));
  CLIPCID_TRY(backend.synchronise(context));
  for (size_t at = 0; at < scores.size(); ++at) args.scores[at] = static_cast<float>(scores[at]);
  return {};
}

}  // namespace clipcid
