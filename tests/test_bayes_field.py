"""Bayesian fields: learning, files and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.bayes_jobs import random_crops
from fieldpress.fields import (
    bayes_codec,
    bayes_exact,
)
from fieldpress.fields.bayes_codec import BayesField
from fieldpress.fields.bayes_encode import EncodeSettings, encode_signals
from fieldpress.fields.bayes_learn import Learner, learn
from fieldpress.fields.bayes_prior import Prior, read_prior
from fieldpress.fields.bayes_shape import Shape
from fieldpress.quant import container
from fieldpress.viewer.png import encode_png

TINY = Shape(patch=(16, 16), width=8, hidden=1, frequencies=2, latents=4, features=4)
SHAPES = {
    "audio": Shape(patch=(64,), channels=1, width=8, frequencies=4, latents=4, features=4),
    "groups": replace(TINY, patch=(8, 16), group=2),
    "video": replace(TINY, patch=(8, 8, 16), frequencies=1),
}


def indices(prior: Prior, size: tuple[int, int]) -> dict[str, np.ndarray]:
    generator, rows = np.random.default_rng(0), prior.shape.rows(prior.shape.grid(size))
    return {
        level: generator.integers(0, 1 << prior.index_bits, (rows[level], len(blocks.ends)))
        for level, blocks in prior.blocks.items()
    }


def waves(count: int, size: tuple[int, ...], channels: int) -> torch.Tensor:
    """Smooth signals [count, *size, channels], each with its own frequency and phase."""
    grids = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    number = torch.arange(count).reshape(-1, *[1] * len(size))
    phase = sum((2 + axis + number % 3) * x for axis, x in enumerate(grids)) * 2 + number
    return torch.stack([0.4 * (phase + c).sin() for c in range(channels)], -1)


# Learning, files


@pytest.fixture(scope="module")
def learned() -> Learner:
    start = Learner.new(TINY, waves(12, (16, 16), 3))
    return learn(start, 250, 60)


@pytest.fixture(scope="module")
def prior(learned: Learner) -> Prior:
    return Prior.of(learned, index_bits=12, budget=10.0)


def test_learning_steers_the_rate(learned: Learner) -> None:
    assert learned.history[-1][1] < 0.7 * learned.history[0][1]
    low, high = (learn(learned, bits, 40) for bits in (40, 800))
    assert low.history[-1][0] < 0.97 * high.history[-1][0]
    assert low.beta > 4 * high.beta


def test_a_prior_is_what_its_file_says(prior: Prior) -> None:
    back = read_prior(prior.data)
    assert back.name == prior.name
    assert back.data == prior.data
    for level in prior.shape.levels:
        assert np.array_equal(back.mean[level], prior.mean[level])
    size = (16, 20)
    index = indices(prior, size)
    both = [bayes_exact.decode_signal(p, index, size) for p in (prior, back)]
    assert np.array_equal(*both)


def test_a_signal_survives_encoding(prior: Prior) -> None:
    signal = waves(14, (16, 16), 3)[12:]
    index = encode_signals(prior, signal, EncodeSettings(30, 20))
    for one, truth in zip(index, signal, strict=True):
        data = bayes_codec.encode(BayesField(prior, (16, 16), one))
        found = bayes_codec.decode(data, prior=prior)
        assert isinstance(found, BayesField)
        assert float((found.signal() - truth).square().mean()) < 0.3 * float(truth.square().mean())
    again = encode_signals(prior, signal, EncodeSettings(30, 20))
    assert all(np.array_equal(a["patch"], b["patch"]) for a, b in zip(index, again, strict=True))


@pytest.mark.parametrize("kind", ["audio", "groups", "video"])
def test_signals_of_other_dimensions(kind: str) -> None:
    """Sound, a picture of several patches in groups, and a clip, through the same calls."""
    shape = SHAPES[kind]
    size = tuple(n * (2 if kind != "video" else 1) for n in shape.patch)
    signals = waves(4, size, shape.channels)
    learner = learn(Learner.new(shape, signals), 200, 40)
    prior = Prior.of(learner, index_bits=10, budget=8.0)
    index = encode_signals(prior, signals[:1], EncodeSettings(20, 10))[0]
    data = bayes_codec.encode(BayesField(prior, size, index))
    found = bayes_codec.decode(data, prior=read_prior(prior.data))
    assert isinstance(found, BayesField)
    error = float((found.signal() - signals[0]).square().mean())
    assert error < 0.8 * float(signals[0].square().mean())
    assert len(data) < 4 * signals[0].numel()


def test_threads_change_no_bit(prior: Prior) -> None:
    index, before = indices(prior, (40, 40)), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(bayes_exact.decode_signal(prior, index, (40, 40)))
    torch.set_num_threads(before)
    assert np.array_equal(*found)


def other_prior() -> Prior:
    return Prior.of(Learner.new(TINY, waves(2, (16, 16), 3)))


@pytest.fixture
def data(prior: Prior) -> bytes:
    return bayes_codec.encode(BayesField(prior, (16, 20), indices(prior, (16, 20))))


def test_a_prior_is_found_or_asked_for(
    prior: Prior, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / "a.fpz", tmp_path / "priors"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a.fpz: expected its prior {prior.name} beside"):
        models.load(file)
    other.mkdir()
    (other / "wrong.fpz").write_bytes(other_prior().data)
    (other / "right.fpz").write_bytes(prior.data)
    monkeypatch.setenv(bayes_codec.SEARCH, str(other))
    assert models.load(file).prior.name == prior.name
    monkeypatch.delenv(bayes_codec.SEARCH)
    (tmp_path / "p.fpz").write_bytes(prior.data)
    assert models.load(file).size == (16, 20)
    wrong = other_prior()
    with pytest.raises(ValueError, match=rf"expected prior {prior.name}, got {wrong.name}"):
        bayes_codec.decode(data, prior=wrong)


def rewritten(data: bytes, layout: object) -> bytes:
    found = container.read(data)
    if isinstance(layout, dict):
        layout = {**found.header["layout"], **layout}
    return container.write({**found.header, "layout": layout}, found.sections)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ([16], "size: expected 2 numbers, got 1"),
        ([16, 0], "size: expected 1 to 3 sides"),
        ([65536, 65536], "too much for"),
        ([16, 33], r"section 'i': expected \d+ bytes"),
    ],
)
def test_bad_files_are_refused(prior: Prior, data: bytes, size: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"x: .*{message}"):
        bayes_codec.decode(rewritten(data, [prior.name, *size]), prior=prior, name="x")


def test_headers_without_a_prior_are_refused(prior: Prior, data: bytes) -> None:
    for layout, message in (([3, 16, 20], "prior: expected 8 digits"), ([], "and a layout")):
        with pytest.raises(ValueError, match=f"x: header: .*{message}"):
            bayes_codec.decode(rewritten(data, layout), prior=prior, name="x")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"index_bits": 40}, "index_bits: expected 1 to 20"),
        ({"budget": "a"}, "budget: expected a number"),
        ({"shape": {"patch": [7]}}, "channels: expected int"),
        ({"shape": {**TINY.config(), "patch": [15, 16]}}, "multiples of 8"),
        ({"shape": {**TINY.config(), "width": 128, "hidden": 8}}, "expected tables of at most"),
        ({"shape": {**TINY.config(), "width": 9}}, "section 'mean/patch'"),
    ],
)
def test_bad_priors_are_refused(prior: Prior, layout: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"x: .*{message}"):
        read_prior(rewritten(prior.data, layout), name="x")


def test_every_cut_is_an_error(prior: Prior, data: bytes) -> None:
    for whole in (data, prior.data):
        for end in range(0, len(whole), max(1, len(whole) // 40)):
            with pytest.raises(ValueError, match="x: "):
                bayes_codec.decode(whole[:end], prior=prior, name="x")


# The command


def test_the_command_learns_encodes_and_decodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, wave in enumerate(waves(3, (32, 34), 3)):
        (folder / f"{number}.png").write_bytes(encode_png(wave + 0.5))
    prior, file = tmp_path / "prior.fpz", tmp_path / "a.fpz"
    arguments = ["--crops", "3", "--steps", "40", "--kl-bits", "60", "--json"]
    method = ["--method", "combiner"]
    assert main(["fit", "prior", str(folder), "-o", str(prior), *method, *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    source = str(folder / "0.png")
    call = ["fit", "image", source, "-o", str(file), *method, "--steps", "4"]
    assert main([*call, "--prior", str(prior), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prior"] == made["prior"]
    assert report["output_bytes"] == file.stat().st_size
    assert main(["eval", str(file), "--reference", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(report["psnr"], abs=1e-6)
    assert main(["decompress", str(file), "-o", str(tmp_path / "b.png"), "--json"]) == 0
    capsys.readouterr()
    for path, kind in ((file, "image"), (prior, "prior")):
        assert main(["info", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind
    assert main([*call, "--overwrite"]) == 2
    assert "--prior" in capsys.readouterr().err
    assert main(["eval", str(prior), "--reference", source]) == 1
    assert "kind 'prior'" in capsys.readouterr().err


def test_crops_need_pictures_that_are_large_enough() -> None:
    found = random_crops([torch.full((8, 9, 3), 255, dtype=torch.uint8)], 8, 3, 0)
    assert found.shape == (3, 8, 8, 3)
    assert math.isclose(float(found.max()), 0.5)
