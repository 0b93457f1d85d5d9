#!/usr/bin/env bash
# The native modules under AddressSanitizer and UndefinedBehaviorSanitizer: the whole native test
# suite and every reader with mutated files. Their thread pool under ThreadSanitizer, by a program of
# its own, as Python and torch are full of races that are not ours. Mutated streams go to the decoders
# without Python, for DECODER_SECONDS.
#
# PYTHON names the interpreter, BUILDS where builds are kept, TESTS other tests (paths below tests/).
# Needs g++ with its sanitisers' libraries, cmake and ninja; writes $BUILDS/asan.log, tsan.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(command -v "${PYTHON:-python}")
builds=${BUILDS:-build/sanitize}
mkdir -p "$builds"
builds=$(cd "$builds" && pwd)
# All that hand values of their own to compiled code.
tests=(${TESTS:-test_bayes_decoder test_codec test_container test_encoding test_entropy test_entropy_arguments test_exact
  test_fuzz test_golden test_image_field test_latent_codec test_latent_ops test_latent_parts test_nerf_field
  test_packed test_palette test_photometric test_prediction
  test_quantisers test_render test_render_arguments test_render_backward test_render_statistics
  test_render_threads test_sdf_field})

echo "== threads"
flags=(-std=c++17 -O1 -g -pthread -Irender/native)
g++ "${flags[@]}" -fsanitize=thread tests/native/pool_threads.cpp render/native/pool.cpp -o "$builds/pool"
TSAN_OPTIONS=halt_on_error=1 "$builds/pool" 2>&1 | tee "$builds/tsan.log"
if "$builds/pool" 1 race > "$builds/race.log" 2>&1 || ! grep -q "data race" "$builds/race.log"; then
  echo "ThreadSanitizer does not see a race that is there"
  exit 1
fi

echo "== decoders, mutated streams"
sources="tests/native_fuzz/decoders.cpp fields/native/latent_coder.cpp fields/native/latent_predict_simd.cpp"
g++ -std=c++17 -O1 -g1 -Wno-psabi -fsanitize=address,undefined -fno-sanitize-recover=undefined \
  -ffp-contract=off -DFIELDPRESS_ISA=baseline $sources -o "$builds/decoders"
(cd "$builds" && ./decoders "${DECODER_SECONDS:-20}" 1 2>&1 | tee decoders.log)

echo "== memory and arithmetic"
cmake -S . -B "$builds/address" -G Ninja -DFIELDPRESS_SANITIZE=address,undefined \
  -DFIELDPRESS_OPTIMIZE=-O1 -DPython_EXECUTABLE="$python" \
  -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" > /dev/null
cmake --build "$builds/address"
# A copy of the package around these modules, which the tests import instead of the checkout.
package=$builds/tree/fieldpress
rm -rf "$builds/tree" && mkdir -p "$package"
cp -r ./*.py pyproject.toml bench docs fields gaussians quant render scenes tests viewer "$package/"
for domain in fields quant render; do
  rm -f "$package/$domain"/_native*.so
  cp "$builds/address/$domain"/_native*.so "$package/$domain/"
done
# Python's own blocks live until the end: leaks are not looked for. Its allocator hides the ends of
# arrays: malloc is used. C++ exceptions need libstdc++ to be there before the sanitiser.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export PYTHONMALLOC=malloc PYTHONPATH=$builds/tree
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_odr_violation=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
cd "$builds"
"$python" -m pytest -q -x -p no:cacheprovider --rootdir="$package" \
  $(printf "$package/tests/%s.py " "${tests[@]}") 2>&1 | tee asan.log
