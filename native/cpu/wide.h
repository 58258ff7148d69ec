// Plain loops, compiled once for each width of vectors and chosen by the C library when this one is loaded.
// For elementwise work in which nothing is fused or reordered: the result is the same to the bit for every
// choice. The thread sanitizer cannot instrument it.
#pragma once

#include <cstdlib>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define CLIPCID_WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLIPCID_WIDE
#endif
