#!/usr/bin/env bash
# Builds and runs the native test programs: plain with every instruction set of this machine, under valgrind, with the thread and the address
# sanitizer, and cross-compiled for AArch64 under qemu-user. `scripts/check-native.sh plain` runs one of: plain, valgrind, thread, address,
# neon. Nothing is installed: neon needs Debian's g++-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v ninja > /dev/null; then export CMAKE_GENERATOR=Ninja; fi

build() { # tree, sanitizer, further arguments of CMake
  cmake -S . -B ".cmake/$1" -DCMAKE_BUILD_TYPE=Release -DCLIPCID_TESTS=ON -DCLIPCID_CUDA=OFF -DCLIPCID_SANITIZE="$2" "${@:3}" > /dev/null
  cmake --build ".cmake/$1" --parallel "$(nproc)" --target native_tests > ".cmake/$1/build.log" ||
    { cat ".cmake/$1/build.log"; exit 1; }
}

run() { # tree
  ctest --test-dir ".cmake/$1" --output-on-failure --no-tests=error "${@:2}"
}

for check in ${1:-plain valgrind thread address neon}; do
  echo "== $check"
  case $check in
    plain)
      build test-plain ''
      # One that this machine lacks stands for the best below it.
      for simd in plain avx2 avx2-vnni avx512 avx512-vnni amx; do
        echo "-- $simd"
        CLIP_CID_SIMD=$simd run test-plain
      done
      ;;
    valgrind)
      # Valgrind knows no AVX-512. It runs one thread at a time, so this takes minutes.
      build test-plain ''
      for program in .cmake/test-plain/test_*; do
        [[ -f $program && -x $program ]] || continue
        CLIP_CID_SIMD=avx2 valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite "$program"
      done
      ;;
    thread)
      build test-thread thread
      # Without the emulated GPU: its threads are fibres on stacks of their own, which this sanitizer takes for one thread's.
      run test-thread -E '^(emulator|device|cuda_.*)$'
      ;;
    address)
      build test-address address
      run test-address
      ;;
    neon)
      for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
        command -v $tool > /dev/null || { echo "$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
      done
      build test-neon '' -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
        '-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu'
      for simd in plain neon neon-dotprod; do
        echo "-- $simd"
        CLIP_CID_SIMD=$simd run test-neon
      done
      # Without the dot products, which it then must not try.
      QEMU_CPU=cortex-a57 run test-neon -R "canonical|join|kernels"
      ;;
    *)
      echo "Expected plain, valgrind, thread, address or neon but received '$check'" >&2
      exit 1
      ;;
  esac
done
