"""The job behind `batch`: one task a point, wherever it runs; a record and a file for each."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import __version__, remote
from .batch_report import layouts, medians, to_csv
from .batch_store import Store, content_hash, sha256_of
from .console import Progress, say, to_json
from .contenders import Stage, file_name, label, measure
from .gaussians.compress import PRESETS
from .jobs import Finished, Policy, Pool, run_all
from .manifest import Manifest, SceneEntry, Settings
from .sources import read_gaussians
from .sweep import compare, machine, report_files

METHODS = ({"name": "fieldpress", "target_db": PRESETS["balanced"]},)  # Where none is named.
MOST_DEGREE = 4
TIMES = ("encode_seconds", "decode_seconds", "fps", "fps_reference", "fps_ratio", "attempts")


@dataclass(frozen=True)
class PointTask:
    """A scene, a method and its settings: one file to be made and measured.

    Attributes:
        key: hash of the scene's content, its photographs', method, settings, seed and version.
    """

    key: str
    entry: SceneEntry
    method: str
    settings: Settings
    seed: int
    version: str = __version__

    @property
    def file(self) -> str:
        return file_name(self.method, self.settings)

    def describe(self) -> dict[str, Any]:
        """What a row says before it is measured."""
        return {
            "scene": self.entry.name,
            "method": self.method,
            "settings": self.settings,
            "seed": self.seed,
            "version": self.version,
            "key": self.key,
        }

    def run(self, place: Path) -> dict[str, Any]:
        """Make the file in `place`, decode it again, measure it."""
        if self.version != __version__:
            raise ValueError(f"expected fieldpress {self.version} here, got {__version__}")
        with _local(self.entry, place) as entry:
            stage = Stage.read(entry, self.seed)
            path = place / self.file
            row = measure(stage, self.method, self.settings, path, per_view=True)
        facts = {**stage.facts(), "fingerprint": self.key[:16]}
        return {"row": row, "scene": facts, "sha256": sha256_of(path), "files": [self.file]}


@contextmanager
def _local(entry: SceneEntry, place: Path) -> Iterator[SceneEntry]:
    """The entry with a file of its own in place of a URL, while it is needed."""
    if not remote.is_url(entry.path):
        yield entry
        return
    url = str(entry.path)
    path = place / f"input-{url.rsplit('/', 1)[-1]}"
    path.write_bytes(remote.read(url))
    try:
        yield replace(entry, path=path)
    finally:
        path.unlink()


def plan(manifest: Manifest, seed: int) -> list[PointTask]:
    """All tasks of a manifest, scene by scene, each once."""
    tasks: dict[str, PointTask] = {}
    degree_of = functools.cache(_sh_degree)  # Reading a scene takes a while.
    for entry in manifest.scenes:
        said: dict[str, Any] = {
            "name": entry.name,
            "input": content_hash(entry.path),
            "photographs": None if entry.scene is None else content_hash(entry.scene),
            "downscale": entry.downscale,
            "seed": seed,
            "version": __version__,
        }
        for method in manifest.methods:
            differ = len(method.values.get("sh_degree", ())) > 1
            for settings in method.points(degree_of(entry.path) if differ else MOST_DEGREE):
                text = to_json(said | {"method": method.name, "settings": settings}, indent=None)
                key = hashlib.sha256(text.encode()).hexdigest()[:20]
                tasks[key] = PointTask(key, entry, method.name, settings, seed)
    return list(tasks.values())


def _sh_degree(path: Path | str) -> int:
    """That of a scene which is here and can be read; else the most that there is."""
    if not isinstance(path, Path):
        return MOST_DEGREE
    try:
        return read_gaussians(str(path)).model.sh_degree
    except (ValueError, FileNotFoundError):  # Its tasks will say so.
        return MOST_DEGREE


def _file(task: PointTask) -> str:
    return f"files/{task.entry.name}/{task.file}"


def _record(task: PointTask) -> str:
    return f"tasks/{task.key}.json"


def _known(store: Store, task: PointTask) -> dict[str, Any] | None:
    """The record of a task that is complete: its file is there and is the one that was measured."""
    data = store.read(_record(task))
    try:
        record = json.loads(data or b"")
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("sha256") is None:
        return None
    made = store.read(_file(task))
    if made is None or hashlib.sha256(made).hexdigest() != record["sha256"]:
        return None
    return record


def _keep(store: Store, done: Finished, task: PointTask) -> dict[str, Any]:
    """Put a finished task's file in its place and then its record: a kill between loses both."""
    said = task.describe()
    result = done.outcome.result
    tries: dict[str, Any] = {"attempts": done.attempts, "lost": list(done.lost)}
    if result is None:
        record = {**said, "failed": done.outcome.reason, **tries}
    else:
        store.take(_file(task), done.place / task.file)
        row = {**said, **result["row"], "file": task.file, **tries}
        record = {**row, "sha256": result["sha256"], "facts": result["scene"]}
    store.write(_record(task), (to_json(record) + "\n").encode())
    return record


