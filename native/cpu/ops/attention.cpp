// Attention: a task for each item and head (simd_attention.inc).
#include "cpu/ops/ops.h"
#include "cpu/ops/simd.h"

namespace clipcid {

Status run(Team& team, const AttentionArgs& args) {
  team.own(simd().attentionFloats(args.shape, false));
  team.each(args.shape.batch * args.shape.heads, [&](int64_t index, int worker) {
    simd().attention(args, index / args.shape.heads, index % args.shape.heads, team.of(worker));
  });
  return {};
}

Status run(Team& team, const AttentionGradientArgs& args) {
  team.own(simd().attentionFloats(args.shape, true));
  team.each(args.shape.batch * args.shape.heads, [&](int64_t index, int worker) {
    simd().attentionGradient(args, index / args.shape.heads, index % args.shape.heads, team.of(worker));
  });
  return {};
}

}  // namespace clipcid
