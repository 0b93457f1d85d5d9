"""Bayesian fields: random numbers, blocks, the exact decoder, learning, files and the command."""

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
    _native,
    _reference_noise,
    bayes_codec,
    bayes_exact,
    bayes_network,
    bayes_noise,
)
from fieldpress.fields.bayes_blocks import COST_UNITS, Blocks, choose, packed, samples, unpacked
from fieldpress.fields.bayes_codec import BayesField
from fieldpress.fields.bayes_encode import EncodeSettings, encode_signals
from fieldpress.fields.bayes_learn import Learner, learn, patches_of
from fieldpress.fields.bayes_posterior import inputs_of
from fieldpress.fields.bayes_prior import Prior, read_prior
from fieldpress.fields.bayes_shape import Shape
from fieldpress.quant import container
from fieldpress.quant._native import crc32c
from fieldpress.viewer.png import encode_png

TINY = Shape(patch=(16, 16), width=8, hidden=1, frequencies=2, latents=4, features=4)
SHAPES = {
    "audio": Shape(patch=(64,), channels=1, width=8, frequencies=4, latents=4, features=4),
    "plain": replace(TINY, latents=0, mixing=False),
    "picture": TINY,
    "groups": replace(TINY, patch=(8, 16), group=2),
    "video": replace(TINY, patch=(8, 8, 16), frequencies=1),
}
SIZES = {"audio": (150,), "plain": (21, 16), "picture": (21, 40), "groups": (30, 40),
         "video": (8, 11, 20)}  # fmt: skip


def draws(count: int, number: int, low: float, high: float) -> np.ndarray:
    """Numbers that are the same with every version of everything."""
    words = bayes_noise.philox((np.arange(count), number, 0, 0), (1, 1))[0]
    return low + (high - low) * words.astype(np.float64) / 2**32


def prior_of(shape: Shape) -> Prior:
    """A prior that nobody learned, of numbers that are exact in half precision."""
    mean, std, cost = {}, {}, {}
    for number, (level, count) in enumerate(shape.levels.items()):
        mean[level] = (np.floor(draws(count, number, -256, 256)) / 256).astype(np.float16)
        std[level] = (np.floor(draws(count, 10 + number, 16, 128)) / 256).astype(np.float16)
        cost[level] = draws(count, 20 + number, 0, 4 * COST_UNITS).astype(np.uint16)
    mixing = tuple(
        (np.floor(draws(n * n, 30 + i, -300, 300)) + 900 * np.eye(n).reshape(-1))
        .astype(np.int16).reshape(n, n)
        for i, n in enumerate(out * into for out, into in shape.layers)
    )  # fmt: skip
    kernels = tuple(
        np.floor(draws(out * into * 3**shape.dims, 40 + i, -6000, 6000))
        .astype(np.int16).reshape(out, into, *[3] * shape.dims)
        for i, (out, into) in enumerate(shape.kernels)
    )  # fmt: skip
    return Prior(shape, mean, std, cost, mixing if shape.mixing else (), kernels, index_bits=12)


def indices(prior: Prior, size: tuple[int, ...]) -> dict[str, np.ndarray]:
    rows = prior.shape.rows(prior.shape.grid(size))
    found = {}
    for number, (level, blocks) in enumerate(prior.blocks.items()):
        count = rows[level] * len(blocks.ends)
        drawn = draws(count, 50 + number, 0, 1 << prior.index_bits).astype(np.int64)
        found[level] = drawn.reshape(rows[level], -1)
    return found


def waves(count: int, size: tuple[int, ...], channels: int) -> torch.Tensor:
    """Smooth signals [count, *size, channels], each with its own frequency and phase."""
    grids = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    number = torch.arange(count).reshape(-1, *[1] * len(size))
    phase = sum((2 + axis + number % 3) * x for axis, x in enumerate(grids)) * 2 + number
    return torch.stack([0.4 * (phase + c).sin() for c in range(channels)], -1)


GOLDEN = {  # CRC-32C of the decoded samples as 64-bit integers.
    "audio": 0xF9E879A2, "plain": 0x246E41DC, "picture": 0xEFD17C50, "groups": 0x9AA145B7,
    "video": 0x5248E3E0,
}  # fmt: skip


# Random numbers


def test_philox_gives_the_published_answers() -> None:
    """Known answers of Random123's kat_vectors for philox4x32 with 10 rounds."""
    ones = 0xFFFFFFFF
    cases = [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ones,) * 4, (ones,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]  # fmt: skip
    for counter, key, expected in cases:
        found = bayes_noise.philox((np.array([counter[0]]), *counter[1:]), key)
        assert " ".join(f"{int(word[0]):08x}" for word in found) == expected


def test_normals_depend_on_their_place_alone() -> None:
    index = np.arange(20_000)
    whole = bayes_noise.normals(index, 2, 5, 19)
    some = np.array([19_999, 0, 8191, 8192])
    assert np.array_equal(bayes_noise.normals(some, 2, 5, 19), whole[:, some])
    for other in (bayes_noise.normals(index, 3, 5, 19), bayes_noise.normals(index, 2, 6, 19)):
        assert (other != whole).mean() > 0.99
    z = whole / 4096.0
    assert abs(z.mean()) < 0.01
    assert abs(np.cov(z) - np.eye(19)).max() < 0.05
    assert bayes_noise.normals(index[:0], 0, 0, 3).shape == (3, 0)


