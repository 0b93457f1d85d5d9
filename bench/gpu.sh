#!/usr/bin/env bash
# Everything that needs a GPU, on a bare machine without a network: parity, compute-sanitizer, times
# against gsplat where it can be imported, one table, one JSON.
#
#   bench/gpu.sh [arguments of bench/gpu.py]
#
# Wants python3 with a CUDA build of torch, and of cmake, nanobind and a C++ compiler what it takes to
# build the native modules; says what is missing. Results: bench/results/gpu.json, and $OUT if that is set.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
PYTHON=${PYTHON:-}

if [ -z "$PYTHON" ]; then
  for candidate in python3 python /opt/torch/.venv/bin/python3 .venv/bin/python; do
    if "$candidate" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
      PYTHON=$candidate
      break
    fi
  done
fi
if [ -z "$PYTHON" ]; then
  for candidate in python3 .venv/bin/python; do
    "$candidate" -c 'import torch' 2>/dev/null && PYTHON=$candidate && break
  done
  [ -n "$PYTHON" ] || { echo "gpu.sh: no python with torch (set PYTHON)"; exit 1; }
  echo "gpu.sh: $PYTHON has torch, which finds no GPU"
fi
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# The package is found as `fieldpress` through a link, so that nothing is installed.
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
ln -s "$ROOT" "$WORK/fieldpress"
export PYTHONPATH="$WORK${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if ! "$PYTHON" -c 'from fieldpress.render import _native; _native.CUDA; from fieldpress.fields import codec' 2>/dev/null; then
  "$PYTHON" -c 'import nanobind' 2>/dev/null || { echo "gpu.sh: building needs nanobind"; exit 1; }
  CMAKE=$(command -v cmake || "$PYTHON" -c 'import cmake; print(cmake.CMAKE_BIN_DIR + "/cmake")') ||
    { echo "gpu.sh: building needs cmake"; exit 1; }
  GENERATOR=(); command -v ninja >/dev/null && GENERATOR=(-G Ninja)
  "$CMAKE" -S . -B "$WORK/build" "${GENERATOR[@]}" -DCMAKE_BUILD_TYPE=Release \
    -DPython_EXECUTABLE="$(command -v "$PYTHON")" \
    -Dnanobind_DIR="$("$PYTHON" -m nanobind --cmake_dir)" > "$WORK/cmake.log" 2>&1 &&
  "$CMAKE" --build "$WORK/build" --parallel >> "$WORK/cmake.log" 2>&1 ||
    { tail -30 "$WORK/cmake.log"; echo "gpu.sh: the build failed"; exit 1; }
  for domain in fields quant render; do cp "$WORK/build/$domain"/_native*.so "$domain"/; done
  echo "gpu.sh: built the native modules in $SECONDS s"
fi
"$PYTHON" bench/gpu.py "$@"
STATUS=$?
[ -n "${OUT:-}" ] && cp bench/results/gpu*.json "$OUT"/ 2>/dev/null
exit $STATUS
