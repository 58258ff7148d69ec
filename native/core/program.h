// A program: a flat list of operations over a few spaces of memory, checked once. What it is made from comes from
// outside (ts/src/program/native), so nothing in it is believed: every operand's reach is held against its space.
//
// The code of a program is a list of numbers: for each operation its kind (an index into operationNames), the number of
// numbers that follow, and these, in the order in which core/program_operations.cpp reads them. An operand is three of
// them: space, byte offset, and bytes from one part to the next; space -1 is a null pointer.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "clipcid/program.h"

namespace clipcid {

// Where operands lie.
// kOwn is memory of the thread that runs a part of a phase apart.
enum class Space : uint8_t { kArena, kParameters, kGradients, kConstants, kOwn };
constexpr int kSpaces = 5;

// One pointer of an operation's arguments.
struct Operand {
  uint16_t field = 0;  // bytes from the beginning of the arguments
  Space space = Space::kArena;
  int64_t offset = 0, step = 0;  // bytes
};

struct Instruction {
  Operation operation;
  std::vector<Operand> operands;
};

// Operations [begin, end), run for each of `parts` parts of the batch before the next phase begins; `apart`: by several
// threads at the same time, a part on one of them.
struct Phase {
  int64_t begin = 0, end = 0, parts = 1;
  bool apart = false;
};

class Program {
 public:
  // In the order of their numbers.
  static const std::vector<std::string>& operationNames();

  // `bytes` by space. `phases` cover the operations in order.
  static Status load(const double* code, size_t length, const std::array<int64_t, kSpaces>& bytes,
                     std::vector<Phase> phases, Program* out);

  // Runs phases [begin, end). The space kOwn begins with the first lane's (Queue::each); the others' follow.
  Status run(Queue& queue, const std::array<char*, kSpaces>& spaces, size_t begin, size_t end) const;

  size_t phases() const { return phases_.size(); }

 private:
  Status runPart(Queue& queue, const std::array<char*, kSpaces>& spaces, const Phase& phase,
                 int64_t part) const;

  int64_t ownBytes_ = 0;
  std::vector<Instruction> instructions_;
  std::vector<Phase> phases_;
};

}  // namespace clipcid
