"""Do the same bytes decode to the same tensors, and those encode to the same bytes, everywhere?

Builds `quant` four times ({baseline, AVX2 and FMA} x {-O1, -O3}). Each build, with one and with two
threads, decodes every golden file and the scenes that are named, and encodes what it decoded again;
SHA-256 of all tensors and files must be one. Writes bench/results/determinism.json.

    python bench/determinism.py [--scenes [fox angel]]     # none named: golden files alone, for CI
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nanobind
from record import DATA, ROOT, write

from fieldpress import models
from fieldpress.gaussians.codec import Steps, encode
from fieldpress.gaussians.importance import estimate, reference, to_classes
from fieldpress.gaussians.sanitize import sanitize
from scenes import SCENES

BUILDS = {
    f"{isa} {level}": (flags, level)
    for isa, flags in (("baseline", ""), ("avx2+fma", "-mavx2 -mfma"))
    for level in ("-O1", "-O3")
}
CHILD = """
import hashlib, itertools, json, sys
import numpy as np
import torch
from pathlib import Path
from fieldpress import models
from fieldpress.fields import codec as fields
from fieldpress.gaussians.codec import Steps, encode
from fieldpress.quant import container

def tensors(model):
    state = hashlib.sha256()
    for name, tensor in model.tensors().items():
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()

def again(model, data):
    if model.kind == "gaussians":
        classes = (np.arange(len(model)) % 5).astype(np.int32)
        return encode(model, classes, Steps())
    if not hasattr(model, "network"):
        return b""  # Encoding anew would be a fit: of these kinds decoding alone is exact.
    layout = container.read(data).header["layout"]
    keys = ("steps", "weight_steps", "head_steps", "decoder_steps")
    codes = layout.get("code_steps", [0.0])[0]
    steps = fields.Steps(*(tuple(layout.get(key, ())) for key in keys), codes)
    network = model.network
    used = [(network.table[a:b] != 0).any(1).numpy()
            for a, b in itertools.pairwise(network.encoding.first_rows)]
    return fields.encode(model, steps, used)

found = {}
for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = models.decode_fpz(data, str(path))
        found[f"{path.name}/{threads}/decoded"] = tensors(model)
        found[f"{path.name}/{threads}/encoded"] = hashlib.sha256(again(model, data)).hexdigest()
print(json.dumps(found))
"""


def build(flags: str, level: str, folder: Path) -> Path:
    """A copy of the package whose `quant` was compiled with these flags; returns its parent."""
    package = folder / "fieldpress"
    skip = shutil.ignore_patterns(".*", "build", "tests", "bench", "dist", "demo-out")
    shutil.copytree(ROOT, package, ignore=skip)
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder / "build"), f"-DCMAKE_CXX_FLAGS={flags}",
        f"-DFIELDPRESS_OPTIMIZE={level}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dnanobind_DIR={nanobind.cmake_dir()}",
    ]  # fmt: skip
    compile_ = ["cmake", "--build", str(folder / "build"), "-j", "2", "--target", "quant_native"]
    for command in (configure, compile_):
        subprocess.run(command, check=True, capture_output=True)
    for old in (package / "quant").glob("_native*.so"):
        old.unlink()
    for made in (folder / "build" / "quant").glob("_native*.so"):
        shutil.copy(made, package / "quant")
    for domain in ("fields", "render"):  # An installed checkout has its modules elsewhere.
        if not list((package / domain).glob("_native*.so")):
            module = __import__(f"fieldpress.{domain}._native", fromlist=["_native"])
            shutil.copy(str(module.__file__), package / domain)
    return folder


def encode_scene(name: str, folder: Path) -> Path:
    """A file of the scene with classes from its own numbers: no rendering needed here."""
    model, _ = sanitize(models.load(DATA / "gaussians" / SCENES[name][0]))
    weight = estimate(model)
    path = folder / f"{name}.fpz"
    path.write_bytes(encode(model, to_classes(weight, reference(weight)), Steps()))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--name", default="determinism", help="of the results' file")
    arguments = parser.parse_args()
    files = sorted((ROOT / "tests" / "golden").rglob("*.fpz"))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        files += [encode_scene(name, Path(scratch)) for name in arguments.scenes]
        digests = {}
        for name, (flags, level) in BUILDS.items():
            parent = build(flags, level, Path(scratch) / name.replace("+", "_").replace(" ", ""))
            child = [sys.executable, "-c", CHILD, *map(str, files)]
            done = subprocess.run(
                child, env={"PYTHONPATH": str(parent), "PATH": "/usr/bin:/bin"}, cwd=scratch,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            digests[name] = json.loads(done.stdout)
            shutil.rmtree(parent)
    same = {}
    for path in files:
        for what in ("decoded", "encoded"):
            key = f"{path.name}/{{}}/{what}"
            found = {d[key.format(threads)] for d in digests.values() for threads in (1, 2)}
            same[f"{path.name}, {what}"] = len(found) == 1
            print(f"{path.name:16s} {what}: {len(BUILDS)} builds x 2 thread counts, "
                  f"{len(found)} digest(s)")  # fmt: skip
    result = {"builds": list(BUILDS), "same": same, "digests": digests,
              "seconds": time.perf_counter() - began}  # fmt: skip
    print("wrote", write(arguments.name, result))
    if not all(same.values()):
        raise SystemExit("what is decoded or encoded differs")


if __name__ == "__main__":
    main()
