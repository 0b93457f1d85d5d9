"""A sweep: real files measured again, resumed after a kill, published whole; the verb."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fieldpress import contenders, models, sweep
from fieldpress.__main__ import main
from fieldpress.contenders import file_name, label
from fieldpress.gaussians import compress as pressing
from fieldpress.gaussians.model import SplatModel
from fieldpress.manifest import KNOBS, read_manifest
from fieldpress.scenes.rate_distortion import bd_rate
from fieldpress.sweep import compare, run_sweep

METHODS = [
    {"name": "fieldpress", "target_db": [28, 32]},
    {"name": "spz", "prune": [0, 0.3], "sh_degree": [3, 0], "sh_bits": [8, 5]},
    {"name": "lightgaussian-posthoc", "prune": [0, 0.4], "vq_steps": 2},
]
POINTS = 2 + 6 + 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small views: what is tested here is the sweep, not the codec."""
    monkeypatch.setattr(pressing, "VIEWS", 4)
    monkeypatch.setattr(pressing, "VIEW_SIZE", (64, 48))


@pytest.fixture
def manifest(
    tmp_path: Path, splat_ply: Callable[..., Path], tiny_model: Callable[..., SplatModel]
) -> Path:
    """A manifest of one tiny scene."""
    path = tmp_path / "m.json"
    scene = {"path": str(splat_ply(tiny_model(120))), "name": "tiny"}
    path.write_text(json.dumps({"scenes": [scene], "methods": METHODS}))
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_point_is_a_file_that_was_measured(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run_sweep(read_manifest(manifest), out, keep=True)
    assert (report["points"], report["measured_now"], report["failed"]) == (POINTS, POINTS, 0)
    results = json.loads((out / "results.json").read_text())
    assert results["points"] == rows_of(out)
    scene = results["scenes"][0]
    for row in results["points"]:
        path = out / "files" / "tiny" / row["file"]
        assert row["output_bytes"] == path.stat().st_size
        assert row["count_out"] == len(models.load(path))
        assert row["ratio"] == pytest.approx(scene["float_bytes"] / row["output_bytes"])
        assert (row["views"], row["render_size"]) == (scene["views"], [64, 48])
        assert 0 < row["ssim_self"] <= 1
        assert row["psnr"] is None
        assert row["fps_ratio"] > 0
    by_file = {row["file"]: row for row in results["points"]}
    assert by_file["fieldpress-db32.fpz"]["psnr_self"] >= 31.9
    assert by_file["spz-prune0.3-sh3-bits8.spz"]["count_out"] == 84
    assert by_file["spz-prune0-sh0.spz"]["sh_degree"] == 0
    assert (
        by_file["spz-prune0-sh3-bits8.spz"]["psnr_self"]
        > by_file["spz-prune0-sh0.spz"]["psnr_self"]
    )
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 1  # No photographs, no second drawing.
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page)
    assert (out / "curves.svg").read_text() in page
    for shown in ("tiny, 120 Gaussians", "lightgaussian-posthoc", "prune 0.3, sh 3, bits 8"):
        assert shown in page


