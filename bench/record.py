"""Where and on what a benchmark ran, written beside its figures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldpress import __version__
from fieldpress.render import _native

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
DATA = Path(os.environ.get("FIELDPRESS_DATA", ROOT.parent / "shared" / "data"))


def commit() -> str:
    """The commit at hand, `-dirty` where a file that is no result differs from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "-uno", "--", ".", ":(exclude)bench/results")
    return git("describe", "--always", "--exclude=*") + ("-dirty" if changed else "")


def machine() -> dict[str, Any]:
    """Commit, processor, versions and load of this run."""
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "commit": commit(),
        "cpu": model,
        "cores": os.cpu_count(),
        "isa": _native.isa(),
        "threads": torch.get_num_threads(),
        "fieldpress": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Store a result as bench/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**machine(), **result}, indent=1) + "\n")
    return path
