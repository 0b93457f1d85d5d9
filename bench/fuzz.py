"""Mutations of everything that we read: a model or one ValueError; no crash, hang or allocation.

Small files of every kind are changed as they lie and from within, checksums made right again so
that damage reaches the decoders (fuzz_bytes.py); fuzz_targets.py names the readers. Each target
runs in a process of its own: what kills it is a crash, an input that takes more than SECONDS of the
processor a hang, and its address space has room for twice the limit that readers keep to, so that
an allocation beyond that fails. The same seed gives the same inputs.
Writes bench/results/fuzz.json.

    python bench/fuzz.py --seconds 600 [--only TARGET ...]     # shared evenly
    python bench/fuzz.py --count 1000                          # of each
    python bench/fuzz.py --show "spz 4" 1234 > input           # an input again
    python bench/fuzz.py --guided "sog" --seconds 60           # by coverage, where atheris is there
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from fuzz_targets import BATTERY, SCRATCH, TARGETS, Target, exercised, mutated, named, tidy
from record import RESULTS, machine, write

from fieldpress.quant import budget

LIMIT = 128 << 20  # Bytes that readers are told they may take.
ROOM = 2 * LIMIT  # Bytes of address space beside what the process begins with.
SECONDS = 5.0  # Of the processor, for one input.
LOOK = 0.25  # Seconds between two looks at a worker.
MOST = 1 << 40
KEEP = 20  # Failures that are told.


def tried(target: Target, data: Any, render: bool = False) -> str:
    """What came of an input: read, refused, or how it failed."""
    try:
        found = target.read(data)
        if render:
            exercised(found)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"lines: {error!r}"
    except FileNotFoundError as error:
        return "refused" if "\n" not in str(error) else f"lines: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


# The worker


def work(target: Target, seed: int, first: int, last: int, seconds: float, place: Path) -> None:
    """Try inputs, telling in a mapped file which one is at hand, and on stdout what came of all."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    budget.set_limit(LIMIT)
    seeds = list(target.seeds())
    for data in seeds:  # Imports what readers import, and shows that the seeds are good.
        exercised(target.read(data))
    if first == 0:
        print(json.dumps({"seeds": len(seeds)}), flush=True)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tally: dict[str, int] = {}
    failures, slowest = [], 0.0
    begin = time.process_time()
    number = first - 1
    with place.open("r+b", buffering=0) as mark:
        for number in range(first, last):
            if time.process_time() - begin > seconds:
                number -= 1
                break
            mark.seek(0)
            mark.write(struct.pack("<q", number))
            data = mutated(target, seeds, seed, number)
            if data is None:
                tally["unmade"] = tally.get("unmade", 0) + 1
                continue
            before = time.process_time()
            what = tried(target, data, render=number % BATTERY == 0)
            slowest = max(slowest, time.process_time() - before)
            if what not in ("read", "refused"):
                failures.append({"number": number, "what": what[:300]})
                what = "failed"
            tally[what] = tally.get(what, 0) + 1
            if number % 500 == 499:
                _tell(tally, failures, slowest, number)
                tally, failures, slowest = {}, [], 0.0
    _tell(tally, failures, slowest, number, done=True)


def _tell(
    tally: dict[str, int], failures: list, slowest: float, number: int, done: bool = False
) -> None:
    print(json.dumps({
        "tally": tally, "failures": failures, "slowest": slowest, "next": number + 1,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "cpu": time.process_time(), "done": done,
    }), flush=True)  # fmt: skip


