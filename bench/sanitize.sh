#!/usr/bin/env bash
# The native modules under AddressSanitizer and UndefinedBehaviorSanitizer, then their threads under
# ThreadSanitizer: the whole native test suite, and every reader with mutated files.
#
#   bench/sanitize.sh [address,undefined|thread ...]     # both by default
#
# PYTHON names the interpreter; BUILDS where builds are kept; SECONDS_OF_FUZZ how long readers are
# fed. Needs g++ with its sanitisers' libraries, cmake and ninja.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
builds=${BUILDS:-build/sanitize}
# All that calls compiled code with values of its own; what trains for long is left out.
tests=(
  test_codec test_container test_encoding test_entropy test_entropy_arguments test_exact
  test_image_field test_packed test_palette test_photometric test_prediction test_render
  test_render_arguments test_render_backward test_render_statistics test_render_threads
  test_quantisers test_golden test_fuzz
)

for kind in "${@:-address,undefined}" ${1:-thread}; do
  folder=$builds/${kind//,/-}
  cmake -S . -B "$folder/build" -G Ninja -DFIELDPRESS_SANITIZE="$kind" -DFIELDPRESS_OPTIMIZE=-O1 \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" > /dev/null
  cmake --build "$folder/build"
  # A copy of the package around these modules, which the tests import instead of the checkout.
  rm -rf "$folder/tree" && mkdir -p "$folder/tree/fieldpress"
  cp -r ./*.py pyproject.toml bench fields gaussians quant render scenes tests viewer "$folder/tree/fieldpress/"
  for domain in fields quant render; do
    rm -f "$folder/tree/fieldpress/$domain"/_native*.so
    cp "$folder/build/$domain"/_native*.so "$folder/tree/fieldpress/$domain/"
  done
  library=$(g++ -print-file-name=libasan.so)
  [[ $kind == thread ]] && library=$(g++ -print-file-name=libtsan.so)
  echo "== $kind"
  # Python is full of blocks that live until the end: leaks are not looked for. Its allocator hides
  # the ends of arrays: malloc is used. torch's C++ exceptions need libstdc++ before the sanitiser.
  run=(env "LD_PRELOAD=$library $(g++ -print-file-name=libstdc++.so)" PYTHONMALLOC=malloc
    "PYTHONPATH=$folder/tree" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_odr_violation=0
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    "TSAN_OPTIONS=halt_on_error=1:report_bugs=1:suppressions=$PWD/bench/tsan.supp" "$python")
  chosen=("${tests[@]}")
  [[ $kind == thread ]] && chosen=(test_render_threads)
  PYTHONPATH=$folder/tree "${run[@]}" -m pytest -q -x -p no:cacheprovider \
    --rootdir="$folder/tree/fieldpress" "${chosen[@]/#/$folder/tree/fieldpress/tests/}"
done