def test_tables_are_refused_where_mathematics_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    table = bayes_noise.normal_table()
    assert np.array_equal(table, -table[::-1])
    assert table.max() == 17715  # 4.325, beyond which there is nothing.
    monkeypatch.setattr(bayes_noise, "SINE_CRC", 1)
    with pytest.raises(ArithmeticError, match="sine table: expected checksum 00000001"):
        bayes_noise.sine_table.__wrapped__()


# Blocks


@pytest.mark.parametrize("shuffled", [True, False])
def test_blocks_take_every_value_once_and_keep_to_the_budget(shuffled: bool) -> None:
    cost = draws(700, 0, 0, 1500).astype(np.uint16)
    budget = 14 * COST_UNITS
    blocks = Blocks.of(cost, budget, 1, shuffled)
    for part in blocks.parts:
        assert cost[blocks.columns[part]].astype(int).sum() <= budget
    for rows in (1, 6):
        sources = blocks.sources(rows)
        assert np.array_equal(np.sort(sources.reshape(-1)), np.arange(rows * 700))
        assert (sources % 700 == blocks.columns).all()
    mixed = (blocks.sources(6) // 700 != np.arange(6)[:, None]).any()
    assert mixed == shuffled


def test_indices_pack_and_unpack() -> None:
    parts = [np.arange(6).reshape(2, 3) * 600, np.array([[4095]])]
    data = packed(parts, 12)
    assert len(data) == 11
    for part, back in zip(parts, unpacked(data, [(2, 3), (1, 1)], 12), strict=True):
        assert np.array_equal(part, back)
    with pytest.raises(ValueError, match="expected 11 bytes of indices, got 10"):
        unpacked(data[:-1], [(2, 3), (1, 1)], 12)
    with pytest.raises(ValueError, match="zeros behind the last"):
        unpacked(data[:-1] + b"\xff", [(2, 3), (1, 1)], 12)


def test_chosen_samples_are_the_posteriors() -> None:
    """Mean and deviation of samples of 6 bits of KL by 12-bit indices, over many blocks."""
    mean = np.array([[1.5, -1.2, 0.9, 0.6]], np.float32)
    std = np.array([[0.4, 0.5, 0.6, 0.9]], np.float32)
    generator, found = np.random.default_rng(0), []
    for block in range(400):
        index = choose(mean, std, (0, block), 12, generator)
        found.append(bayes_noise.normals(index, 0, block, 4)[:, 0] / 4096)
    apart = (np.array(found) - mean) / std
    assert abs(apart.mean(0)).max() < 0.15
    assert abs(apart.std(0) - 1).max() < 0.12


@pytest.mark.parametrize(
    ("rows", "dims", "count"), [(1, 1, 1), (3, 19, 700), (2, 8, 256), (0, 3, 5)]
)
def test_compiled_scores_are_the_twins(rows: int, dims: int, count: int) -> None:
    coefficients = draws(rows * 2 * dims, 3, -2, 2).reshape(rows, 2 * dims).astype(np.float32)
    out = np.full((rows, count), np.nan, np.float32)
    table = bayes_noise.normal_table()
    _native.score_candidates(table, coefficients, 4, 9, 65_000, out)
    expected = _reference_noise.scores(coefficients, (4, 9), 65_000, count)
    assert np.allclose(out, expected, atol=1e-4)
    with pytest.raises(ValueError, match="out: unexpected shape"):
        _native.score_candidates(table, coefficients, 4, 9, 0, out[None])


def test_samples_are_the_chosen_candidates() -> None:
    blocks = Blocks(np.arange(11), (4, 11), 5, False)
    index = np.array([[7, 9], [4000, 9]])
    found = samples(blocks, index)
    for block, part in enumerate(blocks.parts):
        whole = bayes_noise.normals(np.arange(4096), 5, block, part.stop - part.start)
        assert np.array_equal(found[:, part], whole[:, index[:, block]].T)


# The decoder


@pytest.mark.parametrize("kind", SHAPES)
def test_the_decoder_computes_the_network(kind: str) -> None:
    """Whole numbers beside the network in floating point; a size cuts what the patches cover."""
    prior, size = prior_of(SHAPES[kind]), SIZES[kind]
    index, grid = indices(prior, size), prior.shape.grid(size)
    covered = tuple(n * p for n, p in zip(grid, prior.shape.patch, strict=True))
    found = bayes_exact.decode_signal(prior, index, covered)
    assert found.shape == (*covered, prior.shape.channels)
    values = {
        level: torch.from_numpy(x.astype(np.float32) / 4096)[None]
        for level, x in bayes_exact.latents(prior, index).items()
    }
    expected = bayes_network.evaluate(
        prior.shape, prior.shared, *inputs_of(prior.shape, values, grid),
        bayes_network.places(prior.shape), grid,
    )  # fmt: skip
    parts = patches_of(prior.shape, torch.from_numpy(found / 65536).float()[None])
    assert float((expected - parts).abs().max()) < 4e-3
    assert float(expected.std()) > 0.03
    part = tuple(slice(n) for n in size)
    assert np.array_equal(bayes_exact.decode_signal(prior, index, size), found[part])


@pytest.mark.parametrize("kind", SHAPES)
def test_products_in_double_precision_are_exact(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by 64-bit integers, whose order of summation cannot matter."""
    prior, size = prior_of(SHAPES[kind]), SIZES[kind]
    index = indices(prior, size)
    found = bayes_exact.decode_signal(prior, index, size)
    monkeypatch.setattr(
        bayes_exact, "product", lambda a, b: a.astype(np.int64) @ b.astype(np.int64)
    )
    assert np.array_equal(bayes_exact.decode_signal(prior, index, size), found)


def test_largest_numbers_stay_exact() -> None:
    """Latents, weights and kernels at their limits: every sum stays below 2^53."""
    shape = replace(TINY, width=128, hidden=1, latents=128, features=128, frequencies=12)
    terms = max(into for _, into in shape.layers)
    weights = max(out * into for out, into in shape.layers)
    assert 3 * bayes_exact.MAX_VALUE * 32767 * weights < 1 << 53
    assert bayes_exact.MAX_NETWORK * bayes_exact.MAX_FEATURE * terms < 1 << 53
    assert bayes_exact.MAX_VALUE * 32767 * 128 < 1 << 53  # One offset of a convolution.


def test_decoded_values_are_those_of_the_format() -> None:
    """Golden checksums: decoders of other versions and machines must give these bits."""
    for kind, wanted in GOLDEN.items():
        prior, size = prior_of(SHAPES[kind]), SIZES[kind]
        found = bayes_exact.decode_signal(prior, indices(prior, size), size)
        assert crc32c(found.astype("<i8").tobytes()) == wanted, kind


def test_a_piece_of_a_batch_is_the_piece_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, size = prior_of(SHAPES["groups"]), SIZES["groups"]
    index = indices(prior, size)
    found = bayes_exact.decode_signal(prior, index, size)
    monkeypatch.setattr(bayes_exact, "STRIP", 3)
    assert np.array_equal(bayes_exact.decode_signal(prior, index, size), found)


# Learning, files


@pytest.fixture(scope="module")
def learned() -> Learner:
    start = Learner.new(TINY, waves(12, (16, 16), 3))
    return learn(start, 150, 120)


@pytest.fixture(scope="module")
def prior(learned: Learner) -> Prior:
    return Prior.of(learned, index_bits=12, budget=10.0)


def test_learning_steers_the_rate(learned: Learner) -> None:
    (_, first), (bits, last) = learned.history[0], learned.history[-1]
    assert last < first / 2
    further = learn(learned, 60, 60).history[-1]
    assert bits < 300
    assert further[0] < 0.7 * bits
    assert further[1] > last


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
    index = encode_signals(prior, signal, EncodeSettings(60, 60))
    for one, truth in zip(index, signal, strict=True):
        data = bayes_codec.encode(BayesField(prior, (16, 16), one))
        found = bayes_codec.decode(data, prior=prior)
        assert isinstance(found, BayesField)
        assert float((found.signal() - truth).square().mean()) < 0.3 * float(truth.square().mean())
    again = encode_signals(prior, signal, EncodeSettings(60, 60))
    assert all(np.array_equal(a["patch"], b["patch"]) for a, b in zip(index, again, strict=True))


@pytest.mark.parametrize("kind", ["audio", "groups", "video"])
def test_signals_of_other_dimensions(kind: str) -> None:
    """Sound, a picture of several patches in groups, and a clip, through the same calls."""
    shape = SHAPES[kind]
    size = tuple(n * (2 if kind != "video" else 1) for n in shape.patch)
    signals = waves(8, size, shape.channels)
    learner = learn(Learner.new(shape, signals), 200, 60)
    prior = Prior.of(learner, index_bits=10, budget=8.0)
    index = encode_signals(prior, signals[:1], EncodeSettings(40, 20))[0]
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
    (other / "wrong.fpz").write_bytes(prior_of(TINY).data)
    (other / "right.fpz").write_bytes(prior.data)
    monkeypatch.setenv(bayes_codec.SEARCH, str(other))
    assert models.load(file).prior.name == prior.name
    monkeypatch.delenv(bayes_codec.SEARCH)
    (tmp_path / "p.fpz").write_bytes(prior.data)
    assert models.load(file).size == (16, 20)
    wrong = prior_of(TINY)
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
    arguments = ["--crops", "4", "--steps", "60", "--kl-bits", "60", "--json"]
    method = ["--method", "combiner"]
    assert main(["fit", "prior", str(folder), "-o", str(prior), *method, *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    source = str(folder / "0.png")
    call = ["fit", "image", source, "-o", str(file), *method, "--steps", "10"]
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
