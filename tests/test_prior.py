"""The prior of a table's rows: what it must not miss, and against a count corner by corner."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch

from fieldpress.fields import codec
from fieldpress.fields.levels import Encoding
from fieldpress.fields.prior import SIDE, row_contexts

PRIMES = (1, 2654435761, 805459861)


def ball() -> np.ndarray:
    z, y, x = np.mgrid[:SIDE, :SIDE, :SIDE] - 20
    return (x**2 + y**2 + (z - 15) ** 2 < 120).flatten()


@pytest.mark.parametrize("otype", ["HashGrid", "KuhnGrid", "SimplexGrid"])
def test_rows_that_places_in_cells_meet_are_not_missed(otype: str) -> None:
    encoding, cells = Encoding(3, otype, 4, 2, 12, 5, 1.7), ball()
    live = torch.from_numpy(np.flatnonzero(cells)).repeat(40)
    corner = torch.stack([live % SIDE, live // SIDE % SIDE, live // SIDE**2], 1)
    rng = torch.Generator().manual_seed(0)
    points = (corner + torch.rand(len(live), 3, generator=rng)) / SIDE
    for number, used in enumerate(codec.rows_in_use(encoding, [points])):
        contexts = row_contexts(encoding, number, cells)
        if contexts.any():
            assert contexts[used].all(), number
            assert not contexts.all()


@pytest.mark.parametrize("otype", ["HashGrid", "SimplexGrid"])
def test_counts_are_those_of_a_loop_over_corners(otype: str) -> None:
    encoding, cells = Encoding(3, otype, 2, 2, 6, 4, 1.5), ball()
    cube = cells.reshape(SIDE, SIDE, SIDE)
    level = encoding.level[1]
    unit = round(Fraction(SIDE) / Fraction(6 * level.scale) * 2**20)
    many, much = [0] * level.rows, [0] * level.rows
    for c in np.ndindex(level.side, level.side, level.side):
        place = [6 * v - (sum(c) if otype == "SimplexGrid" else 0) for v in c]
        edges = [
            (floor(Fraction((p - 3 - 6) * unit, 2**20)), floor(Fraction((p - 3 + 6) * unit, 2**20)))
            for p in place
        ]
        x, y, z = (slice(max(a, 0), max(min(b + 1, SIDE), 0)) for a, b in edges)
        box = cube[z, y, x]
        if not box.any():
            continue
        row = 0
        for v, prime in zip(c, PRIMES, strict=True):
            row ^= v * prime % 2**32
        row %= level.rows
        many[row] += 1
        much[row] += 1 + 7 * int(box.sum()) // box.size
    wanted = np.minimum(np.stack([many, much], 1), 31)
    assert wanted.any()
    assert np.array_equal(row_contexts(encoding, 1, cells), wanted)


def test_levels_without_a_prior_are_all_zero() -> None:
    for encoding in (
        Encoding(3, "PermutoGrid", 1, 2, 9, 8),
        Encoding(3, "HashGrid", 1, 2, 6, 40),
        Encoding(3, "HashGrid", 1, 2, 6, 1),
    ):
        assert not row_contexts(encoding, 0, ball()).any()
