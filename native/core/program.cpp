#include "core/program.h"

#include <cstring>

#include "core/program_reader.h"

namespace clipcid {
namespace {

// An operation of the variant's index-th kind.
template <size_t index = 0>
Operation operationOf(size_t kind) {
  if constexpr (index < std::variant_size_v<Operation>) {
    if (kind == index) return Operation(std::in_place_index<index>);
    return operationOf<index + 1>(kind);
  } else {
    return {};
  }
}

Status damaged(size_t at, const std::string& why) {
  return {Code::kInternal, "Operation " + std::to_string(at) + " of a program is wrong: " + why};
}

}  // namespace

const std::vector<std::string>& Program::operationNames() {
  // As the variant has them.
  static const std::vector<std::string> names = {"chain",
                                                 "product",
                                                 "pack",
                                                 "layerNorm",
                                                 "layerNormGradient",
                                                 "attention",
                                                 "attentionGradient",
                                                 "softmax",
                                                 "softmaxGradient",
                                                 "reduce",
                                                 "argument",
                                                 "copy",
                                                 "fill",
                                                 "gather",
                                                 "scatter",
                                                 "conv",
                                                 "convInputGradient",
                                                 "convWeightGradient",
                                                 "batchNorm",
                                                 "batchNormGradient",
                                                 "maxPool",
                                                 "maxPoolGradient",
                                                 "averagePool",
                                                 "averagePoolGradient"};
  return names;
}

Status Program::load(const double* code, size_t length, const std::array<int64_t, kSpaces>& bytes,
                     std::vector<Phase> phases, Program* out) {
  Program program;
  size_t at = 0;
  int64_t covered = 0;
  for (const Phase& phase : phases) {
    if (phase.begin != covered || phase.end < phase.begin || phase.parts < 1 || phase.parts > 1 << 20)
      return {Code::kInternal, "The phases of a program don't cover it"};
    covered = phase.end;
    for (int64_t index = phase.begin; index < phase.end; ++index) {
      const size_t number = program.instructions_.size();
      if (length - at < 2) return damaged(number, "it is missing");
      const double kind = code[at], count = code[at + 1];
      at += 2;
      if (!(kind >= 0 && kind < static_cast<double>(std::variant_size_v<Operation>)))
        return damaged(number, "there is no such kind");
      if (!(count >= 0 && count <= static_cast<double>(length - at))) return damaged(number, "it is cut off");
      Instruction instruction{operationOf(static_cast<size_t>(kind)), {}};
      std::string error;
      std::visit(
          [&](auto& args) {
            Reader reader(code + at, static_cast<size_t>(count), bytes, phase.parts, &args,
                          &instruction.operands);
            read(reader, args);
            if (!reader.ok()) error = reader.error();
          },
          instruction.operation);
      if (!error.empty()) return damaged(number, error);
      at += static_cast<size_t>(count);
      program.instructions_.push_back(std::move(instruction));
    }
  }
  if (at != length) return {Code::kInternal, "The phases of a program don't cover it"};
  program.phases_ = std::move(phases);
  program.ownBytes_ = bytes[static_cast<size_t>(Space::kOwn)];
  *out = std::move(program);
  return {};
}

Status Program::run(Queue& queue, const std::array<char*, kSpaces>& spaces, size_t begin, size_t end) const {
  for (size_t index = begin; index < end; ++index) {
    const Phase& phase = phases_[index];
    if (phase.apart) {
      CLIPCID_TRY(queue.each(phase.parts, [&](int64_t part, int lane, Queue& own) {
        std::array<char*, kSpaces> at = spaces;
        at[static_cast<size_t>(Space::kOwn)] += lane * ownBytes_;
        return runPart(own, at, phase, part);
      }));
      continue;
    }
    for (int64_t part = 0; part < phase.parts; ++part) CLIPCID_TRY(runPart(queue, spaces, phase, part));
  }
  return {};
}

Status Program::runPart(Queue& queue, const std::array<char*, kSpaces>& spaces, const Phase& phase,
                        int64_t part) const {
  for (int64_t at = phase.begin; at < phase.end; ++at) {
    const Instruction& instruction = instructions_[static_cast<size_t>(at)];
    Operation operation = instruction.operation;
    std::visit(
        [&](auto& args) {
          for (const Operand& operand : instruction.operands) {
            char* pointer = spaces[static_cast<size_t>(operand.space)] + operand.offset + part * operand.step;
            memcpy(reinterpret_cast<char*>(&args) + operand.field, &pointer, sizeof pointer);
          }
        },
        operation);
    CLIPCID_TRY(queue.run(operation));
  }
  return {};
}

}  // namespace clipcid
