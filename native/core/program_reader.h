// Reads the numbers of one operation, and holds its operands against their spaces.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/program.h"

namespace clipcid {

// An amount of elements or bytes that does not wrap: too much stays too much.
class Extent {
 public:
  constexpr Extent(int64_t value = 0) : value_(value) {}  // NOLINT: as a number
  int64_t value() const { return value_; }
  Extent operator*(Extent other) const {
    int64_t result;
    const bool wraps = __builtin_mul_overflow(value_, other.value_, &result);
    return wraps ? Extent(kMost) : Extent(result);
  }
  Extent operator+(Extent other) const {
    int64_t result;
    const bool wraps = __builtin_add_overflow(value_, other.value_, &result);
    return wraps ? Extent(kMost) : Extent(result);
  }

 private:
  static constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  int64_t value_;
};

class Reader {
 public:
  Reader(const double* numbers, size_t length, const std::array<int64_t, kSpaces>& bytes, int64_t parts,
         const void* arguments, std::vector<Operand>* operands)
      : numbers_(numbers),
        length_(length),
        bytes_(bytes),
        parts_(parts),
        arguments_(static_cast<const char*>(arguments)),
        operands_(operands) {}

  bool fine() const { return error_.empty(); }
  bool ok() const { return error_.empty() && at_ == length_; }
  std::string error() const { return error_.empty() ? "it has numbers left over" : error_; }
  void fail(const char* why) {
    if (error_.empty()) error_ = why;
  }
  void require(bool condition, const char* why) {
    if (!condition) fail(why);
  }

  double real() {
    if (at_ < length_) return numbers_[at_++];
    fail("it has too few numbers");
    return 0;
  }
  float number() { return static_cast<float>(real()); }
  int64_t integer(int64_t least, int64_t most) {
    const double value = real();
    if (value >= static_cast<double>(least) && value <= static_cast<double>(most) &&
        value == std::floor(value))
      return static_cast<int64_t>(value);
    fail("a size is out of range");
    return least;
  }
  // A number of elements, at least one.
  int64_t size() { return integer(1, int64_t{1} << 40); }
  int64_t stride() { return integer(0, int64_t{1} << 40); }
  bool flag() { return integer(0, 1) == 1; }
  template <typename E>
  E choice(E last) {
    return static_cast<E>(integer(0, static_cast<int64_t>(last)));
  }

  // The next operand, of which `elements` elements are reached from where it begins. Null where `optional` allows it.
  // What is written may not be parameters' or constants' unless it is `resident`.
  template <typename T>
  void operand(T*& field, Extent elements, bool optional = false, bool resident = false) {
    operandOf(reinterpret_cast<const void*>(&field), elements * Extent(sizeof(T)), alignof(T),
              std::is_const_v<T>, optional, resident);
  }
  // One that this operation only reads, though others write it.
  template <typename T>
  void readOnly(T*& field, Extent elements) {
    operandOf(reinterpret_cast<const void*>(&field), elements * Extent(sizeof(T)), alignof(T), true, false,
              false);
  }
  template <typename T>
  void untyped(T*& field, Extent elements, ElementType type) {
    const int64_t bytes = elementSize(type);
    operandOf(reinterpret_cast<const void*>(&field), elements * Extent(bytes), bytes, std::is_const_v<T>,
              false, true);
  }
  // Whether the operand read last is null.
  bool null() const { return null_; }

 private:
  void operandOf(const void* field, Extent bytes, int64_t alignment, bool reads, bool optional,
                 bool resident) {
    const int64_t space = integer(-1, kSpaces - 1);
    const int64_t offset = integer(0, int64_t{1} << 50), step = integer(0, int64_t{1} << 50);
    null_ = space < 0;
    if (null_) return require(optional, "an operand is missing");
    require(offset % alignment == 0 && step % alignment == 0, "an operand is not aligned");
    const Extent end = Extent(offset) + Extent(parts_ - 1) * Extent(step) + bytes;
    if (error_.empty())
      require(end.value() <= bytes_[static_cast<size_t>(space)], "an operand reaches beyond its memory");
    const auto kind = static_cast<Space>(space);
    require(reads || kind != Space::kConstants, "a constant is written");
    require(reads || resident || kind != Space::kParameters, "a parameter is written");
    Operand operand;
    operand.field = static_cast<uint16_t>(static_cast<const char*>(field) - arguments_);
    operand.space = kind;
    operand.offset = offset;
    operand.step = step;
    operands_->push_back(operand);
  }

  const double* numbers_;
  size_t length_;
  size_t at_ = 0;
  const std::array<int64_t, kSpaces>& bytes_;
  int64_t parts_;
  const char* arguments_;
  std::vector<Operand>* operands_;
  bool null_ = false;
  std::string error_;
};

// One for each operation; see core/program_operations.cpp and core/program_images.cpp.
void read(Reader& reader, ChainArgs& args);
void read(Reader& reader, ProductArgs& args);
void read(Reader& reader, PackArgs& args);
void read(Reader& reader, LayerNormArgs& args);
void read(Reader& reader, LayerNormGradientArgs& args);
void read(Reader& reader, AttentionArgs& args);
void read(Reader& reader, AttentionGradientArgs& args);
void read(Reader& reader, SoftmaxRowsArgs& args);
void read(Reader& reader, SoftmaxRowsGradientArgs& args);
void read(Reader& reader, ReduceArgs& args);
void read(Reader& reader, ArgumentArgs& args);
void read(Reader& reader, CopyArgs& args);
void read(Reader& reader, FillArgs& args);
void read(Reader& reader, GatherRowsArgs& args);
void read(Reader& reader, ScatterRowsArgs& args);
void read(Reader& reader, ConvArgs& args);
void read(Reader& reader, ConvInputGradientArgs& args);
void read(Reader& reader, ConvWeightGradientArgs& args);
void read(Reader& reader, BatchNormArgs& args);
void read(Reader& reader, BatchNormGradientArgs& args);
void read(Reader& reader, MaxPoolArgs& args);
void read(Reader& reader, MaxPoolGradientArgs& args);
void read(Reader& reader, AveragePoolArgs& args);
void read(Reader& reader, AveragePoolGradientArgs& args);

}  // namespace clipcid