def test_a_killed_sweep_goes_on(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill at the fourth point, in the middle of writing its row."""
    out, wanted, done = tmp_path / "out", read_manifest(manifest), []
    measure = contenders.measure

    def killed(*arguments: Any) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments[1:3])
        return measure(*arguments)

    monkeypatch.setattr(sweep, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(wanted, out)
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl"]
    before = rows_of(out)
    assert len(before) == 3
    with (out / "results.jsonl").open("a") as file:
        file.write('{"scene": "tiny", "method": "sp')
    done.clear()
    monkeypatch.setattr(sweep, "measure", lambda *a: done.append(a[1:3]) or measure(*a))
    report = run_sweep(wanted, out, resume=True)
    assert (report["points"], report["measured_now"]) == (POINTS, POINTS - 3)
    assert len(done) == POINTS - 3
    assert rows_of(out)[:3] == before
    done.clear()
    again = run_sweep(wanted, out, resume=True)
    assert done == []
    assert again["bd_rate"] == report["bd_rate"]
    run_sweep(wanted, out, seed=1, resume=True)  # Another seed's rows are not these.
    assert len(done) == POINTS


def test_another_scene_of_the_same_name_is_measured_anew(
    tmp_path: Path, splat_ply: Callable[..., Path], tiny_model: Callable[..., SplatModel]
) -> None:
    out, path = tmp_path / "out", tmp_path / "m.json"
    for seed in (0, 1):
        scene = {"path": str(splat_ply(tiny_model(50, seed=seed))), "name": "tiny"}
        methods = [{"name": "spz", "prune": 0, "sh_degree": 0}]
        path.write_text(json.dumps({"scenes": [scene], "methods": methods}))
        assert run_sweep(read_manifest(path), out, resume=True)["measured_now"] == 1
    assert len(rows_of(out)) == 2
    assert len(json.loads((out / "results.json").read_text())["points"]) == 1


def test_what_a_method_cannot_do_is_a_row_and_tried_again(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(stage: Any, settings: Any, path: Path) -> float:
        raise ValueError(f"{path}: cannot\n do <this>")

    writer = contenders.WRITERS["spz"]
    monkeypatch.setitem(contenders.WRITERS, "spz", refuse)
    out, wanted = tmp_path / "out", read_manifest(manifest)
    report = run_sweep(wanted, out)
    assert report["failed"] == 6
    assert report["bd_rate"]["tiny"]["spz"] == "no point"
    failed = [row["failed"] for row in rows_of(out) if "failed" in row]
    assert failed[0] == "spz-prune0-sh3-bits8.spz: cannot do <this>"
    assert "cannot do &lt;this&gt;" in (out / "index.html").read_text()
    monkeypatch.setitem(contenders.WRITERS, "spz", writer)
    assert run_sweep(wanted, out, resume=True)["measured_now"] == 6
    assert not any("failed" in row for row in rows_of(out))


def test_damaged_rows_are_refused(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.jsonl").write_text('{"scene": 1}\n{}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl: line 1: not a row of results"):
        run_sweep(read_manifest(manifest), out, resume=True)
    assert (out / "results.jsonl").read_text() == '{"scene": 1}\n{}\n'


def test_photographs_are_measured_where_there_are_some(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "multiview" / "fox-tiny"
    scene = {"path": str(folder / "point_cloud.ply"), "scene": str(folder), "downscale": 2}
    methods = [{"name": "spz", "prune": 0, "sh_bits": 8, "sh_degree": [3, 0]}]
    path, out = tmp_path / "m.json", tmp_path / "out"
    path.write_text(json.dumps({"scenes": [scene], "methods": methods}))
    run_sweep(read_manifest(path), out)
    results = json.loads((out / "results.json").read_text())
    level, (fine, coarse) = results["scenes"][0]["psnr"], results["points"]
    assert results["scenes"][0]["render_size"] == [67, 120]
    assert abs(fine["psnr"] - level) < 0.2
    assert coarse["psnr"] < fine["psnr"]
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 2
    assert f"uncompressed: {level:.2f} dB" in page


def points_of(scene: str, method: str, *pairs: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {"scene": scene, "method": method, "output_bytes": size, "psnr_self": db, "settings": {}}
        for size, db in pairs
    ]


def test_curves_are_compared_scene_by_scene() -> None:
    pytest.importorskip("bjontegaard")
    line = [(100.0, 30.0), (200.0, 35.0), (400.0, 40.0)]
    points = []
    for scene, factor in (("a", 2), ("b", 4), ("c", 6)):
        points += points_of(scene, "sog", *((factor * size, db) for size, db in line))
        points += points_of(scene, "fieldpress", *line)
    points += points_of("c", "spz", (50.0, 10.0), (60.0, 20.0))
    found = compare(points, ["a", "b", "c"])
    percents = {(r["scene"], r["method"]): r["percent"] for r in found["bd_rate"]}
    assert percents["a", "sog"] == pytest.approx(100)
    assert percents["c", "sog"] == pytest.approx(500)
    assert percents["c", "spz"] is None
    assert found["bd_rate_median"]["sog"] == {"percent": pytest.approx(300), "scenes": 3}
    assert found["bd_rate_median"]["spz"] == {"percent": None, "scenes": 0}
    sliver = points_of("a", "spz", (900.0, 20.0), (999.0, 30.5))  # Half a dB with ours.
    found = compare([*points, *sliver], ["a"])
    row = next(r for r in found["bd_rate"] if r["method"] == "spz")
    assert row["percent"] > 100
    assert row["overlap_db"] == [30.0, 30.5]
    assert found["bd_rate_median"]["spz"] == {"percent": None, "scenes": 0}
    alone = compare(points_of("a", "sog", *line), ["a"])["bd_rate"]
    assert alone[0]["reason"] == "no curve of fieldpress"
    assert bd_rate(line, line).percent == pytest.approx(0)


def test_names_and_labels_of_points_differ() -> None:
    for method, knobs in KNOBS.items():
        one = {key: knob.values[0] for key, knob in knobs.items()}
        names = {file_name(method, one)}
        for key, knob in knobs.items():
            names.add(file_name(method, {**one, key: knob.values[0] + 1}))
        assert len(names) == 1 + len(knobs)
        assert not any("/" in name for name in names)
    given = {"prune": 0.3, "sh_degree": 2, "vq_share": 0.6, "vq_steps": 1000}
    assert label("lightgaussian-posthoc", given) == "prune 0.3"
    assert label("lightgaussian-posthoc", {**given, "vq_steps": 9}) == "prune 0.3, steps 9"


# The verb


def test_the_verb_prints_one_object_and_needs_leave_to_go_on(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    scene = json.loads(manifest.read_text())["scenes"][0]
    methods = [{"name": "spz", "prune": 0, "sh_degree": 0}]
    manifest.write_text(json.dumps({"scenes": [scene], "methods": methods}))
    assert main(["bench", str(manifest), "-o", out, "--json"]) == 0
    stdout = capsys.readouterr().out
    assert stdout.count("\n") == 1
    assert json.loads(stdout)["measured_now"] == 1
    assert main(["bench", str(manifest), "-o", out]) == 1
    assert "exists already" in capsys.readouterr().err
    for flag, count in (("--resume", 0), ("--overwrite", 1)):
        assert main(["bench", str(manifest), "-o", out, flag, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["measured_now"] == count
    assert not (tmp_path / "out" / "files").exists()


def test_refusals_of_the_verb(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.ply"
    bad.write_bytes(b"ply\nnonsense")
    out = str(tmp_path / "out")
    for args, code, said in (
        (["bench", str(tmp_path / "gone.toml"), "-o", out], 1, "gone.toml"),
        (["bench", str(tmp_path / "gone.ply"), "-o", out], 1, "gone.ply"),
        (["bench", str(bad), "-o", out], 1, "bad.ply"),
        (["bench", str(manifest), "-o", str(tmp_path / "no" / "out")], 1, "no such folder"),
        (["bench", str(manifest), "-o", str(manifest)], 1, "not a folder"),
        (["bench", str(manifest), "-o", "-"], 2, "expected a folder"),
        (["bench", "-o", out], 2, "got nothing"),
        (["bench", str(manifest)], 2, "output"),
    ):
        assert main(args) == code, args
        line = capsys.readouterr().err
        assert said in line
        assert "Traceback" not in line
        if code == 1:
            assert line.count("\n") == 1, line
    assert not (tmp_path / "out" / "results.json").exists()
