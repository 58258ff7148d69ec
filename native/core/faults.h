#pragma once

#include <string>

#include "clipcid/backend.h"

namespace clipcid {

// kInvalidData for the first faulty row. `name` is the matrix's, `offset` the index of its row 0 in it.
inline Status requireSound(const Prepared& rows, const std::string& name, int64_t offset) {
  if (rows.faults.empty()) return {};
  return {Code::kInvalidData, "Row " + std::to_string(offset + rows.faults.front()) + " of " + name + " is " +
                                  (rows.unit ? "zero, NaN or infinite" : "NaN or infinite")};
}

}  // namespace clipcid
