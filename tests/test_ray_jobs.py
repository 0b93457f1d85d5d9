"""The same tasks on a Ray cluster: results, files and deaths come back as from processes here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray.util", reason="Ray is not installed")

from fieldpress.jobs import Policy, run_all
from fieldpress.ray_jobs import RayPool

MODULE = """
import os, signal
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Do:
    key: str
    what: str
    marks: Path

    def run(self, place):
        first = not (self.marks / self.key).exists()
        (self.marks / self.key).touch()
        if self.what == "once" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "wrong":
            raise ValueError("no good")
        (place / "made").write_bytes(self.key.encode())
        return {"files": ["made"], "of": self.key}
"""


@pytest.mark.slow
def test_tasks_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    import ray_tasks  # pyright: ignore[reportMissingImports]

    tasks = [ray_tasks.Do(what, what, tmp_path) for what in ("fine", "once", "wrong")]
    pool = RayPool("local")
    try:
        found = {}
        for done in run_all(tasks, pool, tmp_path / "work", Policy(retries=1, pause=0.01)):
            found[done.task.key] = done
            if done.outcome.result is not None:
                assert (done.place / "made").read_text() == done.task.key
        assert found["fine"].outcome.result == {"files": ["made"], "of": "fine"}
        assert found["wrong"].outcome.reason == "no good"
        assert found["once"].attempts == 2
        assert "WorkerCrashedError" in found["once"].lost[0]
    finally:
        pool.close()


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"^--ray: no cluster at 'nonsense://x'") as caught:
        RayPool("nonsense://x")
    assert "\n" not in str(caught.value)
