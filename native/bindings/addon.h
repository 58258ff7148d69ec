// One function an operation; each is defined in the file of its name. Shapes and meaning:
// ts/src/native/addon.ts.
#pragma once

#include <napi.h>

namespace clipcid::bindings {

Napi::Value upload(const Napi::CallbackInfo& info);
Napi::Value download(const Napi::CallbackInfo& info);
Napi::Value release(const Napi::CallbackInfo& info);
Napi::Value balance(const Napi::CallbackInfo& info);
Napi::Value balanceAgainst(const Napi::CallbackInfo& info);
Napi::Value forest(const Napi::CallbackInfo& info);
Napi::Value kmeans(const Napi::CallbackInfo& info);
Napi::Value predict(const Napi::CallbackInfo& info);
Napi::Value nearest(const Napi::CallbackInfo& info);
Napi::Value nearestProduct(const Napi::CallbackInfo& info);
Napi::Value pairs(const Napi::CallbackInfo& info);
Napi::Value semdedup(const Napi::CallbackInfo& info);
Napi::Value estimate(const Napi::CallbackInfo& info);
Napi::Value loss(const Napi::CallbackInfo& info);
Napi::Value softTargets(const Napi::CallbackInfo& info);
Napi::Value adamw(const Napi::CallbackInfo& info);
Napi::Value useLibvips(const Napi::CallbackInfo& info);
Napi::Value decodeImages(const Napi::CallbackInfo& info);
Napi::Value releaseImages(const Napi::CallbackInfo& info);
Napi::Value resizeImages(const Napi::CallbackInfo& info);
Napi::Value fitImages(const Napi::CallbackInfo& info);
Napi::Value renderViews(const Napi::CallbackInfo& info);
Napi::Value peak(const Napi::CallbackInfo& info);
Napi::Value engineCreate(const Napi::CallbackInfo& info);
Napi::Value engineLoad(const Napi::CallbackInfo& info);
Napi::Value engineUnload(const Napi::CallbackInfo& info);
Napi::Value engineRelease(const Napi::CallbackInfo& info);
Napi::Value engineForward(const Napi::CallbackInfo& info);
Napi::Value engineBackward(const Napi::CallbackInfo& info);
Napi::Value freeMemory(const Napi::CallbackInfo& info);
Napi::Value engineStage(const Napi::CallbackInfo& info);
Napi::Value engineStages(const Napi::CallbackInfo& info);
Napi::Value engineAddGradient(const Napi::CallbackInfo& info);
Napi::Value engineConcatenate(const Napi::CallbackInfo& info);
Napi::Value engineRead(const Napi::CallbackInfo& info);
Napi::Value engineUpdate(const Napi::CallbackInfo& info);
Napi::Value engineSave(const Napi::CallbackInfo& info);
Napi::Value engineRestore(const Napi::CallbackInfo& info);
Napi::Value engineDispose(const Napi::CallbackInfo& info);
Napi::Value engineOperations(const Napi::CallbackInfo& info);
Napi::Value enginePackedFloats(const Napi::CallbackInfo& info);

}  // namespace clipcid::bindings
