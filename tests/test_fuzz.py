"""A few mutated inputs of every reader, and all files that once were not borne.

bench/fuzz.py does so for as long as one likes, in processes of its own and with little memory.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldpress.quant import budget

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(__file__).parent / "corpus"
COUNT = 60
LIMIT = 128 << 20

sys.path.insert(0, str(ROOT / "bench"))
pytest.importorskip("PIL.Image", reason="seeds have photographs")
pytest.importorskip("zstandard", reason="seeds have SPZ of version 4")
pytest.importorskip("yaml", reason="seeds have manifests in YAML")
fuzz = pytest.importorskip("fuzz")
targets = pytest.importorskip("fuzz_targets")


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    with budget.limited(LIMIT), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_every_reader_bears_mutations(target) -> None:
    seeds = list(target.seeds())
    for data in seeds:
        assert fuzz.tried(target, data, render=True) == "read"
    found = [targets.mutated(target, seeds, 0, number) for number in range(COUNT)]
    said = [fuzz.tried(target, data, number == 0) for number, data in enumerate(found)
            if data is not None]  # fmt: skip
    assert set(said) <= {"read", "refused"}
    assert len(said) > COUNT / 2
    assert "refused" in said
    again = [targets.mutated(target, seeds, 0, number) for number in range(COUNT)]
    assert again == found or target.name in ("checkpoint",)  # Torch puts the time in its archives.


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_once_failed_is_refused_in_one_line(path: Path) -> None:
    """Named TARGET__WHAT.SUFFIX; of targets that read folders, the folder."""
    target = targets.named(path.name.partition("__")[0].replace("+", "/"))
    data = path.read_bytes() if path.is_file() else {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }  # fmt: skip
    assert fuzz.tried(target, data) == "refused"


def test_a_harness_that_sees_nothing_would_be_no_test() -> None:
    def crashes(data: bytes) -> None:
        raise RuntimeError("no ValueError")

    def talks(data: bytes) -> None:
        raise ValueError("two\nlines")

    assert fuzz.tried(targets.Target("x", list, crashes), b"").startswith("RuntimeError")
    assert fuzz.tried(targets.Target("x", list, talks), b"").startswith("lines")
