// wgmma; hopper.h says what it rests on.
#include <cmath>
#include <deque>
#include <map>

#include "clipcid/canonical.h"
#include "cuda/ptx.cuh"
#include "emulator/guarded.h"
#include "emulator/options.h"
#include "emulator/tensor_core.h"

namespace clipcid::emulator {
namespace {

constexpr int kRowsOfWarp = 16;

// A matrix in shared memory, by its descriptor.
struct Operand {
  const char* shared;
  size_t sharedBytes;
  uint32_t address, atomDistance;

  Operand(uint64_t descriptor, const std::source_location& where)
      : shared(self().block->shared),
        sharedBytes(self().block->sharedBytes),
        address(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        atomDistance(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4) {
    if (descriptor >> 62 != 1)
      fault("a matrix descriptor of another layout than the 128-byte swizzle", where);
    if ((descriptor >> 49 & 7) != 0) fault("a matrix descriptor with a base offset", where);
    if ((descriptor & 0x3ff1'c000'c000'c000) != 0)
      fault("a matrix descriptor with bits that mean nothing", where);
    if (address % 1024 >= 128) fault("a matrix that does not begin in the first row of an atom", where);
  }
  // 16 bytes of a row, `chunk` 0 or 1 from the operand's first byte on.
  const char* at(int row, int chunk, const std::source_location& where) const {
    const uint32_t plain = address + static_cast<uint32_t>(row / 8) * atomDistance +
                           static_cast<uint32_t>(row % 8 * 128 + chunk * 16);
    const uint32_t turned = plain ^ (plain >> 7 & 7) << 4;
    if (turned < kSharedWindow || turned + 16 > kSharedWindow + sharedBytes)
      fault("a matrix that lies outside of shared memory", where);
    return shared + (turned - kSharedWindow);
  }
};

struct Issued {
  uint64_t a, b;
  int columns;
  bool integers;

  bool operator==(const Issued&) const = default;
};

// A product of a warp: 16 rows of the sums of its warpgroup.
struct Product {
  Issued what;
  int warp;  // of its warpgroup
  std::array<void*, kWarp> sums;
  std::source_location where;
};

// What the registers of a warp's sums are to hold: they are poison while products are under way.
using Values = std::vector<uint32_t>;

struct WarpProducts {
  bool fenced = false;
  size_t issued = 0;
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
  std::map<void*, Values> values;  // by the first lane's registers
};

struct Products {
  std::map<int, WarpProducts> warps;
  std::map<int, std::vector<Issued>> warpgroups;  // in order: all warps of one issue the same

  ~Products() {
    for (const auto& [warp, state] : warps) {
      if (!state.open.empty() || !state.groups.empty())
        fault("a kernel ended before all of its products were waited for");
    }
  }
};

Products& products() { return self().group->extension<Products>(); }
WarpProducts& warpProducts() { return products().warps[self().warp]; }

Values readRegisters(const Product& product) {
  const size_t each = static_cast<size_t>(product.what.columns) / 2;
  Values values(kWarp * each);
  for (size_t lane = 0; lane < kWarp; ++lane)
    memcpy(&values[lane * each], product.sums[lane], each * sizeof(uint32_t));
  return values;
}

void writeRegisters(const Product& product, const Values& values) {
  const size_t each = static_cast<size_t>(product.what.columns) / 2;
  for (size_t lane = 0; lane < kWarp; ++lane)
    memcpy(product.sums[lane], &values[lane * each], each * sizeof(uint32_t));
}

// Calls visit(row, column, value) for the values of a warp.
template <typename T, typename Visit>
void eachValue(const Product& product, Values& values, Visit&& visit) {
  const int each = product.what.columns / 2;
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < each; ++i) {
      uint32_t& word = values[static_cast<size_t>(lane * each + i)];
      T value;
      memcpy(&value, &word, 4);
      visit(lane / 4 + i % 4 / 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2, value);
      memcpy(&word, &value, 4);
    }
  }
}

void multiplyFloats(const Product& product, const Operand& a, const Operand& b, Values& values) {
  constexpr int kDepth = 16;
  const auto columns = static_cast<size_t>(product.what.columns);
  float left[kRowsOfWarp][kDepth];
  std::vector<std::array<float, kDepth>> right(columns);
  const auto widen = [&](const Operand& from, int row, float* to) {
    for (int chunk = 0; chunk < 2; ++chunk) {
      uint16_t halves[8];
      memcpy(halves, from.at(row, chunk, product.where), 16);
      for (int k = 0; k < 8; ++k) to[chunk * 8 + k] = widenFloat16(halves[k]);
    }
  };
  for (int row = 0; row < kRowsOfWarp; ++row) widen(a, product.warp * kRowsOfWarp + row, left[row]);
  for (size_t column = 0; column < columns; ++column)
    widen(b, static_cast<int>(column), right[column].data());
  if (options().rounding != Rounding::kExact) {
    eachValue<float>(product, values, [&](int row, int column, float& value) {
      value = dotAdd(value, left[row], right[static_cast<size_t>(column)].data(), kDepth);
    });
    return;
  }
  // The same sums as dotAdd's, for all columns at once.
  std::vector<double> sums(kRowsOfWarp * columns), turned(kDepth * columns);
  for (size_t column = 0; column < columns; ++column) {
    for (size_t k = 0; k < kDepth; ++k) turned[k * columns + column] = static_cast<double>(right[column][k]);
  }
  eachValue<float>(product, values, [&](int row, int column, const float& value) {
    sums[static_cast<size_t>(row) * columns + static_cast<size_t>(column)] = static_cast<double>(value);
  });
  for (size_t row = 0; row < kRowsOfWarp; ++row) {
    for (size_t k = 0; k < kDepth; ++k) {
      const auto x = static_cast<double>(left[row][k]);
      for (size_t column = 0; column < columns; ++column)
        sums[row * columns + column] += x * turned[k * columns + column];
    }
  }
  eachValue<float>(product, values, [&](int row, int column, float& value) {
    value = static_cast<float>(sums[static_cast<size_t>(row) * columns + static_cast<size_t>(column)]);
  });
}

void multiplyIntegers(const Product& product, const Operand& a, const Operand& b, Values& values) {
  constexpr int kDepth = 32;
  const auto columns = static_cast<size_t>(product.what.columns);
  int8_t left[kRowsOfWarp][kDepth];
  std::vector<int> sums(kRowsOfWarp * columns), turned(kDepth * columns);
  for (int row = 0; row < kRowsOfWarp; ++row) {
    for (int chunk = 0; chunk < 2; ++chunk)
      memcpy(&left[row][chunk * 16], a.at(product.warp * kRowsOfWarp + row, chunk, product.where), 16);
  }
  for (size_t column = 0; column < columns; ++column) {
    for (size_t chunk = 0; chunk < 2; ++chunk) {
      int8_t bytes[16];
      memcpy(bytes, b.at(static_cast<int>(column), static_cast<int>(chunk), product.where), 16);
      for (size_t k = 0; k < 16; ++k) turned[(chunk * 16 + k) * columns + column] = bytes[k];
    }
  }
  for (size_t row = 0; row < kRowsOfWarp; ++row) {
    for (size_t k = 0; k < kDepth; ++k) {
      const int x = left[row][k];
      for (size_t column = 0; column < columns; ++column)
        sums[row * columns + column] += x * turned[k * columns + column];
    }
  }
  eachValue<int>(product, values, [&](int row, int column, int& value) {
    value += sums[static_cast<size_t>(row) * columns + static_cast<size_t>(column)];
  });
}

void perform(const Product& product, Values& values) {
  const Operand a(product.what.a, product.where), b(product.what.b, product.where);
  if (product.what.integers) {
    multiplyIntegers(product, a, b, values);
  } else {
    multiplyFloats(product, a, b, values);
  }
}

// For all lanes of a warp.
void issue(const Product& product) {
  WarpProducts& warp = warpProducts();
  auto& order = products().warpgroups[self().warp / 4];
  if (order.size() == warp.issued) {
    order.push_back(product.what);
  } else if (!(order[warp.issued] == product.what)) {
    fault("the warps of a warpgroup issue different products", product.where);
  }
  ++warp.issued;
  Values now = readRegisters(product);
  const auto known = warp.values.find(product.sums[0]);
  const bool underWay = options().async == When::kLazy && (!warp.open.empty() || !warp.groups.empty());
  if (!warp.fenced && (known == warp.values.end() || (!underWay && known->second != now)))
    fault("registers of a product that were written to without a wgmma.fence", product.where);
  warp.fenced = false;
  if (known == warp.values.end() || !underWay) warp.values[product.sums[0]] = std::move(now);
  if (options().async == When::kEager) {
    Values& values = warp.values[product.sums[0]];
    perform(product, values);
    writeRegisters(product, values);
  } else {
    for (void* sums : product.sums)
      poison(sums, static_cast<size_t>(product.what.columns) / 2 * sizeof(uint32_t), options().seed);
  }
  warp.open.push_back(product);
}

template <typename T>
void issueTyped(T* sums, int columns, uint64_t a, uint64_t b, const std::source_location& where) {
  struct One {
    void* sums;
    Issued what;
  } mine{sums, {a, b, columns, std::is_same_v<T, int>}};
  together<One>(kWholeWarp, &mine, "wgmma", where, [&](const auto& lanes) {
    Product product{mine.what, self().linear / kWarp % 4, {}, where};
    for (size_t lane = 0; lane < kWarp; ++lane) {
      if (!(lanes[lane]->what == mine.what)) fault("lanes of a warp issue different products", where);
      product.sums[lane] = lanes[lane]->sums;
    }
    issue(product);
  });
}

}  // namespace

void beginProducts() { warpProducts().fenced = true; }

void issueProduct(float* sums, int columns, uint64_t a, uint64_t b, const std::source_location& where) {
  issueTyped(sums, columns, a, b, where);
}
void issueProduct(int* sums, int columns, uint64_t a, uint64_t b, const std::source_location& where) {
  issueTyped(sums, columns, a, b, where);
}

void commitProducts(const std::source_location& where) {
  char nothing = 0;
  struct Kind;
  together<Kind>(kWholeWarp, &nothing, "wgmma.commit_group", where, [](const auto&) {
    WarpProducts& warp = warpProducts();
    warp.groups.push_back(std::move(warp.open));
    warp.open.clear();
  });
}

void waitProducts(size_t pending, const std::source_location& where) {
  char nothing = 0;
  struct Kind;
  together<Kind>(kWholeWarp, &nothing, "wgmma.wait_group", where, [&](const auto&) {
    WarpProducts& warp = warpProducts();
    while (warp.groups.size() > pending) {
      if (options().async == When::kLazy) {
        for (const Product& product : warp.groups.front()) {
          Values& values = warp.values[product.sums[0]];
          perform(product, values);
          // Registers of products that are still under way stay poison.
          if (warp.groups.size() == 1 && warp.open.empty()) writeRegisters(product, values);
        }
      }
      warp.groups.pop_front();
    }
  });
}

}  // namespace clipcid::emulator
