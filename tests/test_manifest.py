"""Manifests of a sweep: what they mean, and one clear line for each kind of bad one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fieldpress.manifest import KNOBS, METHODS, MethodEntry, gather, read_manifest

TOML = """
scenes = [
  "a.ply",
  { path = "deep/point_cloud.ply", scene = "photos", downscale = 2.5 },
  { path = "a.ply", name = "once more" },
  "a.ply",
]
methods = ["sog", { name = "fieldpress", target_db = 40 }, { name = "spz", prune = [0, 0.5] }]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a splat file, one deeper, and a folder that could be photographs."""
    for name in ("deep", "photos"):
        (tmp_path / name).mkdir()
    for name in ("a.ply", "b.compressed.ply", "deep/point_cloud.ply", "meta.json"):
        (tmp_path / name).write_bytes(b"ply")
    return tmp_path


def test_toml_and_json_mean_the_same(folder: Path) -> None:
    (folder / "m.toml").write_text(TOML)
    found = read_manifest(folder / "m.toml")
    assert [scene.name for scene in found.scenes] == ["a", "deep", "once more", "a-2"]
    assert found.scenes[1].path == folder / "deep" / "point_cloud.ply"
    assert (found.scenes[1].scene, found.scenes[1].downscale) == (folder / "photos", 2.5)
    assert found.scenes[0].scene is None
    assert [method.name for method in found.methods] == ["sog", "fieldpress", "spz"]
    assert found.methods[1].values == {"target_db": (40,)}
    assert found.methods[2].values["prune"] == (0, 0.5)
    assert found.methods[2].values["sh_bits"] == KNOBS["spz"]["sh_bits"].values
    other = {
        "scenes": [
            "a.ply",
            {"path": "deep/point_cloud.ply", "scene": "photos", "downscale": 2.5},
            {"path": "a.ply", "name": "once more"},
            "a.ply",
        ],
        "methods": [
            "sog",
            {"name": "fieldpress", "target_db": 40},
            {"name": "spz", "prune": [0, 0.5]},
        ],
    }
    (folder / "m.json").write_text(json.dumps(other))
    assert read_manifest(folder / "m.json") == found
    json.dumps(found.to_json())


def test_files_stand_for_a_manifest_of_defaults(folder: Path) -> None:
    """A meta.json is an unbundled SOG, not a manifest."""
    paths = [str(folder / name) for name in ("a.ply", "b.compressed.ply", "meta.json", "deep")]
    found = gather(paths)
    assert [scene.name for scene in found.scenes] == ["a", "b", folder.name, "deep"]
    assert [method.name for method in found.methods] == list(METHODS)
    (folder / "m.json").write_text(json.dumps({"scenes": ["a.ply"]}))
    assert [scene.name for scene in gather([str(folder / "m.json")]).scenes] == ["a"]
    with pytest.raises(ValueError, match=r"m\.json: a manifest stands alone, got 2 inputs"):
        gather([paths[0], str(folder / "m.json")])
    with pytest.raises(ValueError, match="got nothing"):
        gather([])
    with pytest.raises(FileNotFoundError, match=r"gone\.ply: no such file"):
        gather([paths[0], str(folder / "gone.ply")])


def test_points_are_the_combinations_that_differ() -> None:
    entry = MethodEntry("spz", {"prune": (0, 0.5), "sh_degree": (4, 1, 0), "sh_bits": (8, 5)})
    of_three = entry.points(3)
    assert len(of_three) == 2 * (2 + 2 + 1)
    assert of_three[0] == {"prune": 0, "sh_degree": 3, "sh_bits": 8}
    assert {"prune": 0.5, "sh_degree": 0} in of_three
    assert len(entry.points(1)) == 2 * (2 + 1)
    assert entry.points(0) == [{"prune": 0, "sh_degree": 0}, {"prune": 0.5, "sh_degree": 0}]


SCENE = '{"scenes": ["a.ply"], "methods": [%s]}'
BAD = {  # Text, and what its one line must say.
    "": "not JSON",
    "{": "not JSON",
    '{"scenes": ["a.ply"]': "not JSON",
    "[" * 100_000: "not JSON",
    "[]": r"manifest: expected a table of scenes, methods, got \[\]",
    "{}": "scenes: expected a list that is not empty, got None",
    '{"scenes": []}': "scenes: expected a list that is not empty",
    '{"scenes": "a.ply"}': "scenes: expected a list",
    '{"scenes": ["a.ply"], "rates": [1]}': "manifest: expected only scenes, methods, got 'rates'",
    '{"scenes": [7]}': "scene 1: expected a table of path",
    '{"scenes": [{}]}': "scene 1, path: expected a path, got None",
    '{"scenes": [""]}': "scene 1, path: expected a path",
    '{"scenes": ["a.ply", "gone.ply"]}': r"scene 2, path: .*gone\.ply: no such file or folder",
    '{"scenes": ["%s"]}' % ("x" * 5000): "scene 1, path: .*no such file or folder",
    '{"scenes": [{"path": "a.ply", "photos": 1}]}': "scene 1: expected only .* got 'photos'",
    '{"scenes": [{"path": "a.ply", "scene": "gone"}]}': "scene 1, scene: .*gone: no such",
    '{"scenes": [{"path": "a.ply", "downscale": 2}]}': "downscale: expected it only beside scene",
    '{"scenes": [{"path": "a.ply", "scene": "photos", "downscale": 0.5}]}': "from 1 to 64, got 0.5",
    '{"scenes": [{"path": "a.ply", "scene": "photos", "downscale": "2"}]}': "expected a number",
    '{"scenes": [{"path": "a.ply", "name": "../b"}]}': "scene 1, name: expected 1 to 80",
    '{"scenes": [{"path": "a.ply", "name": ".b"}]}': "scene 1, name: expected 1 to 80",
    '{"scenes": [{"path": "a.ply", "name": 3}]}': "scene 1, name: expected 1 to 80",
    '{"scenes": ["a.ply", {"path": "a.ply", "name": "a"}]}': "scene 2, name: .*no other scene",
    SCENE % "": "methods: expected a list that is not empty",
    SCENE % '"zip"': "method 1: expected one of fieldpress, fieldpress-fast, spz, .*got 'zip'",
    SCENE % "3": "method 1: expected one of",
    SCENE % "[]": "method 1: expected one of",
    SCENE % '{"name": ["spz"]}': "method 1: expected one of",
    SCENE % '"sog", "sog"': "method 2: expected each method once, got 'sog'",
    SCENE % '{"name": "sog", "sh_bits": 5}': "method 1, sog: expected only name, .*'sh_bits'",
    SCENE % '{"name": "sog", "prune": []}': "method 1, sog, prune: expected a list",
    SCENE % '{"name": "sog", "prune": [0, 1]}': "prune: expected a number from 0 to less than 1",
    SCENE % '{"name": "sog", "prune": NaN}': "prune: .*got nan",
    SCENE % '{"name": "sog", "prune": true}': "prune: .*got True",
    SCENE % '{"name": "sog", "sh_degree": 1.5}': "sh_degree: expected a whole number from 0 to 4",
    SCENE % ('{"name": "sog", "sh_degree": %s}' % ("9" * 4000)): r"sh_degree: .*9\.\.\.",
    SCENE % '{"name": "fieldpress", "target_db": 1e9}': "target_db: expected a number from 5 to 90",
    SCENE % ('{"name": "fieldpress", "target_db": %s}' % [5 + i / 100 for i in range(1001)]):
        "expected at most 1000 points",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_bad_manifest_ends_in_one_line(folder: Path, text: str) -> None:
    path = folder / "m.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as caught:
        read_manifest(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert len(said) < 6000


def test_files_that_are_no_manifests(folder: Path) -> None:
    bad = folder / "m.toml"
    bad.write_text("scenes = [")
    with pytest.raises(ValueError, match=re.escape(f"{bad}: not TOML: ")):
        read_manifest(bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"m\.toml: expected text in UTF-8"):
        read_manifest(bad)
    bad.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ValueError, match=r"m\.toml: expected a manifest of at most"):
        read_manifest(bad)
    with pytest.raises(ValueError, match=r"gone\.toml: no such file"):
        read_manifest(folder / "gone.toml")
