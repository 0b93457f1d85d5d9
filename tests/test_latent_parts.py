"""Motion by parts: as bytes, as the picture it makes, and how it is found."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from fieldpress.fields import _native, latent_parts
from fieldpress.fields import _reference_latent as twin
from fieldpress.fields.latent_ops import Ints

AWAYS = [[-4], [-4, -8], [-2, 2], [-1, 3]]
SIZES = [(1, 1), (8, 8), (9, 40), (64, 32), (100, 75)]


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """[H, W, 3] waves of several lengths, so that every place is like no other near it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-0.7, 0.7, (9, 3))]
    planes = np.stack([sum(waves[k::3]) for k in range(3)], -1)
    return (128 + 35 * planes).clip(0, 255).astype(np.uint8)


def random_parts(size: tuple[int, int], away: list[int], seed: int, spread: int = 30) -> Ints:
    """Of all sizes and modes, with vectors that often are a neighbor's."""
    rng = np.random.default_rng(seed)
    parts = np.zeros(latent_parts.grid(*size, len(away)), np.int32)
    known = [rng.integers(-spread, spread + 1, 2 * len(away)) for _ in range(3)]

    def put(row: int, column: int, level: int) -> None:
        if level and rng.random() < 0.6:
            half = 1 << (level - 1)
            for k in range(4):
                put(row + k // 2 * half, column + k % 2 * half, level - 1)
            return
        mode = int(rng.integers(0, 3)) if len(away) == 2 else 1
        new = rng.integers(-spread, spread + 1, 2 * len(away))
        vectors = known[rng.integers(0, 3)] if rng.random() < 0.7 else new
        block = parts[row : row + (1 << level), column : column + (1 << level)]
        block[:] = [level, mode, *vectors]

    for row in range(0, parts.shape[0], 4):
        for column in range(0, parts.shape[1], 4):
            put(row, column, 2)
    return parts


def used(parts: Ints) -> Ints:
    """With zeros for the vectors of references that are not used."""
    found = parts.copy()
    if parts.shape[2] == 6:
        found[..., 4:][parts[..., 1] == 1] = 0
        found[..., 2:4][parts[..., 1] == 2] = 0
    return found


@pytest.mark.parametrize("away", AWAYS)
@pytest.mark.parametrize("size", SIZES)
def test_parts_come_back(size, away) -> None:
    for seed in range(4):
        parts = random_parts(size, away, seed, spread=(2, 30, 4096)[seed % 3])
        data = latent_parts.write(parts, away)
        found = latent_parts.read(data, *size, away)
        assert np.array_equal(used(found), used(parts))
        again = latent_parts.write(found, away)
        assert len(again) <= len(data) + 1  # Vectors that are not used are guesses now.
        assert np.array_equal(latent_parts.read(again, *size, away), found)
        pictures = [textured(*size, seed=k) for k in range(len(away))]
        made = [latent_parts.guide(pictures, p) for p in (parts, found)]
        assert torch.equal(*made)


def test_bytes_of_parts_are_those_of_the_format() -> None:
    state = hashlib.sha256()
    for seed, away in enumerate([*AWAYS, [1, -900]]):
        for spread in (3, 60, 4096):
            parts = random_parts((120, 90), away, seed, spread)
            state.update(latent_parts.write(parts, away))
    assert state.hexdigest()[:16] == "8ebde85f64155e84"


def test_no_motion_takes_no_more_than_a_few_bytes() -> None:
    for away in AWAYS:
        parts = np.zeros(latent_parts.grid(640, 360, len(away)), np.int32)
        parts[..., 0], parts[..., 1] = 2, len(away) % 2
        assert len(latent_parts.write(parts, away)) < 12


def test_vectors_on_one_line_are_cheaper_than_others() -> None:
    sizes = []
    for sign in (-1, 1):
        parts = random_parts((320, 320), [-3, 6], 5)
        parts[..., 1] = 0
        parts[..., 4:] = sign * 2 * parts[..., 2:4]
        sizes.append(len(latent_parts.write(parts, [-3, 6])))
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize("away", AWAYS[:3])
@pytest.mark.parametrize("size", [(1, 1), (7, 19), (24, 33)])
def test_composed_pictures_are_the_twins(size, away) -> None:
    pictures = [textured(*size, seed=k) for k in range(len(away))]
    parts = random_parts(size, away, 3)
    found = latent_parts.guide(pictures, parts)
    wanted = twin.compose([torch.from_numpy(p) for p in pictures], torch.from_numpy(parts))
    assert torch.equal(found, wanted)
    for threads in (2, 5):
        assert torch.equal(latent_parts.guide(pictures, parts, threads), found)


def test_parts_that_do_not_move_are_the_picture() -> None:
    picture = textured(37, 50)
    parts = np.zeros(latent_parts.grid(37, 50, 1), np.int32)
    parts[..., 1] = 1
    made = latent_parts.guide([picture], parts).mul(255).round().permute(1, 2, 0)
    assert np.array_equal(made.numpy(), picture)


def cost(now, references, parts, away, lmbda) -> float:
    made = latent_parts.guide(references, parts).permute(1, 2, 0).numpy()
    bits = 8 * len(latent_parts.write(parts, away))
    return float(np.square(made - now / 255).mean() + lmbda * bits / now[..., 0].size)


def scene() -> tuple[np.ndarray, list[np.ndarray]]:
    """A square that moves by 3 pixels a frame to the right over a ground that moves by 1 down."""
    height, width = 96, 128
    ground, square = textured(height + 40, width, 1), textured(height, width + 40, 2)
    frames = []
    for t in (-1, 0, 1):
        frame = ground[20 - t : 20 - t + height].copy()
        x = 44 + 3 * t
        frame[28:68, x : x + 40] = square[28:68, 64:104]
        frames.append(frame)
    return frames[1], [frames[0], frames[2]]


@pytest.mark.parametrize("away", [[-1], [-1, 1]])
def test_motion_is_found(away) -> None:
    now, references = scene()
    references = references[: len(away)]
    parts = latent_parts.find(now, references, 1e-4, 3, away)
    ground, square = parts[8:11, 12:], parts[4:8, 6:10]
    ways = [(2, -4, -12)] if len(away) == 1 else [(2, -4, -12), (4, 4, 12)]
    for at, dy, dx in ways:
        uses = np.isin(parts[..., 1], [0, at // 2])
        inner = uses[8:11, 12:]
        assert (ground[inner][:, at : at + 2] == [dy, 0]).all()
        inner = square[uses[4:8, 6:10]]
        assert not len(inner) or np.median(inner[:, at + 1]) == dx
    levels = parts[..., 0]
    assert levels[4:8, 12:].mean() > 1.5  # Large where all moves alike,
    assert levels[3:9, 5:11].mean() < levels[4:8, 12:].mean()  # small around what does not.
    still = parts.copy()
    still[..., 0], still[..., 1], still[..., 2:] = 2, 1, 0
    assert cost(now, references, parts, away, 1e-4) < 0.2 * cost(now, references, still, away, 1e-4)


def test_more_passes_cost_no_more_and_dear_bits_are_few() -> None:
    now, references = scene()
    noisy = [(r + np.random.default_rng(k).integers(-9, 10, r.shape)).clip(0, 255).astype(np.uint8)
             for k, r in enumerate(references)]  # fmt: skip
    found = [latent_parts.find(now, noisy, 3e-4, k, [-1, 1]) for k in (1, 4)]
    assert (found[1][..., 1] == 0).mean() > 0.7  # The mean has half of the noise.
    costs = [cost(now, noisy, parts, [-1, 1], 3e-4) for parts in found]
    assert costs[1] < 1.01 * costs[0]
    sizes = [len(latent_parts.write(latent_parts.find(now, noisy, lmbda, 3, [-1, 1]), [-1, 1]))
             for lmbda in (1e-5, 1e-3, 1e2)]  # fmt: skip
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 12


@pytest.mark.parametrize("size", [(1, 1), (5, 33), (40, 9)])
def test_motion_of_small_pictures(size) -> None:
    pictures = [textured(*size, seed=k) for k in range(3)]
    for away in ([-1], [-1, 1]):
        parts = latent_parts.find(pictures[0], pictures[1 : 1 + len(away)], 1e-3, 2, away)
        data = latent_parts.write(parts, away)
        assert np.array_equal(used(latent_parts.read(data, *size, away)), used(parts))


def test_what_is_found_is_as_good_with_every_instruction_set() -> None:
    now, references = scene()
    before, costs = _native.isa(), []
    for name in _native.available_isas():
        _native.set_isa(name)
        parts = latent_parts.find(now, references, 3e-4, 2, [-1, 1])
        costs.append(cost(now, references, parts, [-1, 1], 3e-4))
    _native.set_isa(before)
    assert max(costs) < 1.02 * min(costs)


def test_damage_is_an_error_or_other_parts() -> None:
    away, size = [-2, 2], (75, 90)
    parts = random_parts(size, away, 1, spread=3000)
    data = latent_parts.write(parts, away)
    rng, errors = np.random.default_rng(0), []
    for trial in range(300):
        bad = bytearray(data)
        if trial % 3 == 0:
            bad = bad[: rng.integers(0, len(bad))]
        elif trial % 3 == 1:
            bad[rng.integers(0, len(bad))] ^= 1 << rng.integers(0, 8)
        else:
            bad = bytearray(rng.integers(0, 256, rng.integers(0, 60), np.uint8).tobytes())
        try:
            found = latent_parts.read(bytes(bad), *size, away)
        except ValueError as error:
            errors.append(str(error))
            continue
        assert np.abs(found[..., 2:]).max() <= 4096
        assert found[..., 0].min() >= 0
    assert len(errors) > 250
    assert set(errors) == {"motion: damaged stream"}


def test_sizes_and_values_that_do_not_fit_are_refused() -> None:
    parts, picture = random_parts((20, 20), [-1, 1], 0), textured(20, 20)
    for column, value in ((0, 3), (0, -1), (1, 3), (1, -1), (2, 4097), (5, -4097)):
        bad = parts.copy()
        bad[1, 1, column] = value
        with pytest.raises(ValueError, match="parts: unexpected"):
            latent_parts.write(bad, [-1, 1])
        with pytest.raises(ValueError, match="parts: unexpected"):
            latent_parts.guide([picture, picture], bad)
    for away in ([], [-1], [0, 1], [-1, 1, 2], [1 << 12, 1]):
        with pytest.raises(ValueError, match="away: unexpected"):
            latent_parts.write(parts, away)
    with pytest.raises(ValueError, match="references: unexpected"):
        latent_parts.guide([picture], parts)
    with pytest.raises(ValueError, match="references: unexpected"):
        latent_parts.guide([picture, textured(28, 20)], parts)
    with pytest.raises(ValueError, match="now: unexpected"):
        _native.search_parts(textured(19, 20), [picture], 1.0, 1, [-1], [],
                             np.zeros((3, 3, 4), np.int32))  # fmt: skip
    with pytest.raises(ValueError, match="seeds: unexpected"):
        _native.search_parts(picture, [picture], 1.0, 1, [-1], [np.zeros(3, np.int32)],
                             np.zeros((3, 3, 4), np.int32))  # fmt: skip
    with pytest.raises(ValueError, match="passes: unexpected"):
        _native.search_parts(picture, [picture], 1.0, 0, [-1], [], np.zeros((3, 3, 4), np.int32))
