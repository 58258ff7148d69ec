#include "images/libvips.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace clipcid::images {
namespace {

std::atomic<const Libvips*> found{nullptr};

#if defined(__unix__) || defined(__APPLE__)

template <typename Function>
bool resolve(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

const Libvips* load(const char* name) {
  // Never a second copy of it: only what is there. The handle is kept, and with it the library.
  void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  static Libvips it;
  const bool complete = resolve(library, "vips_version", &it.version) &&
                        resolve(library, "vips_source_new_from_memory", &it.sourceFromMemory) &&
                        resolve(library, "vips_foreign_find_load_source", &it.findLoader) &&
                        resolve(library, "vips_image_new_from_source", &it.imageFromSource) &&
                        resolve(library, "vips_image_new_from_memory", &it.imageFromMemory) &&
                        resolve(library, "vips_image_get_width", &it.width) &&
                        resolve(library, "vips_image_get_height", &it.height) &&
                        resolve(library, "vips_image_get_bands", &it.bands) &&
                        resolve(library, "vips_image_get_format", &it.format) &&
                        resolve(library, "vips_image_get_interpretation", &it.interpretation) &&
                        resolve(library, "vips_image_get_orientation", &it.orientation) &&
                        resolve(library, "vips_resize", &it.resize) &&
                        resolve(library, "vips_region_new", &it.regionOf) &&
                        resolve(library, "vips_region_fetch", &it.fetch) &&
                        resolve(library, "vips_error_clear", &it.clearError) &&
                        resolve(library, "vips_thread_shutdown", &it.endThread) &&
                        resolve(library, "g_object_unref", &it.unref) && resolve(library, "g_free", &it.free);
  if (!complete || it.version(0) != 8 || it.version(1) < 12) return nullptr;
  return &it;
}

#else

const Libvips* load(const char*) { return nullptr; }

#endif

}  // namespace

bool findLibvips(const char* name) {
  // Called on JavaScript threads, of which there may be several; the first one's answer stands.
  static const Libvips* const first = load(name);
  found.store(first, std::memory_order_release);
  return first != nullptr;
}

const Libvips* libvips() { return found.load(std::memory_order_acquire); }

}  // namespace clipcid::images
