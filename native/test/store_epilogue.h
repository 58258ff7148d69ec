// An epilogue for tests of mainloops: writes scores as they are.
#pragma once

#include "check.h"
#include "cuda/mainloop.h"

namespace clipcid::test {

using cuda::TileAt;

struct StoreParams {
  double* out;  // [problems, queries, keys]
  int64_t queries, keys;
  bool zeros = true;  // rows that do not exist have scores of zeros
};
template <typename Fragment, typename Team>
class StoreEpilogue {
 public:
  using Params = StoreParams;
  static constexpr int kSharedBytes = 0;
  StoreEpilogue(const Params& params, char*, Team) : params_(params) {}
  void begin(const TileAt&) {}
  void start(Fragment& scores, const TileAt&) { scores.clear(); }
  void finish(const TileAt&) {}
  void visit(const Fragment& scores, const TileAt& at) {
    for (int r = 0; r < Fragment::kRows; ++r) {
      for (int c = 0; c < Fragment::kColumns; ++c) {
        if (scores.row(r) >= at.rows || scores.column(c) >= at.columns) {
          if (params_.zeros) CHECK(scores.at(r, c) == 0);
          continue;
        }
        params_.out[(at.problem * params_.queries + at.row + scores.row(r)) * params_.keys + at.column +
                    scores.column(c)] = static_cast<double>(scores.at(r, c));
      }
    }
  }

 private:
  const Params& params_;
};

}  // namespace clipcid::test
