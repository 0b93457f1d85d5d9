"""Bayesian fields: random numbers, blocks and the exact decoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fieldpress.fields import (
    _native,
    _reference_noise,
    bayes_exact,
    bayes_network,
    bayes_noise,
)
from fieldpress.fields.bayes_blocks import COST_UNITS, Blocks, choose, packed, samples, unpacked
from fieldpress.fields.bayes_learn import patches_of
from fieldpress.fields.bayes_posterior import inputs_of
from fieldpress.fields.bayes_prior import Prior
from fieldpress.fields.bayes_shape import Shape
from fieldpress.quant._native import crc32c

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
