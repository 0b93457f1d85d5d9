"""SIGKILL at random moments of every verb that writes: what is there is whole, nothing is lost.

Each job runs to its end once, then again and again in a forked process that is killed at a random
moment: half of the times by the clock, half at a random one of its file operations, where damage
would be done. After each kill whatever lies under a final name must be what the whole run gave (or
what was there before), and the next start must leave no temporary of the one before. At the end the
job runs once more, from what there is. Disks that are full (a small tmpfs where one may mount it,
else a limit on the size of files) and folders that may not be written are tried as well.
Writes bench/results/kills.json.

    python bench/kills.py [--kills 200] [--seed 0] [--only compress ...]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_targets import colmap, photographs, small
from record import RESULTS, machine, write

from fieldpress import console, contenders, models, press, temporaries
from fieldpress.__main__ import main as fieldpress
from fieldpress.gaussians import compress as pressing
from fieldpress.gaussians import fit as fitting
from fieldpress.gaussians import sanitize
from fieldpress.gaussians.codec import Steps, encode
from fieldpress.gaussians.model import SplatModel
from fieldpress.scenes import synthesise
from fieldpress.viewer.png import encode_png

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT  # And files that are opened so.
# What the jobs would import: so that forks are short, and kills fall on their work.
MODULES = ("batch", "batch_report", "bayes_jobs", "contenders", "converting", "field_jobs",
           "pictures", "press", "recipes", "sweep", "tiling", "video_jobs", "viewing")  # fmt: skip
FILLER = "filler"
TAIL = 1.1  # Of the time that a job takes: kills fall there, the last of them after its end.


@dataclass(frozen=True)
class Job:
    """A command that is to be killed.

    Attributes:
        words: of its command line, in a folder with the inputs of `prepare`.
        outputs: final names that are to be whole or not there.
        resume: an option that goes on from what an interrupted run left.
        share: of all kills.
        kept: patterns of finished results that no kill may lose, with --resume.
        before: makes the outputs that are to be replaced.
    """

    words: tuple[str, ...]
    outputs: tuple[str, ...]
    resume: bool = False
    share: int = 1
    kept: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


TEXTURES = ("means_l", "means_u", "quats", "scales", "sh0", "shN_centroids", "shN_labels")
SOG = ("sog/meta.json", *(f"sog/{name}.webp" for name in TEXTURES))
PRIOR = ("--method", "combiner", "--crops", "3", "--steps", "40", "--kl-bits", "60")
# A line for each verb that writes.
JOBS: dict[str, Job] = {
    "compress": Job(("compress", "a.ply", "-o", "c.fpz", "--effort", "fast", "--overwrite"),
                    ("c.fpz",), share=3),
    "convert": Job(("convert", "a.ply", "b.spz", "--overwrite"), ("b.spz",), share=3),
    "convert, a folder replaced": Job(("convert", "a.ply", "sog/meta.json", "--overwrite"), SOG,
                                      share=8, before=("convert", "b.ply", "sog/meta.json")),
    "decompress": Job(("decompress", "a.fpz", "-o", "d.glb", "--overwrite"), ("d.glb",), share=3),
    "export a page": Job(("decompress", "a.fpz", "-o", "p.html", "--overwrite"), ("p.html",)),
    "render": Job(("render", "a.fpz", "--orbit", "3", "-o", "frames"),
                  tuple(f"frames/{i:05d}.png" for i in range(3))),
    "fit gaussians": Job(("fit", "gaussians", "photos", "-o", "f.ply", "--steps", "60", "--budget",
                          "100", "--overwrite"), ("f.ply",), resume=True, share=2),
    "fit image": Job(("fit", "image", "x.png", "-o", "i.fpz", "--steps", "60", "--overwrite"),
                     ("i.fpz",)),
    "fit video": Job(("fit", "video", "clip.npy", "-o", "v.fpz", "--preset", "ultrafast", "--group",
                      "1", "--key-every", "2", "--overwrite"), ("v.fpz",), resume=True),
    "fit prior": Job(("fit", "prior", "pictures", "-o", "r.fpz", *PRIOR, "--overwrite"),
                     ("r.fpz",)),
    "batch": Job(("batch", "m.json", "-o", "batch"), (), resume=True, share=2,
                 kept=("batch/tasks/*.json", "batch/files/*/*")),
    "compress --tiles": Job(("compress", "big.ply", "-o", "t.fpz", "--tiles", "1000", "--effort",
                             "fast", "--overwrite"), ("t.fpz",), resume=True,
                            kept=("t.fpz.parts/*-*.fpz",)),
}  # fmt: skip


def shell(count: int) -> SplatModel:
    rng = torch.Generator().manual_seed(count)
    model = small(3, count)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1)
    return SplatModel(means, *list(model.tensors().values())[1:])


def prepare(folder: Path) -> None:
    """What all jobs read."""
    for name, count in (("a", 300), ("b", 120), ("big", 2200)):
        models.save(shell(count), folder / f"{name}.ply")
    model = sanitize.sanitize(shell(300))[0]
    classes = torch.zeros(len(model), dtype=torch.int32).numpy()
    (folder / "a.fpz").write_bytes(encode(model, classes, Steps()))
    waves = np.add.outer(np.arange(4) * 9, np.arange(32 * 40 * 3)).reshape(4, 32, 40, 3)
    np.save(folder / "clip.npy", (waves // 5 % 256).astype(np.uint8))
    (folder / "x.png").write_bytes(photographs()["0.png"])
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(encode_png(torch.from_numpy(waves[0] / 255)))
    for name, data in colmap(text=True)()[0].items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    methods = [{"name": "spz", "prune": 0, "sh_degree": [0, 1], "sh_bits": 5}]
    (folder / "m.json").write_text(json.dumps({"scenes": ["a.ply", "b.ply"], "methods": methods}))


def quicken() -> None:
    """Make jobs short: a few views of few pixels, checkpoints all the time."""
    pressing.VIEWS, pressing.VIEW_SIZE, press.VIEW_SIZE = 4, (64, 48), (64, 48)
    synthesise.MIN_CANDIDATES, synthesise.CANDIDATES = 8, 1
    contenders.TIMED_ROUNDS = 1
    fitting.KEEP_SECONDS, fitting.REPORT_EVERY = 0.05, 5


# One run


def child(words: tuple[str, ...], folder: Path, kill_at: int | None) -> None:
    """Run a command in this process, which ends with it; killed at a file operation, if so."""
    os.chdir(folder)
    count = 0

    def hook(event: str, details: tuple) -> None:
        nonlocal count
        if event in EVENTS or (event == "open" and details[2] & WRITING):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def swept(place: Path) -> None:
        temporaries.sweep(place)
        os.close(os.open(folder / "swept", os.O_CREAT))

    console.sweep = swept
    sys.addaudithook(hook)
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    quicken()
    code = fieldpress(list(words))
    (folder / "events").write_text(str(count))
    sys.stdout.flush()
    os._exit(code)


def run(words: tuple[str, ...], folder: Path, kill_at: int | None = None,
        kill_after: float | None = None) -> tuple[int, float]:  # fmt: skip
    """The exit code, or minus the signal, and the seconds that it took."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            child(words, folder, kill_at)
        finally:
            os._exit(99)
    if kill_after is not None:
        while time.perf_counter() - began < kill_after:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), time.perf_counter() - began
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - began


