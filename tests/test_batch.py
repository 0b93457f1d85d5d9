"""A batch: whole files and records, resumed by content, reported; what fails is told."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fieldpress import batch, batch_report, contenders, models
from fieldpress.__main__ import main
from fieldpress.batch import Store, content_hash, plan, run_batch
from fieldpress.gaussians import compress as pressing
from fieldpress.gaussians.model import SplatModel
from fieldpress.jobs import Outcome, Policy, Task, attempt
from fieldpress.manifest import gather, read_manifest
from fieldpress.scenes import synthesise

METHODS = [{"name": "spz", "prune": [0, 0.3], "sh_degree": [3, 0], "sh_bits": 8}]
POINTS = 4  # Of a scene of degree 3; two of degree 0.


class Here:
    """A pool of this very process: what is tested is the batch, not where it runs."""

    def __init__(self, doomed: Callable[[Any], bool] = lambda task: False) -> None:
        self.doomed, self.ran, self.waiting = doomed, [], []

    def room(self) -> int:
        return 2

    def start(self, task: Task, place: Path) -> None:
        self.ran.append(task)
        bad = Outcome(None, "the process was killed by signal 9", again=True)
        self.waiting.append((task.key, bad if self.doomed(task) else attempt(task, place)))

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        return [self.waiting.pop()] if self.waiting else []

    def stop(self, key: str) -> None:
        self.waiting = [item for item in self.waiting if item[0] != key]

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressing, "VIEWS", 4)
    monkeypatch.setattr(pressing, "VIEW_SIZE", (64, 48))
    monkeypatch.setattr(synthesise, "MIN_CANDIDATES", 4)
    monkeypatch.setattr(synthesise, "CANDIDATES", 1)
    monkeypatch.setattr(contenders, "TIMED_ROUNDS", 1)


@pytest.fixture
def manifest(tmp_path: Path, tiny_model: Callable[..., SplatModel]) -> Path:
    """Two tiny scenes, one of degree 3 and one of degree 0."""
    for name, degree in (("a", 3), ("b", 0)):
        models.save(tiny_model(80, degree), tmp_path / f"{name}.ply")
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"scenes": ["a.ply", "b.ply"], "methods": METHODS}))
    return path


def run(manifest: Path, pool: Here | None = None, **options: Any) -> dict[str, Any]:
    options = {"policy": Policy(retries=1, pause=0.001), **options}
    out = str(options.pop("out", manifest.parent / "out"))
    return run_batch(read_manifest(manifest), out, pool or Here(), **options)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("tasks/*.json"))]


def test_every_task_leaves_its_file_and_its_record(manifest: Path) -> None:
    report = run(manifest)
    out = manifest.parent / "out"
    assert (report["tasks"], report["ran"], report["failed"]) == (POINTS + 2, POINTS + 2, 0)
    results = json.loads((out / "results.json").read_text())
    assert len(results["points"]) == len(records(out)) == POINTS + 2
    for row in results["points"]:
        path = out / "files" / row["scene"] / row["file"]
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["output_bytes"] == path.stat().st_size
        assert row["count_out"] == len(models.load(path))
    table = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [float(row["psnr_self"]) for row in table] == [
        row["psnr_self"] for row in results["points"]
    ]
    page = (out / "index.html").read_text()
    assert "Medians over scenes" in page
    assert "<h1>Batch</h1>" in page
    (low,) = [row for row in results["medians"] if row["knobs"] == "prune 0.3, sh 0"]
    both = [row for row in results["points"] if row["settings"] == {"prune": 0.3, "sh_degree": 0}]
    assert low["scenes"] == len(both) == 2
    assert low["ratio"] == statistics.median(row["ratio"] for row in both)
    left = {path.name for path in out.iterdir()}
    assert left == {"files", "tasks", "results.json", "results.csv", "curves.svg", "index.html"}


def test_the_digest_is_that_of_the_results_not_of_the_times(manifest: Path) -> None:
    first, second = (run(manifest, out=manifest.parent / name)["digest"] for name in "xy")
    assert first == second
    assert first != run(manifest, out=manifest.parent / "z", seed=1)["digest"]


def test_a_task_that_dies_is_told_and_the_rest_go_on(manifest: Path) -> None:
    pool = Here(lambda task: task.entry.name == "b" and task.settings["prune"] == 0)
    report = run(manifest, pool)
    assert (report["failed"], report["retried"], report["ran"]) == (1, 1, POINTS + 2)
    assert len(pool.ran) == POINTS + 3
    out = manifest.parent / "out"
    (lost,) = [row for row in records(out) if "failed" in row]
    assert lost["failed"] == "the process was killed by signal 9"
    assert lost["lost"] == ["the process was killed by signal 9"]
    assert lost["failed"] in (out / "index.html").read_text()
    again = Here()
    assert run(manifest, again, resume=True)["failed"] == 0
    assert [task.key for task in again.ran] == [lost["key"]]


def test_a_scene_that_cannot_be_read_fails_alone(manifest: Path) -> None:
    (manifest.parent / "b.ply").write_bytes(b"ply\nnonsense")
    report = run(manifest)
    assert report["scenes"] == 1
    assert report["failed"] == report["tasks"] - POINTS
    assert all(
        "b.ply: " in row["failed"] for row in records(manifest.parent / "out") if "failed" in row
    )


def test_the_command_fails_where_a_task_does(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest.parent / "a.ply").write_bytes(b"ply\nnonsense")
    args = ["batch", str(tmp_path / "a.ply"), "-o", str(tmp_path / "bad"), "--retries", "0"]
    assert main([*args, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == report["tasks"] == 1


def test_resume_repeats_what_is_not_complete_and_nothing_else(
    manifest: Path, tiny_model: Callable[..., SplatModel]
) -> None:
    digest = run(manifest)["digest"]
    out = manifest.parent / "out"

    def repeated() -> list[str]:
        pool = Here()
        report = run(manifest, pool, resume=True)
        assert report["resumed"] + report["ran"] == report["tasks"]
        return sorted(task.entry.name + task.file for task in pool.ran)

    assert repeated() == []
    victim = out / "files" / "a" / "spz-prune0-sh3-bits8.spz"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1])
    assert repeated() == ["aspz-prune0-sh3-bits8.spz"]
    assert victim.read_bytes() == whole
    victim.unlink()
    assert repeated() == ["aspz-prune0-sh3-bits8.spz"]
    record = next(out.glob("tasks/*.json"))
    record.write_bytes(record.read_bytes()[:20])
    assert len(repeated()) == 1
    assert run(manifest, resume=True)["digest"] == digest
    models.save(tiny_model(80, 0, seed=9), manifest.parent / "b.ply")
    assert repeated() == ["bspz-prune0-sh0.spz", "bspz-prune0.3-sh0.spz"]


def test_without_resume_all_is_done_again(manifest: Path) -> None:
    run(manifest)
    assert run(manifest)["ran"] == POINTS + 2


def test_what_a_killed_run_left_goes_and_two_at_once_are_refused(manifest: Path) -> None:
    out = manifest.parent / "out"
    (out / ".work" / "x-1").mkdir(parents=True)
    (out / "tasks").mkdir()
    (out / "tasks" / ".abc.json.fieldpress-4194305-0123abcd.tmp").write_text("{")
    with Store(str(out)).work() as work:
        assert list(work.iterdir()) == list((out / "tasks").iterdir()) == []
        with pytest.raises(ValueError, match="out: another batch is at work here"):
            run(manifest)
    run(manifest)


def test_a_worker_of_another_version_refuses(manifest: Path, tmp_path: Path) -> None:
    task = replace(plan(read_manifest(manifest), 0)[0], version="0.0.1")
    outcome = attempt(task, tmp_path)
    assert outcome.reason is not None
    assert outcome.reason.startswith("expected fieldpress 0.0.1 here, got ")
    assert not outcome.again


def test_a_key_stands_for_content_and_settings(manifest: Path) -> None:
    keys = [task.key for task in plan(read_manifest(manifest), 0)]
    assert len(set(keys)) == len(keys)
    assert keys == [task.key for task in plan(read_manifest(manifest), 0)]
    assert not set(keys) & {task.key for task in plan(read_manifest(manifest), 1)}
    folder = manifest.parent / "photos"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"1")
    before = content_hash(folder)
    (folder / "1.png").rename(folder / "2.png")
    assert content_hash(folder) != before


def test_inputs_and_outputs_by_url(manifest: Path) -> None:
    pytest.importorskip("fsspec", reason="URLs need fsspec")
    url = (manifest.parent / "*.ply").as_uri().replace("%2A", "*")
    wanted = gather([url], METHODS)
    assert [scene.name for scene in wanted.scenes] == ["a", "b"]
    for folder in ("files/a", "files/b", "tasks"):  # A service would make them.
        (manifest.parent / "far" / folder).mkdir(parents=True)
    far = (manifest.parent / "far").as_uri()
    pool = Here()
    report = run_batch(wanted, far, pool)
    assert report["failed"] == 0
    near = run(manifest)
    made = sorted((manifest.parent / "far" / "files").rglob("*.spz"))
    for path in made:
        local = manifest.parent / "out" / path.relative_to(manifest.parent / "far")
        if local.exists():  # Degree 0 is known to matter only where the file is at hand.
            assert path.read_bytes() == local.read_bytes()
    assert len(made) >= near["tasks"]
    assert run_batch(wanted, far, Here(), resume=True)["ran"] == 0


VIEWS = [
    {"index": i, "psnr": 30.0 + i, "ssim": 0.9, "lpips": None, "psnr_self": 40.0} for i in range(3)
]


def test_layouts_of_others() -> None:
    row = {
        "scene": "fox", "method": "spz", "settings": {"prune": 0.5, "sh_bits": 8}, "psnr": 31.0,
        "ssim": 0.9, "lpips": None, "fps": 10.0, "render_size": [20, 10], "file": "f.spz",
        "per_view": VIEWS,
    }  # fmt: skip
    without = {**row, "scene": "nowhere", "psnr": None}
    files = batch_report.layouts([row, without], batch_report.LAYOUTS)
    assert sorted(files) == [
        "3dgs/fox/per_view.json",
        "3dgs/fox/results.json",
        "nerfstudio/fox/spz_prune_0.5_bits_8.json",
    ]
    found = json.loads(files["nerfstudio/fox/spz_prune_0.5_bits_8.json"])
    assert found["results"] == {
        "psnr": 31.0, "psnr_std": 1.0, "ssim": 0.9, "ssim_std": 0.0, "num_rays_per_sec": 2000.0,
        "fps": 10.0,
    }  # fmt: skip
    assert json.loads(files["3dgs/fox/results.json"]) == {
        "spz_prune_0.5_bits_8": {"SSIM": 0.9, "PSNR": 31.0}
    }
    views = json.loads(files["3dgs/fox/per_view.json"])["spz_prune_0.5_bits_8"]
    assert views["PSNR"] == {"00000.png": 30.0, "00001.png": 31.0, "00002.png": 32.0}
    assert batch_report.layouts([row], []) == {}


def test_patterns_and_yaml(manifest: Path) -> None:
    pytest.importorskip("yaml", reason="YAML needs PyYAML")
    folder = manifest.parent
    (folder / "m.yaml").write_text("scenes: ['*.ply', {path: b.ply, name: again}]\n")
    found = read_manifest(folder / "m.yaml", batch.METHODS)
    assert [scene.name for scene in found.scenes] == ["a", "b", "again"]
    assert [dict(method.values) for method in found.methods] == [{"target_db": (40.2,)}]
    assert [scene.name for scene in gather([str(folder / "?.ply")]).scenes] == ["a", "b"]
    for text, said in (
        ("scenes: ['*.spz']", "a pattern that matches files, got '\\*.spz'"),
        ("scenes: [", "not YAML"),
        ("a: &a [x]\nb: *a", "aliases are not taken"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
    ):
        (folder / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_manifest(folder / "bad.yaml")
