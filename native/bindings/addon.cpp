#include "bindings/addon.h"

#include "bindings/devices.h"

namespace clipcid::bindings {
namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("version", CLIPCID_VERSION);
  const auto define = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  define("devices", devices);
  define("cudaStatus", cudaStatus);
  define("setInstructions", setInstructions);
  define("peak", peak);
  define("upload", upload);
  define("download", download);
  define("release", release);
  define("balance", balance);
  define("balanceAgainst", balanceAgainst);
  define("forest", forest);
  define("kmeans", kmeans);
  define("predict", predict);
  define("nearest", nearest);
  define("nearestProduct", nearestProduct);
  define("pairs", pairs);
  define("semdedup", semdedup);
  define("estimate", estimate);
  define("loss", loss);
  define("softTargets", softTargets);
  define("adamw", adamw);
  define("useLibvips", useLibvips);
  define("decodeImages", decodeImages);
  define("releaseImages", releaseImages);
  define("resizeImages", resizeImages);
  define("fitImages", fitImages);
  define("renderViews", renderViews);
  define("engineCreate", engineCreate);
  define("engineLoad", engineLoad);
  define("engineUnload", engineUnload);
  define("engineRelease", engineRelease);
  define("engineForward", engineForward);
  define("engineBackward", engineBackward);
  define("freeMemory", freeMemory);
  define("engineStage", engineStage);
  define("engineStages", engineStages);
  define("engineAddGradient", engineAddGradient);
  define("engineConcatenate", engineConcatenate);
  define("engineRead", engineRead);
  define("engineUpdate", engineUpdate);
  define("engineSave", engineSave);
  define("engineRestore", engineRestore);
  define("engineDispose", engineDispose);
  define("engineOperations", engineOperations);
  define("enginePackedFloats", enginePackedFloats);
  return exports;
}

}  // namespace
}  // namespace clipcid::bindings

// N-API calls the initialiser once for every environment, so the addon works in workers and when it is loaded
// twice.
static Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  return clipcid::bindings::init(env, exports);
}

NODE_API_MODULE(clip_cid, initialise)