def state(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Digests of those final names that are there."""
    found = [folder / name for name in names]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in found if p.is_file()}  # fmt: skip


def temporaries_in(folder: Path) -> dict[str, int]:
    """Names of our form below a folder, and whose they are."""
    found = {}
    for path in folder.rglob(".*.tmp"):
        named = temporaries.OURS.fullmatch(path.name)
        if named:
            found[str(path.relative_to(folder))] = int(named[1])
    return found


def kept(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    names = [str(p.relative_to(folder)) for pattern in patterns for p in folder.glob(pattern)]
    return state(folder, tuple(names))


# A job, killed


def kill_job(job: Job, count: int, rng: random.Random) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        prepare(folder)
        if job.before:
            assert run(job.before, folder)[0] == 0, (folder / "log").read_text()
        before = state(folder, job.outputs)
        code, seconds = run(job.words, folder)
        assert code == 0, (folder / "log").read_text()
        whole = state(folder, job.outputs) | kept(folder, job.kept)
        whole = {key: value for key, value in whole.items() if "batch/tasks" not in key}
        events = int((folder / "events").read_text())
        found = {"kills": 0, "ran_to_the_end": 0, "damaged": 0, "lost": 0, "left": 0, "said": [],
                 "file_operations": events, "seconds": seconds}  # fmt: skip
        fresh(job, folder, rng)
        while found["kills"] < count:
            one_kill(job, folder, rng, found, before, whole, events, seconds)
            if found["ran_to_the_end"] > 20 * count:
                raise RuntimeError("it is never killed in time")
        words = (*job.words, *resuming(job, folder))
        code, _ = run(words, folder)
        last = state(folder, job.outputs) | {k: v for k, v in kept(folder, job.kept).items()
                                             if k.startswith("batch/files")}  # fmt: skip
        found["resumed_to_the_same"] = code == 0 and last == whole
        if not found["resumed_to_the_same"]:
            found["said"].append((folder / "log").read_text()[-300:])
        found["left_at_the_end"] = sorted(temporaries_in(folder))
        return found


def resuming(job: Job, folder: Path) -> tuple[str, ...]:
    """--resume where there is something to go on from."""
    if not job.resume:
        return ()
    there = {"fit": "*.checkpoint", "compress": "*.parts/job.json"}.get(job.words[0], "*")
    there = any(folder.glob(there))
    return ("--resume",) if there else ()


def fresh(job: Job, folder: Path, rng: random.Random) -> None:
    """Forget what is finished, now and then: so kills meet beginnings as well as ends."""
    for name in job.outputs:
        if not job.before:
            (folder / name).unlink(missing_ok=True)
    if not job.before and job.outputs:
        shutil.rmtree(folder / job.outputs[0].partition("/")[0], ignore_errors=True)
    if job.resume and rng.random() < 0.3:
        for path in [*folder.glob("*.checkpoint"), *folder.glob("batch/tasks/*.json")]:
            path.unlink()
        for path in folder.glob("*.parts"):
            shutil.rmtree(path)


def one_kill(job: Job, folder: Path, rng: random.Random, found: dict, before: dict, whole: dict,
             events: int, seconds: float) -> None:  # fmt: skip
    fresh(job, folder, rng)
    (folder / "swept").unlink(missing_ok=True)
    finished, old = kept(folder, job.kept), temporaries_in(folder)
    words = (*job.words, *resuming(job, folder))
    if rng.random() < 0.5:
        code, _ = run(words, folder, kill_at=rng.randint(1, events))
    else:
        code, _ = run(words, folder, kill_after=rng.uniform(0, TAIL * seconds))
    if code >= 0:
        found["ran_to_the_end"] += 1
        if code:
            found["damaged"] += 1
            found["said"].append((folder / "log").read_text()[-300:])
        return
    found["kills"] += 1
    stale = set(old) & set(temporaries_in(folder))
    if stale and (folder / "swept").exists():  # Else the kill came before the sweep.
        found["left"] += len(stale)
        found["said"].append(f"left: {sorted(stale)}")
    if job.before:
        damaged = mixture(folder, job.outputs, before, whole)
    else:
        got = state(folder, job.outputs)
        damaged = [key for key, value in got.items() if whole.get(key) != value]
    damaged += [key for key, value in kept(folder, job.kept).items()
                if key in whole and whole[key] != value]  # fmt: skip
    damaged += [str(p) for p in folder.glob("batch/tasks/*.json") if not is_json(p)]
    lost = [key for key in finished if not (folder / key).is_file()]
    if job.outputs and all((folder / name).is_file() for name in job.outputs):
        lost = []  # They went into the whole.
    found["damaged"] += len(damaged)
    found["lost"] += len(lost)
    found["said"] += [f"damaged: {damaged}"] * bool(damaged) + [f"lost: {lost}"] * bool(lost)


def mixture(folder: Path, names: tuple[str, ...], before: dict, whole: dict) -> list[str]:
    """The names at fault of a folder that looks like a scene and is neither the old nor the new."""
    got = state(folder, names)
    if "sog/meta.json" not in got or got in (before, whole):
        return []
    return sorted(got)


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


# Disks that are full, folders that may not be written


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """A full disk at `folder`: a tmpfs, or else a limit on files; yields which."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            with contextlib.suppress(OSError), (folder / FILLER).open("wb", buffering=0) as file:
                while True:  # Sizes are rounded up to a page, in which a small file has room.
                    file.write(bytes(512))
            yield "tmpfs"
        finally:
            subprocess.run(["umount", str(folder)], check=False)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield "RLIMIT_FSIZE"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_room(job: Job, place: Callable[[Path], Any]) -> dict[str, Any]:
    """One line and exit code 1, and nothing left, where the output cannot be written."""
    with tempfile.TemporaryDirectory(prefix="kills-") as base:
        folder = Path(base)
        prepare(folder)
        target = folder / "disk"
        target.mkdir()
        words = list(job.words)
        at = words.index("-o") + 1 if "-o" in words else 2
        words[at] = f"disk/{words[at]}"
        with place(target) as how:
            code, _ = run(tuple(words), folder)
            said = (folder / "log").read_text().strip().splitlines()
            left = sorted(
                str(p.relative_to(target))
                for p in target.rglob("*")
                if p.is_file() and p.name != FILLER
            )
        errors = [line for line in said if "error:" in line]
        good = code == 1 and len(errors) <= 1 and not any("Traceback" in line for line in said)
        row = {"how": how, "code": code, "said": said[-1:], "left": left}
        told = bool(said) and "please report it" not in said[-1] and "disk/" in said[-1]
        return row | {"good": good and told}


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[str]:
    """A folder of a disk that may only be read."""
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield "tmpfs"
        finally:
            subprocess.run(["umount", str(folder)], check=False)
        return
    folder.chmod(0o500)  # Root may write there all the same.
    try:
        yield "chmod"
    finally:
        folder.chmod(0o700)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: JOBS[name] for name in arguments.only or JOBS}
    shares = sum(job.share for job in chosen.values())
    for module in MODULES:
        importlib.import_module(f"fieldpress.{module}")
    last = RESULTS / "kills.json"
    known = json.loads(last.read_text()) if arguments.only and last.exists() else {}
    rows, disks = known.get("jobs", {}), known.get("disks", {})
    for name, job in chosen.items():
        rng = random.Random(f"{name}/{arguments.seed}")
        count = -(-arguments.kills * job.share // shares)
        rows[name] = kill_job(job, count, rng) | {"commit": machine()["commit"]}
        print(name, rows[name], flush=True)
        disks[f"{name}, full"] = no_room(job, lambda p: small_disk(p, 1))
        disks[f"{name}, read-only"] = no_room(job, read_only)
        print(disks[f"{name}, full"], disks[f"{name}, read-only"], flush=True)
        write("kills", totals(rows, disks) | {"seed": arguments.seed})
    print(
        {key: value for key, value in totals(rows, disks).items() if key not in ("jobs", "disks")}
    )


def totals(rows: dict[str, dict], disks: dict[str, dict]) -> dict[str, Any]:
    keys = ("kills", "damaged", "lost", "left")
    return {
        **{key: sum(row[key] for row in rows.values()) for key in keys},
        "resumed_to_the_same": sum(row["resumed_to_the_same"] for row in rows.values()),
        "disks_told_in_one_line": sum(row["good"] for row in disks.values()),
        "jobs": rows,
        "disks": disks,
    }


if __name__ == "__mp_main__":  # In the workers of batch and of tiles.
    quicken()
if __name__ == "__main__":
    main()
