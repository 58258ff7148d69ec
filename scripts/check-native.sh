#!/usr/bin/env bash
# Builds and runs the native test programs: plain with every instruction set, under valgrind, and with the thread and the address
# sanitizer. `scripts/check-native.sh plain` runs one of: plain, valgrind, thread, address.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v ninja > /dev/null; then export CMAKE_GENERATOR=Ninja; fi

build() { # tree, sanitizer
  cmake -S . -B ".cmake/$1" -DCMAKE_BUILD_TYPE=Release -DCLIPCID_TESTS=ON -DCLIPCID_CUDA=OFF -DCLIPCID_SANITIZE="$2" > /dev/null
  cmake --build ".cmake/$1" --parallel "$(nproc)" --target native_tests > ".cmake/$1/build.log" ||
    { cat ".cmake/$1/build.log"; exit 1; }
}

run() { # tree
  ctest --test-dir ".cmake/$1" --output-on-failure --no-tests=error "${@:2}"
}

for check in ${1:-plain valgrind thread address}; do
  echo "== $check"
  case $check in
    plain)
      build test-plain ''
      for simd in plain avx2 avx2-vnni avx512 avx512-vnni amx; do CLIP_CID_SIMD=$simd run test-plain; done
      ;;
    valgrind)
      # Valgrind knows no AVX-512. It runs one thread at a time, so this takes minutes.
      build test-plain ''
      for program in .cmake/test-plain/test_*; do
        [[ -f $program && -x $program ]] || continue
        CLIP_CID_SIMD=avx2 valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite "$program"
      done
      ;;
    thread | address)
      build "test-$check" "$check"
      run "test-$check"
      ;;
  esac
done
