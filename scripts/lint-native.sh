#!/usr/bin/env bash
# Checks the format of the native sources; with --write, formats them.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v clang-format > /dev/null; then
  echo "clang-format is not installed: apt-get install clang-format, or brew install clang-format" >&2
  exit 1
fi
mapfile -t files < <(find native -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' | sort)
if [[ ${1:-} == --write ]]; then
  clang-format -i "${files[@]}"
else
  clang-format --dry-run -Werror "${files[@]}"
fi
