#include "core/pairs.h"

namespace clipcid {

Status findPairs(Backend& backend, const Context& context, const PairsArgs& args) {
  if (args.hasBase && args.rows.dim() != args.base.dim()) {
    return {Code::kInvalidArgument, "Expected rows and base of one width"};
  }
  if (args.rows.count() == 0 || (args.hasBase && args.base.count() == 0)) return {};
  std::unique_ptr<Prepared> rows, base;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.rows, .unit = true}, &rows));
  if (args.hasBase) CLIPCID_TRY(backend.prepare(context, {.rows = args.base, .unit = true}, &base));
  CLIPCID_TRY(backend.join(context, {.queries = rows.get(),
                                     .keys = args.hasBase ? base.get() : rows.get(),
                                     .threshold = args.threshold,
                                     .dots = true,
                                     .sink = args.sink,
                                     .plan = args.plan}));
  return backend.synchronise(context);
}

}  // namespace clipcid
