"""The same tasks on a Ray cluster, whose nodes have fieldpress installed and see the inputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .jobs import Outcome, Task, attempt, single_threaded
from .temporaries import scratch


def _on_node(task: Task) -> tuple[dict[str, Any], dict[str, bytes]]:
    """One try on a node, in a process of its own; what it left comes back as bytes."""
    single_threaded(1)  # As a task of several has here: the same bytes, whoever runs it.
    with scratch("fieldpress-task") as place:
        outcome = attempt(task, place)
        files = (outcome.result or {}).get("files", [])
        return vars(outcome), {file: (place / file).read_bytes() for file in files}


class RayPool:
    """A pool of a Ray cluster: a CPU a task, and as much of a GPU as it claims.

    Args:
        address: of the cluster, or "local" to start one on this machine.
        gpus: that each task claims.

    Raises ValueError where Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str, *, gpus: float = 0) -> None:
        try:
            import ray.util  # A folder named ray would do for plain `ray`.
        except ImportError:
            raise ValueError("--ray: needs Ray: pip install 'fieldpress[ray]'") from None
        self._ray, self._gpus = ray, gpus
        where: dict[str, Any] = {} if address == "local" else {"address": address}
        try:
            ray.init(
                **where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"--ray: no cluster at {address!r}: {said}") from None
        # A process serves one task, and a failure is ours to judge: see jobs.Policy.
        self._remote = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=0)(_on_node)
        self._running: dict[Any, tuple[str, Path]] = {}

    def room(self) -> int:
        found = self._ray.cluster_resources()
        room = int(found.get("CPU", 0))
        return min(room, int(found.get("GPU", 0) / self._gpus)) if self._gpus else room

    def start(self, task: Task, place: Path) -> None:
        self._running[self._remote.remote(task)] = task.key, place

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        if not self._running:  # All wait to be tried again.
            time.sleep(seconds)
            return []
        refs = list(self._running)
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
        return [self._ended(ref) for ref in ready]

    def _ended(self, ref: Any) -> tuple[str, Outcome]:
        key, place = self._running.pop(ref)
        try:
            said, files = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            return key, Outcome(None, f"{type(error).__name__}: {reason}", again=True)
        return key, _landed(said, files, place)

    def stop(self, key: str) -> None:
        for ref, (name, _) in list(self._running.items()):
            if name == key:
                del self._running[ref]
                self._ray.cancel(ref, force=True)

    def close(self) -> None:
        for key, _ in list(self._running.values()):
            self.stop(key)
        self._ray.shutdown()


def _landed(said: Mapping[str, Any], files: Mapping[str, bytes], place: Path) -> Outcome:
    for name, data in files.items():
        (place / name).write_bytes(data)
    return Outcome(**said)
