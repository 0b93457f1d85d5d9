"""The GPU benchmark runs here without a GPU, so that no GPU time goes to typos."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fieldpress

ROOT = Path(__file__).resolve().parents[1]


def test_the_rehearsal_ends_well():
    path = str(Path(str(fieldpress.__file__)).parents[1])
    environment = os.environ | {"PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")}
    sections = "times,fields_parity,fields,fit,gsplat,sanitizer"
    done = subprocess.run(
        [sys.executable, "bench/gpu.py", "--rehearse", "--only", sections],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (
        "3,000 Gaussians: forward",
        "steps/s of 3,000",
        "gsplat: no GPU",
        "fields tinycudann: ",
        "fields radiance: ms",
        "fields march: samples",
    ):
        assert expected in done.stdout


def test_the_shell_script_parses():
    assert subprocess.run(["bash", "-n", ROOT / "bench" / "gpu.sh"]).returncode == 0
