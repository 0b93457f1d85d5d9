"""Batch on a Ray cluster of two nodes on this machine: the same files, nodes and drivers killed.

Twelve tasks over the shared scenes: locally, on the cluster with one node killed in mid-run, and on
it with the driver killed and the run resumed. Writes bench/results/cluster.json.

    python bench/cluster.py [--local FOLDER]

With --local FOLDER the local run is made there (or taken from there) beforehand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from record import DATA, write

SCENES = (
    "train-1000/train-1000.ply", "fruit-drops/fruit_drops_minimal.ply",
    "playbot/5_0/meta.json",
)  # fmt: skip
METHODS = [
    {"name": "fieldpress-fast", "target_db": 40.2},
    {"name": "spz", "prune": 0, "sh_degree": 4, "sh_bits": [8, 5]},
    {"name": "compressed.ply", "prune": 0, "sh_degree": 4},
]
KILL_NODE_AFTER, KILL_DRIVER_AFTER = 2, 5  # Tasks that are complete by then, at least.


def start(folder: Path, output: str, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "fieldpress", "batch", str(folder / "m.json"),
        "-o", str(folder / output), "--json", *options,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, said = process.communicate()
    if process.returncode:
        raise SystemExit(said)
    return json.loads(out)


def complete(output: Path) -> int:
    return len(list(output.glob("tasks/*.json")))


def after(output: Path, tasks: int, act: Callable[[], object]) -> int:
    """Do something when so many tasks are complete; how many then were."""
    while complete(output) < tasks:
        time.sleep(0.02)
    count = complete(output)
    act()
    return count


def files(output: Path) -> dict[str, str]:
    found = sorted(path for path in (output / "files").rglob("*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def run(folder: Path, resume: bool = False) -> dict[str, Any]:
    scenes = [str(DATA / "gaussians" / name) for name in SCENES]
    (folder / "m.json").write_text(json.dumps({"scenes": scenes, "methods": METHODS}))
    kept = folder / "reports.json"
    runs = json.loads(kept.read_text()) if resume and kept.exists() else {}
    if "local" not in runs:
        runs["local"] = end(start(folder, "local", "--jobs", "2", *(("--resume",) * resume)))
        kept.write_text(json.dumps(runs))
    local = runs["local"]
    print("local", local["seconds"], flush=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    where = ("--ray", cluster.address)
    try:
        if "node_killed" not in runs:
            process = start(folder, "node", *where)
            at = after(folder / "node", KILL_NODE_AFTER, lambda: kill_node(cluster, second))
            runs["node_killed"] = end(process) | {"complete_when_killed": at}
            kept.write_text(json.dumps(runs))
            cluster.add_node(num_cpus=1)
        print("node killed, retried", runs["node_killed"]["retried"], flush=True)
        process = start(folder, "driver", *where)
        after(folder / "driver", KILL_DRIVER_AFTER, lambda: process.send_signal(signal.SIGKILL))
        process.wait()
        left, at = files(folder / "driver"), complete(folder / "driver")
        resumed = end(start(folder, "driver", *where, "--resume"))
        resumed["complete_when_killed"] = at
        print("driver killed at", at, "then ran", resumed["ran"], flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    truth = files(folder / "local")
    runs["driver_killed"] = resumed
    return {
        "tasks": local["tasks"],
        "runs": runs,
        "same_files": {
            name: files(folder / output) == truth
            for name, output in (
                ("node_killed", "node"),
                ("driver_killed", "driver"),
            )
        },
        "same_digest": len({report["digest"] for report in runs.values()}) == 1,
        "whole_when_killed": all(truth[name] == digest for name, digest in left.items()),
        "repeated_after_driver_killed": resumed["ran"] + at - local["tasks"],
    }


def kill_node(cluster: Cluster, node: Any) -> None:
    """As a machine that loses power: its processes get SIGKILL, no farewell."""
    for info in node.all_processes.values():
        for one in info:
            os.kill(one.process.pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", type=Path, help="a folder for all runs, kept")
    folder = parser.parse_args().local
    if folder is not None:
        result = run(folder, resume=True)
        finish(result)
        return
    with tempfile.TemporaryDirectory(prefix="fieldpress-cluster-") as name:
        result = run(Path(name))
    finish(result)


def finish(result: dict[str, Any]) -> None:
    result["ray"] = ray.__version__
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}))
    print("wrote", write("cluster", result))


if __name__ == "__main__":
    main()