# The driver


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(command: list[str], place: Path) -> tuple[list[dict], str | None, str]:
    """Run a worker to its end: what it told, why it was ended or died, its last words."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdout=out, stderr=err)
        at, since, why = b"", 0.0, None
        while child.poll() is None:
            time.sleep(LOOK)
            now = place.read_bytes()
            with contextlib.suppress(OSError, IndexError):
                used = cpu_seconds(child.pid)
                if now != at:
                    at, since = now, used
                elif at and used - since > SECONDS:
                    child.kill()
                    why = f"hang: more than {SECONDS:g} s"
        child.wait()
        if why is None and child.returncode:
            why = (
                f"crash: signal {signal.Signals(-child.returncode).name}"
                if child.returncode < 0 else f"ended with code {child.returncode}"
            )  # fmt: skip
        out.seek(0)
        err.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines() if line.endswith(b"}")]
        return lines, why, err.read().decode("utf-8", "replace")[-600:]


def fuzz(target: Target, seed: int, count: int, seconds: float) -> dict[str, Any]:
    """Run a target for so many inputs or seconds of the processor, whatever dies on the way."""
    start, first, left = time.perf_counter(), 0, seconds
    found: dict[str, Any] = {"outcomes": {}, "failures": [], "slowest_seconds": 0.0,
                             "peak_rss_bytes": 0, "cpu_seconds": 0.0}  # fmt: skip
    with tempfile.NamedTemporaryFile(dir=SCRATCH) as mark:
        place = Path(mark.name)
        while first < count and left > 0:
            place.write_bytes(b"")
            options = {"worker": target.name, "seed": seed, "first": first, "count": count,
                       "seconds": left, "mark": place}  # fmt: skip
            words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
            lines, why, said = watched([sys.executable, __file__, *words], place)
            told = [line for line in lines if "tally" in line]
            for line in told:
                for what, number in line["tally"].items():
                    found["outcomes"][what] = found["outcomes"].get(what, 0) + number
                found["failures"] += line["failures"]
                found["slowest_seconds"] = max(found["slowest_seconds"], line["slowest"])
                found["peak_rss_bytes"] = max(found["peak_rss_bytes"], line["peak"])
            used = told[-1]["cpu"] if told else 1.0
            found["cpu_seconds"] += used
            left -= used
            first = told[-1]["next"] if told else first
            if why is None:
                break
            mark_bytes = place.read_bytes()
            if len(mark_bytes) != 8:
                raise RuntimeError(f"{target.name}: the worker did not begin: {why}: {said}")
            number = struct.unpack("<q", mark_bytes)[0]
            found["failures"].append({"number": number, "what": f"{why}: {said[-200:]}"})
            found["outcomes"]["failed"] = found["outcomes"].get("failed", 0) + 1
            found["outcomes"]["untold"] = found["outcomes"].get("untold", 0) + number - first
            first = number + 1
    tidy()
    found["inputs"] = sum(n for k, n in found["outcomes"].items() if k not in ("unmade", "untold"))
    return {**found, "wall_seconds": time.perf_counter() - start}


def totals(rows: dict[str, dict]) -> dict[str, Any]:
    failures = [failure["what"] for row in rows.values() for failure in row["failures"]]
    return {
        "inputs": sum(row["inputs"] for row in rows.values()),
        "crashes": sum(what.startswith(("crash", "ended")) for what in failures),
        "hangs": sum(what.startswith("hang") for what in failures),
        "allocations": sum("MemoryError" in what or "alloc" in what for what in failures),
        "failures": len(failures),
        "slowest_seconds": max(row["slowest_seconds"] for row in rows.values()),
        "peak_rss_bytes": max(row["peak_rss_bytes"] for row in rows.values()),
    }


def guided(target: Target, seconds: float) -> None:
    """Let coverage of the Python code choose what is changed further: needs atheris."""
    import atheris

    seeds = [data for data in target.seeds() if isinstance(data, bytes)]
    mutations = target.mutations
    budget.set_limit(LIMIT)

    def one(given: bytes) -> None:
        data = bytes(given)
        what = tried(target, data)
        if what not in ("read", "refused"):
            raise RuntimeError(what)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        import random

        rng = random.Random(seed)
        with contextlib.suppress(Exception):
            if mutations and rng.random() < 0.5:
                return rng.choice(mutations)(data, rng)[:most]
        return atheris.Mutate(data, most)

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(data)
        options = [f"-max_total_time={seconds:.0f}", "-timeout=5", "-rss_limit_mb=4096",
                   "-max_len=65536", corpus]  # fmt: skip
        for data in seeds:
            target.read(data)  # Imports what readers import.
        for found in gc.get_objects():  # Of torch alone there are 20,000 more.
            ours = isinstance(found, types.FunctionType) and str(found.__module__)
            if ours and ours.startswith("fieldpress."):
                atheris.instrument_func(found)
        atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=MOST)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--show", nargs=2, metavar=("TARGET", "NUMBER"))
    parser.add_argument("--guided", metavar="TARGET")
    parser.add_argument("--name", default="fuzz", help="of the results' file")
    parser.add_argument("--worker")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mark", type=Path)
    given = parser.parse_args()
    if given.worker:
        return work(named(given.worker), given.seed, given.first, given.count, given.seconds,
                    given.mark)  # fmt: skip
    if given.show:
        target = named(given.show[0])
        data = mutated(target, list(target.seeds()), given.seed, int(given.show[1]))
        text = data if isinstance(data, bytes) else repr(data).encode()
        sys.stdout.buffer.write(text)
        return
    if given.guided:
        return guided(named(given.guided), given.seconds or 60)
    if given.seconds is None and given.count == MOST:
        given.seconds = 600.0
    chosen = [named(name) for name in given.only] if given.only else list(TARGETS)
    share = given.seconds / len(chosen) if given.seconds else float(MOST)
    last = RESULTS / f"{given.name}.json"
    rows = json.loads(last.read_text())["targets"] if given.only and last.exists() else {}
    for target in chosen:
        row = fuzz(target, given.seed, given.count, share)
        rows[target.name] = {**row, "failures": row["failures"][:KEEP],
                             "commit": machine()["commit"]}  # fmt: skip
        said = f"{target.name:18s} {row['inputs']:8,} inputs {row['outcomes']}"
        said += f" slowest {row['slowest_seconds']:.2f} s"
        print(said, *row["failures"][:5], sep="\n  ", flush=True)
        result = {"seed": given.seed, "limit_bytes": LIMIT, "address_space_bytes": ROOM,
                  "seconds_per_input": SECONDS, **totals(rows), "targets": rows}  # fmt: skip
        path = write(given.name, result)
    print(totals(rows), "wrote", path)


if __name__ == "__main__":
    main()
