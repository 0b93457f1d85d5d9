"""Do the same bytes decode to the same tensors: by two builds, with one and two threads?

Builds `quant` twice (plain, and with -O3 -mavx2 -mfma), encodes real scenes once, and compares
SHA-256 of all decoded tensors between builds and thread counts. Writes
bench/results/determinism.json.

    python bench/determinism.py [--only fox angel]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nanobind
import numpy as np
from record import DATA, ROOT, write

from fieldpress import models
from fieldpress.gaussians.codec import Steps, encode
from fieldpress.gaussians.importance import estimate, reference, to_classes
from fieldpress.gaussians.sanitize import sanitize
from scenes import SCENES

BUILDS = {"baseline": "-O2", "avx2+fma": "-O3 -mavx2 -mfma"}
CHILD = """
import hashlib, json, sys, torch
from pathlib import Path
from fieldpress.gaussians.codec import decode
found = {}
for path in sys.argv[1:]:
    for threads in (1, 2):
        torch.set_num_threads(threads)
        state = hashlib.sha256()
        for tensor in decode(Path(path).read_bytes()).tensors().values():
            state.update(tensor.contiguous().numpy().tobytes())
        found[f"{Path(path).stem}/{threads}"] = state.hexdigest()
print(json.dumps(found))
"""


def build(flags: str, folder: Path) -> Path:
    """A copy of the package whose `quant` was compiled with these flags; returns its parent."""
    package = folder / "fieldpress"
    skip = shutil.ignore_patterns(".*", "build", "tests", "bench", "dist", "demo-out")
    shutil.copytree(ROOT, package, ignore=skip)
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder / "build"), f"-DCMAKE_CXX_FLAGS={flags}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind.cmake_dir()}",
    ]  # fmt: skip
    compile_ = ["cmake", "--build", str(folder / "build"), "-j", "2"]
    for command in (configure, compile_):
        subprocess.run(command, check=True, capture_output=True)
    for domain in ("quant", "render"):
        for old in (package / domain).glob("_native*.so"):
            old.unlink()
        for made in (folder / "build" / domain).glob("_native*.so"):
            shutil.copy(made, package / domain)
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
    parser.add_argument("--only", nargs="*", default=list(SCENES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(encode_scene(name, Path(scratch))) for name in arguments.only]
        digests = {}
        for name, flags in BUILDS.items():
            parent = build(flags, Path(scratch) / name.replace("+", "_"))
            child = [sys.executable, "-c", CHILD, *files]
            done = subprocess.run(
                child, env={"PYTHONPATH": str(parent), "PATH": "/usr/bin:/bin"}, cwd=scratch,
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            digests[name] = json.loads(done.stdout)
    same = {}
    for scene in arguments.only:
        found = {d[f"{scene}/{threads}"] for d in digests.values() for threads in (1, 2)}
        same[scene] = len(found) == 1
        print(f"{scene:13s} {len(BUILDS)} builds x 2 thread counts: {len(found)} digest(s)")
    print("wrote", write("determinism", {"builds": BUILDS, "same": same, "digests": digests}))
    assert np.all(list(same.values())), "decoded tensors differ"


if __name__ == "__main__":
    main()
