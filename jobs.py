"""Independent tasks, each in a process of its own: started, watched, tried again, handed out.

What a task does is its `run`; where it runs is a pool's affair (processes here, or a Ray cluster);
what becomes of its files is the caller's, who alone writes results.
"""

from __future__ import annotations

import heapq
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from .console import to_json

RESULT = "result.json"  # What a local task leaves last in its place.
STEP = 0.5  # Seconds at most between two looks at the clock.
LEAVE = 5.0  # Seconds that a killed process has to go.


class Task(Protocol):
    """A piece of work that needs no other; small, as it is sent to where it runs."""

    @property
    def key(self) -> str:
        """Names it among all tasks, and its folder."""
        ...

    def run(self, place: Path) -> Mapping[str, Any]:
        """Work in the empty folder `place`; what to report, as JSON.

        "files" in it are the names of those files in `place` that are results. Raises ValueError
        where it would fail another time as well.
        """
        ...


@dataclass(frozen=True)
class Policy:
    """When a task that failed is tried again.

    Attributes:
        retries: beyond the first try.
        pause: seconds before the second try; twice as long before each that follows.
        timeout: seconds that a try may take, or None.
    """

    retries: int = 2
    pause: float = 1.0
    timeout: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a try ended: with a result, or for a reason; `again` where another may end better."""

    result: Mapping[str, Any] | None
    reason: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Finished:
    """A task that will not run any more; its files are in `place` until the next one is asked for.

    Attributes:
        attempts: tries that it took.
        lost: why each of those that were not the last failed.
    """

    task: Task
    outcome: Outcome
    place: Path
    attempts: int
    lost: tuple[str, ...]


class Pool(Protocol):
    """Where tasks run."""

    def room(self) -> int:
        """Tasks that may run at once, as things stand."""
        ...

    def start(self, task: Task, place: Path) -> None: ...

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Those that ended, by key, after so many seconds at most."""
        ...

    def stop(self, key: str) -> None:
        """End one that runs; nothing more is heard of it."""
        ...

    def close(self) -> None:
        """End all that runs."""
        ...


def run_all(
    tasks: Sequence[Task], pool: Pool, folder: Path, policy: Policy | None = None
) -> Iterator[Finished]:
    """Tasks as they finish, whatever becomes of the others; none runs on when this generator ends.

    Each try has an empty place of its own below `folder`.
    """
    policy = policy or Policy()
    waiting = [(0.0, number, 1) for number in range(len(tasks))]  # A heap: when, which, what try.
    numbers = {task.key: number for number, task in enumerate(tasks)}
    running: dict[str, tuple[float, int, Path]] = {}  # Since when, what try, where.
    lost: dict[str, tuple[str, ...]] = {}
    places: set[Path] = set()
    try:
        while waiting or running:
            room = pool.room()
            while waiting and len(running) < room and waiting[0][0] <= time.monotonic():
                _, number, attempt = heapq.heappop(waiting)
                key = tasks[number].key
                place = folder / f"{key}-{attempt}"
                place.mkdir(parents=True)
                places.add(place)
                pool.start(tasks[number], place)
                running[key] = time.monotonic(), attempt, place
            ended = pool.wait(STEP) + _overdue(running, pool, policy.timeout)
            for key, outcome in ended:
                _, attempt, place = running.pop(key)
                if outcome.again and attempt <= policy.retries:
                    lost[key] = (*lost.get(key, ()), outcome.reason or "")
                    when = time.monotonic() + policy.pause * 2 ** (attempt - 1)
                    heapq.heappush(waiting, (when, numbers[key], attempt + 1))
                else:
                    task = tasks[numbers[key]]
                    yield Finished(task, outcome, place, attempt, lost.get(key, ()))
                shutil.rmtree(place, ignore_errors=True)
                places.remove(place)
    finally:
        for key in list(running):
            pool.stop(key)
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


def _overdue(
    running: Mapping[str, tuple[float, int, Path]], pool: Pool, timeout: float | None
) -> list[tuple[str, Outcome]]:
    """Stop what takes too long."""
    if timeout is None:
        return []
    late = [key for key, (since, *_) in running.items() if time.monotonic() - since > timeout]
    for key in late:
        pool.stop(key)
    return [(key, Outcome(None, f"took more than {timeout:g} s", again=True)) for key in late]


def attempt(task: Task, place: Path) -> Outcome:
    """One try, in the process that it is to have for itself."""
    try:
        return Outcome(task.run(place))
    except ValueError as error:
        return Outcome(None, " ".join(str(error).replace(f"{place}{os.sep}", "").split()))
    except Exception as error:  # Whatever it is, the other tasks go on.
        said = " ".join(str(error).split())
        return Outcome(None, f"{type(error).__name__}: {said}", again=True)


# Processes of this machine


class Processes:
    """A pool of this machine: a fresh process a task, of one thread where several run at once."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[str, tuple[Any, Path]] = {}

    def room(self) -> int:
        return self._jobs

    def start(self, task: Task, place: Path) -> None:
        threads = None if self._jobs == 1 else 1
        process = self._context.Process(target=_work, args=(task, place, threads), daemon=False)
        process.start()
        self._running[task.key] = process, place

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        connection.wait([p.sentinel for p, _ in self._running.values()], seconds)
        ended = [key for key, (p, _) in self._running.items() if p.exitcode is not None]
        found = []
        for key in ended:
            process, place = self._running.pop(key)
            found.append((key, _left(process.exitcode, place)))
            process.close()
        return found

    def stop(self, key: str) -> None:
        process, _ = self._running.pop(key)
        process.kill()
        process.join(LEAVE)

    def close(self) -> None:
        for key in list(self._running):
            self.stop(key)


def _left(code: int, place: Path) -> Outcome:
    """What a process that ended left behind."""
    try:
        found = json.loads((place / RESULT).read_bytes())
        return Outcome(found["result"], found["reason"], found["again"])
    except (OSError, ValueError, KeyError):
        by = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Outcome(None, f"the process was {by}" if code < 0 else f"the process {by}", True)


def _work(task: Task, place: Path, threads: int | None) -> None:
    """The whole life of a process: it ends with its task, or with the process that started it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends us.
    os.dup2(sys.stderr.fileno(), 1)  # The parent's stdout is for its report alone.
    single_threaded(threads)
    text = to_json(vars(attempt(task, place)))
    (place / f"{RESULT}.tmp").write_text(text, "utf-8")
    os.replace(place / f"{RESULT}.tmp", place / RESULT)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def single_threaded(threads: int | None) -> None:
    """Use so many threads in this process, or as many as there are cores for None."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
