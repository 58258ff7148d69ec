#include "emulator/options.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace clipcid::emulator {
namespace {

Options fromEnvironment() {
  Options all;
  const char* text = std::getenv("CLIP_CID_EMULATOR");
  std::string rest = text == nullptr ? "" : text;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string one = rest.substr(0, comma);
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    const size_t equals = one.find('=');
    const std::string name = one.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : one.substr(equals + 1);
    const auto number = [&] { return std::strtoull(value.c_str(), nullptr, 10); };
    const auto when = [&] { return value == "lazy" ? When::kLazy : When::kEager; };
    DeviceModel& device = all.devices[0];
    if (name == "device" && value.rfind("sm_", 0) == 0) {
      const size_t memory = device.memory;
      device = deviceOf(std::atoi(value.c_str() + 3));
      device.memory = memory;
    } else if (name == "memory") {
      device.memory = number();
    } else if (name == "multiprocessors") {
      device.multiprocessors = static_cast<int>(number());
    } else if (name == "async") {
      all.async = when();
    } else if (name == "streams") {
      all.streams = when();
    } else if (name == "rounding") {
      all.rounding = value == "worst"       ? Rounding::kWorst
                     : value == "truncated" ? Rounding::kTruncated
                                            : Rounding::kExact;
    } else if (name == "seed") {
      all.seed = number();
    } else if (name == "threads") {
      all.threads = static_cast<int>(number());
    } else {
      std::fprintf(stderr, "CLIP_CID_EMULATOR: '%s' is no option of the emulated device\n", one.c_str());
      std::abort();
    }
  }
  return all;
}

}  // namespace

Options& options() {
  static Options all = fromEnvironment();
  return all;
}

DeviceModel deviceOf(int architecture) {
  DeviceModel device;
  device.name = "Emulated GPU of sm_" + std::to_string(architecture);
  device.major = architecture / 10;
  device.minor = architecture % 10;
  return device;
}

}  // namespace clipcid::emulator