# The whole


def run_batch(
    manifest: Manifest,
    output: str,
    pool: Pool,
    *,
    policy: Policy | None = None,
    seed: int = 0,
    resume: bool = False,
    wanted_layouts: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run all points of a manifest in a pool, keep their files, and report.

    In the folder or at the URL `output` there appear files/SCENE/FILE and tasks/KEY.json as tasks
    finish, each whole; at the end results.json, results.csv, curves.svg and index.html.

    Args:
        manifest: scenes, methods, settings.
        output: a folder, made if it is not there, or a URL.
        pool: where tasks run; it is not closed.
        policy: when they are tried again.
        seed: of the views and of the methods.
        resume: take what is complete: the same content, settings and version, the file unchanged.
        wanted_layouts: of batch_report.LAYOUTS, to be written too.
        progress: is told how many are done.

    Raises:
        ValueError: for inputs that are not there, or an output that cannot be written.
    """
    began = time.perf_counter()
    store, tasks = Store(output), plan(manifest, seed)
    with store.work() as work:
        records = {}
        for task in tasks if resume else ():
            record = _known(store, task)
            if record is not None:
                records[task.key] = record
        known = len(records)
        left = [task for task in tasks if task.key not in records]
        for done in run_all(left, pool, work, policy):
            task = done.task
            assert isinstance(task, PointTask)
            records[task.key] = _keep(store, done, task)
            _tell(records[task.key], len(records), len(tasks), progress)
        results = _results(manifest, seed, [records[task.key] for task in tasks])
        _publish(store, work, results, records, wanted_layouts)
    return _report(results, output, len(left), known, time.perf_counter() - began)


def _tell(record: Mapping[str, Any], done: int, count: int, progress: Progress | None) -> None:
    name = f"{record['scene']}, {record['method']} {label(record['method'], record['settings'])}"
    if "failed" in record:
        say(f"{done} of {count}: {name.strip()}: failed: {record['failed']}")
    else:
        say(
            f"{done} of {count}: {name.strip()}: {record['output_bytes']:,} bytes, "
            f"{record['psnr_self']:.2f} dB"
        )
    if progress is not None:
        progress("batch", done / count)


def _results(manifest: Manifest, seed: int, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What results.json holds: `digest` is the same for runs that gave the same, times aside."""
    scenes = {record["scene"]: record["facts"] for record in records if "facts" in record}
    points = [
        {key: value for key, value in record.items() if key not in ("facts", "per_view")}
        for record in records
    ]
    names = [entry.name for entry in manifest.scenes if entry.name in scenes]
    timeless = [{k: v for k, v in row.items() if k not in (*TIMES, "lost")} for row in points]
    return {
        "title": "Batch",
        "version": __version__,
        "seed": seed,
        "digest": hashlib.sha256(to_json({"points": timeless}).encode()).hexdigest(),
        "manifest": manifest.to_json(),
        "machine": machine(),
        "scenes": [scenes[name] for name in names],
        "points": points,
        "medians": medians(points),
        **compare(points, names),
    }


def _publish(
    store: Store,
    work: Path,
    results: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    wanted: Sequence[str],
) -> None:
    """The report of all that is there; index.html last, as it is what people open."""
    files = {"results.csv": to_csv(results["points"])}
    files |= layouts(list(records.values()), wanted)
    files |= report_files(results)
    for name, text in files.items():
        store.write(name, text.encode())


def _report(
    results: Mapping[str, Any], output: str, ran: int, known: int, seconds: float
) -> dict[str, Any]:
    """What the command says in the end."""
    points = results["points"]
    return {
        "output": output,
        "scenes": len(results["scenes"]),
        "tasks": len(points),
        "ran": ran,
        "resumed": known,
        "failed": sum("failed" in row for row in points),
        "retried": sum(row["attempts"] > 1 for row in points),
        "medians": {
            f"{row['method']} {row['knobs']}".strip(): row["ratio"] for row in results["medians"]
        },
        "bd_rate_median": {k: v["percent"] for k, v in results["bd_rate_median"].items()},
        "digest": results["digest"],
        "seconds": seconds,
        "seed": results["seed"],
        "version": __version__,
    }


__all__ = ["PointTask", "content_hash", "plan", "run_batch"]
