"""What an encoding is made of: its configuration in tiny-cuda-nn's words, and its levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import _native

LATTICES = {
    "HashGrid": "grid",
    "DenseGrid": "grid",
    "KuhnGrid": "kuhn",
    "SimplexGrid": "simplex",
    "PermutoGrid": "permuto",
}
MAX_SIDE = 1 << 22  # Cells of a level each way: beyond it float32 positions are too coarse.
MAX_LOG2_ROWS = 28
MAX_PARAMETERS = 1 << 31
_DEFAULTS: dict[str, Any] = {
    "otype": "HashGrid",
    "n_levels": 16,
    "n_features_per_level": 2,
    "log2_hashmap_size": 19,
    "base_resolution": 16,
    "per_level_scale": 2.0,
    "interpolation": "Linear",
    "hash": "CoherentPrime",
}


@dataclass(frozen=True)
class Level:
    """One resolution: cells per unit length, dense cells per side, rows of the table."""

    scale: float
    side: int
    rows: int


@dataclass(frozen=True)
class Encoding:
    """A table of features at several resolutions (Müller et al. 2022), on one of four lattices.

    HashGrid is the cubic grid with 2^n corners a point; KuhnGrid cuts its cubes into simplices of
    n + 1 corners; SimplexGrid does so after the skew of simplex noise, on the lattice A*_n;
    PermutoGrid is the same lattice in the coordinates and with the hash of PermutoSDF (Rosu and
    Behnke 2023), at the vertex density of a SimplexGrid.

    Attributes:
        dims: n, 2 to 4.
        otype: a key of LATTICES.
        levels: n_levels of tiny-cuda-nn, at most 32.
        features: n_features_per_level, F: 1, 2, 4 or 8.
        log2_hashmap_size: of the rows of a level, 3 to 28.
        base_resolution, per_level_scale: as in tiny-cuda-nn, whose formula the levels follow;
            fractions are allowed.
    """

    dims: int
    otype: str = "HashGrid"
    levels: int = 16
    features: int = 2
    log2_hashmap_size: int = 19
    base_resolution: float = 16
    per_level_scale: float = 2.0

    def __post_init__(self) -> None:
        _expect("dims", self.dims, self.dims in (2, 3, 4), "2, 3 or 4")
        _expect("otype", self.otype, self.otype in LATTICES, f"one of {', '.join(LATTICES)}")
        limits = {
            "levels": (1, _native.MAX_LEVELS),
            "log2_hashmap_size": (3, MAX_LOG2_ROWS),
            "base_resolution": (1, MAX_SIDE),
            "per_level_scale": (1, MAX_SIDE),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            _expect(name, value, low <= value <= high, f"{low} to {high}")
        _expect("features", self.features, self.features in (1, 2, 4, 8), "1, 2, 4 or 8")
        finest = self.base_resolution * self.per_level_scale ** (self.levels - 1)
        _expect("per_level_scale", finest, finest <= MAX_SIDE, f"at most {MAX_SIDE} cells a side")
        _expect("rows", self.rows, self.rows * self.features <= MAX_PARAMETERS, "at most 2^31")

    @staticmethod
    def of(config: Mapping[str, Any], dims: int) -> Encoding:
        """The encoding of a tiny-cuda-nn dictionary.

        Raises ValueError for an unknown key, or a value that is not supported, naming it.
        """
        unknown = sorted(set(config) - set(_DEFAULTS))
        if unknown:
            raise ValueError(
                f"encoding: expected keys of {', '.join(_DEFAULTS)}, got {unknown[0]!r}"
            )
        given = _DEFAULTS | dict(config)
        for key in ("interpolation", "hash"):
            _expect(f"encoding {key}", given[key], given[key] == _DEFAULTS[key], _DEFAULTS[key])
        for key, default in _DEFAULTS.items():
            good = isinstance(given[key], str if isinstance(default, str) else int | float)
            _expect(f"encoding {key}", given[key], good, type(default).__name__)
        for key in ("n_levels", "n_features_per_level", "log2_hashmap_size"):
            _expect(f"encoding {key}", given[key], given[key] == int(given[key]), "a whole number")
        return Encoding(
            dims, given["otype"], int(given["n_levels"]), int(given["n_features_per_level"]),
            int(given["log2_hashmap_size"]), given["base_resolution"], given["per_level_scale"],
        )  # fmt: skip

    def config(self) -> dict[str, Any]:
        """The dictionary that `of` reads."""
        return {
            "otype": self.otype,
            "n_levels": self.levels,
            "n_features_per_level": self.features,
            "log2_hashmap_size": self.log2_hashmap_size,
            "base_resolution": self.base_resolution,
            "per_level_scale": self.per_level_scale,
        }

    @property
    def lattice(self) -> str:
        return LATTICES[self.otype]

    @property
    def width(self) -> int:
        """Features of a point, all levels together."""
        return self.levels * self.features

    @cached_property
    def level(self) -> tuple[Level, ...]:
        """The levels, coarsest first, in tiny-cuda-nn's float32 arithmetic."""
        growth = np.float32(math.log2(self.per_level_scale))
        scales = np.exp2(np.arange(self.levels, dtype=np.float32) * growth)
        scales = scales * np.float32(self.base_resolution) - np.float32(1)
        return tuple(self._level(float(scale)) for scale in scales)

    def _level(self, scale: float) -> Level:
        side = math.ceil(scale) + 1
        if self.lattice == "simplex":  # The skew stretches the cube's diagonal.
            side = math.floor(math.sqrt(self.dims + 1) * (scale + _native.LEVEL_SHIFT)) + 2
        most = 1 << self.log2_hashmap_size
        dense = -(-(side**self.dims) // _native.ROW_GROUP) * _native.ROW_GROUP
        if self.otype == "DenseGrid":
            return Level(scale, side, dense)
        return Level(scale, side, most if self.lattice == "permuto" else min(dense, most))

    @property
    def rows(self) -> int:
        return sum(level.rows for level in self.level)

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The row at which each level begins, and the number of all."""
        return tuple(np.cumsum([0] + [level.rows for level in self.level]).tolist())

    @cached_property
    def native(self) -> _native.Grid:
        """The kernels' view of the same levels."""
        return _native.Grid(
            self.dims, self.features, self.lattice,
            [level.scale for level in self.level], [level.side for level in self.level],
            [level.rows for level in self.level],
        )  # fmt: skip


def _expect(name: str, got: Any, good: bool, expected: Any) -> None:
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
