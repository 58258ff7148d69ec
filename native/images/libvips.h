// libvips, the image library that sharp brings along, called directly.
//
// Through sharp every image costs JavaScript some 0.1 ms and runs in libuv's pool, where libvips hands its strips from thread to thread; a
// region of it is computed on the thread that asks. It is looked for in the process at run time, and nothing depends on its being there:
// what is not decoded through here goes through sharp, with the same pixels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clipcid::images {

// Its types, never looked into.
struct VipsImage;
struct VipsRegion;
struct VipsSource;

// Values of its enumerations, which have been the same since version 8.10.
constexpr int kVipsUchar = 0;
constexpr int kVipsBw = 1;
constexpr int kVipsSrgb = 22;
constexpr int kVipsSequential = 1;
constexpr int kVipsFailOnError = 2;

// What is called of it, under its own names.
struct Libvips {
  int (*version)(int part);
  VipsSource* (*sourceFromMemory)(const void* data, size_t length);
  const char* (*findLoader)(VipsSource* source);
  VipsImage* (*imageFromSource)(VipsSource* source, const char* options, ...);
  VipsImage* (*imageFromMemory)(const void* data, size_t length, int width, int height, int bands,
                                int format);
  int (*width)(const VipsImage* image);
  int (*height)(const VipsImage* image);
  int (*bands)(const VipsImage* image);
  int (*format)(const VipsImage* image);
  int (*interpretation)(const VipsImage* image);
  int (*orientation)(VipsImage* image);
  int (*resize)(VipsImage* in, VipsImage** out, double scale, ...);
  VipsRegion* (*regionOf)(VipsImage* image);
  uint8_t* (*fetch)(VipsRegion* region, int left, int top, int width, int height, size_t* length);
  void (*clearError)();
  void (*endThread)();
  void (*unref)(void* object);
  void (*free)(void* memory);
};

// Looks for it in the process under a file name such as 'libvips-cpp.so.8.18.7'. False where it is not loaded or lacks something.
bool findLibvips(const char* name);

// Null until it has been found.
const Libvips* libvips();

}  // namespace clipcid::images
