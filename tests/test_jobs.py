"""Tasks in processes of their own: what dies, hangs or fails is told and harms no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldpress import jobs
from fieldpress.jobs import Outcome, Policy, Processes, run_all

# A module of its own, as a process that is spawned imports what it is to do by name.
MODULE = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Do:
    key: str
    what: str
    marks: Path  # A folder: which tries there were.

    def run(self, place):
        tries = len(list(self.marks.glob(f"{self.key}-*")))
        (self.marks / f"{self.key}-{tries}").touch()
        (place / "made").write_text(self.key)
        if self.what == "wrong":
            raise ValueError(f"{place / 'made'}: no good")
        if self.what == "odd":
            raise RuntimeError("odd")
        if self.what == "die" or (self.what == "once" and tries == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "leave":
            os._exit(3)
        if self.what == "hang":
            time.sleep(60)
        print("not on stdout")
        return {"files": ["made"], "of": self.key}
"""
QUICK = Policy(retries=1, pause=0.01)


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A factory: light(key, what) makes a task; light.marks counts its tries."""
    (tmp_path / "light_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "light_tasks", raising=False)
    import light_tasks  # pyright: ignore[reportMissingImports]

    marks = tmp_path / "marks"
    marks.mkdir()

    def make(key: str, what: str):
        return light_tasks.Do(key, what, marks)

    make.marks = marks
    return make


def tries(light, key: str) -> int:
    return len(list(light.marks.glob(f"{key}-*")))


def test_whatever_happens_to_one_the_others_finish(light, tmp_path: Path, capfd) -> None:
    work = tmp_path / "work"
    tasks = [light(what, what) for what in ("die", "wrong", "once", "odd", "leave", "fine")]
    pool = Processes(1)
    found = {}
    for done in run_all(tasks, pool, work, QUICK):
        found[done.task.key] = done
        if done.outcome.result is not None:
            assert (done.place / "made").read_text() == done.task.key
    assert set(found) == {task.key for task in tasks}
    assert found["fine"].outcome.result == {"files": ["made"], "of": "fine"}
    assert (found["once"].attempts, found["once"].lost) == (
        2,
        ("the process was killed by signal 9",),
    )
    assert found["die"].outcome.reason == "the process was killed by signal 9"
    assert found["leave"].outcome.reason == "the process ended with code 3"
    assert found["odd"].outcome.reason == "RuntimeError: odd"
    assert found["wrong"].outcome.reason == "made: no good"  # The place is nobody's business.
    counts = {key: tries(light, key) for key in found}
    assert counts == {"die": 2, "wrong": 1, "once": 2, "odd": 2, "leave": 2, "fine": 1}
    assert list(work.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_what_takes_too_long_is_ended(light, tmp_path: Path) -> None:
    policy = Policy(retries=0, timeout=3.0)
    (done,) = run_all([light("hang", "hang")], Processes(1), tmp_path / "work", policy)
    assert done.outcome == Outcome(None, "took more than 3 s", again=True)


def test_nothing_runs_on_behind_a_generator_that_is_closed(light, tmp_path: Path) -> None:
    pool = Processes(2)
    running = run_all([light("hang", "hang"), light("b", "fine")], pool, tmp_path / "work", QUICK)
    assert next(running).task.key == "b"
    (process, _) = pool._running["hang"]
    pid = process.pid
    running.close()
    assert pool._running == {}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_tasks_end_with_a_driver_that_is_killed(light, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(
        "from pathlib import Path\nfrom fieldpress.jobs import Processes, run_all\n"
        "from light_tasks import Do\n"
        "if __name__ == '__main__':\n"
        f"    task = Do('hang', 'hang', Path({str(light.marks)!r}))\n"
        f"    list(run_all([task], Processes(1), Path({str(tmp_path / 'work')!r})))\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, str(driver)], env=environment)
    while not tries(light, "hang"):
        assert process.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("no /proc to find its processes in")
    pids = [int(word) for word in children.read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert pids
    for _ in range(500):
        if not any(_alive(pid) for pid in pids):
            return
        time.sleep(0.02)
    raise AssertionError("a task lives on without its driver")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Scripted:
    """A pool without processes, whose tasks end as they are told; keeps what it was asked."""

    def __init__(self, outcomes: dict[str, list[Outcome]], room: int = 1) -> None:
        self.outcomes, self.size, self.running, self.started = outcomes, room, [], []

    def room(self) -> int:
        return self.size

    def start(self, task, place: Path) -> None:
        assert list(place.iterdir()) == []
        self.running.append(task.key)
        self.started.append(task.key)
        assert len(self.running) <= self.size

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        ended, self.running = self.running, []
        return [(key, self.outcomes[key].pop(0)) for key in ended]

    def stop(self, key: str) -> None:
        self.running.remove(key)

    def close(self) -> None: ...


def test_a_second_try_waits_and_lets_others_go_first(light, tmp_path: Path) -> None:
    good, bad = Outcome({}), Outcome(None, "lost", again=True)
    pool = Scripted({"a": [bad, bad, good], "b": [good], "c": [good]})
    tasks = [light(key, "fine") for key in "abc"]
    done = list(run_all(tasks, pool, tmp_path / "w", Policy(retries=2, pause=0.02)))
    assert pool.started[:3] == ["a", "b", "c"]
    assert [one.task.key for one in done] == ["b", "c", "a"]
    assert (done[2].attempts, done[2].lost) == (3, ("lost", "lost"))


def test_pauses_double(light, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    starts = []

    class Ticking(Scripted):
        def start(self, task, place: Path) -> None:
            super().start(task, place)
            starts.append(clock[0])

        def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
            ended = super().wait(seconds)
            clock[0] += 0 if ended else 0.25
            return ended

    bad = Outcome(None, "lost", again=True)
    list(run_all([light("a", "")], Ticking({"a": [bad] * 4}), tmp_path / "w", Policy(3, pause=1.0)))
    assert starts == [0, 1, 3, 7]
