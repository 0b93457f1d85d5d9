"""The shape of a Bayesian field: a signal cut into patches, each a small network of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bayes_noise import SINE_SHIFT, TURN, sine_table

COARSE = 8  # Samples of a patch for each positional latent, along each axis.
STAGES = 3  # Of the convolutions between latents and features; each doubles the grid.
MAX_AXIS = 1 << 12  # Samples of a patch along an axis.
MAX_SAMPLES = 1 << 16  # Of a patch.
MAX_WIDTH = 128
WEIGHT_SHIFT, VALUE_SHIFT = 16, 12  # Weights are multiples of 2^-16, latents of 2^-12.
MIX_SHIFT = 14


@dataclass(frozen=True)
class Shape:
    """Sizes of a network and its latents (RECOMBINER, He et al. 2024).

    Attributes:
        patch: samples along each axis, one to three axes, slow ones first.
        channels: of a sample.
        width, hidden: neurons of the sine layers, and how many there are.
        frequencies: of the Fourier features of a coordinate; they double from 1/2.
        latents: channels of the positional latents; 0 for none.
        features: channels that they give to the network.
        group: patches of a group along each axis; 0: no groups, no global weights.
        mixing: weights are a learned linear map of the latents, not multiples of them.
        shuffled: dimensions of a block come from different patches.
    """

    patch: tuple[int, ...] = (32, 32)
    channels: int = 3
    width: int = 16
    hidden: int = 2
    frequencies: int = 5
    latents: int = 12
    features: int = 8
    group: int = 0
    mixing: bool = True
    shuffled: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.patch) <= 3 or not all(
            1 <= n <= MAX_AXIS and (n % COARSE == 0 or not self.latents) for n in self.patch
        ):
            raise ValueError(
                f"patch: expected 1 to 3 multiples of {COARSE} up to {MAX_AXIS}, got {self.patch}"
            )
        if math.prod(self.patch) > MAX_SAMPLES:
            raise ValueError(f"patch: expected up to {MAX_SAMPLES} samples, got {self.patch}")
        limits = {
            "channels": (1, 16), "width": (1, MAX_WIDTH), "hidden": (1, 8), "frequencies": (1, 12),
            "latents": (0, MAX_WIDTH), "features": (1, MAX_WIDTH), "group": (0, 64),
        }  # fmt: skip
        for key, (low, high) in limits.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"{key}: expected {low} to {high}, got {getattr(self, key)}")

    @staticmethod
    def of(config: dict[str, Any]) -> Shape:
        """The shape of a header's object. Raises ValueError naming the key."""
        given = dict(config)
        for key, default in asdict(Shape()).items():
            value = given.get(key)
            wanted = list if key == "patch" else type(default)
            if type(value) is not wanted:
                raise ValueError(f"{key}: expected {wanted.__name__}, got {value!r:.40}")
        if set(given) - set(asdict(Shape())):
            raise ValueError(f"shape: unknown key {min(set(given) - set(asdict(Shape())))!r:.40}")
        if not all(type(n) is int for n in given["patch"]):
            raise ValueError(f"patch: expected whole numbers, got {given['patch']!r:.40}")
        return Shape(**{**given, "patch": tuple(given["patch"])})

    def config(self) -> dict[str, Any]:
        """What `of` reads."""
        return {**asdict(self), "patch": list(self.patch)}

    @property
    def dims(self) -> int:
        return len(self.patch)

    @property
    def samples(self) -> int:
        """Of a patch."""
        return math.prod(self.patch)

    @property
    def inputs(self) -> int:
        """Numbers that the first layer sees, without the one of its biases."""
        return 2 * self.dims * self.frequencies + (self.features if self.latents else 0)

    @cached_property
    def layers(self) -> list[tuple[int, int]]:
        """(outputs, inputs with that of the bias) of each layer."""
        widths = [self.inputs, *[self.width] * self.hidden, self.channels]
        return [(out, into + 1) for into, out in pairwise(widths)]

    @property
    def weights(self) -> int:
        """Of a patch's network."""
        return sum(out * into for out, into in self.layers)

    @property
    def mixed(self) -> list[int]:
        """Latents of each layer that a matrix makes weights of."""
        return [out * into for out, into in self.layers] if self.mixing else []

    @property
    def coarse(self) -> tuple[int, ...]:
        """Positional latents of a patch along each axis."""
        return tuple(n // COARSE for n in self.patch)

    @property
    def positional(self) -> int:
        """Positional latents of a patch."""
        return self.latents * math.prod(self.coarse)

    @property
    def kernels(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of each convolution, three samples wide along each axis."""
        if not self.latents:
            return []
        widths = [self.latents] * STAGES + [self.features]
        return [(out, into) for into, out in pairwise(widths)]

    @property
    def levels(self) -> dict[str, int]:
        """Dimensions of each level of the hierarchy, in the order in which they are coded."""
        upper = {"global": self.weights, "group": self.weights} if self.group else {}
        return {**upper, "patch": self.weights + self.positional}

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Patches along each axis that cover a signal of this size."""
        return tuple(-(-n // p) for n, p in zip(size, self.patch, strict=True))

    def groups(self, grid: Sequence[int]) -> NDArray[np.int64]:
        """The group of each patch of a grid, [patches]."""
        across = [-(-n // self.group) for n in grid]
        place = np.indices(grid).reshape(len(grid), -1) // self.group
        return np.ravel_multi_index(tuple(place), across).astype(np.int64)

    def rows(self, grid: Sequence[int]) -> dict[str, int]:
        """How many vectors each level has for a grid of patches."""
        count = {"patch": math.prod(grid), "global": 1}
        if self.group:
            count["group"] = int(self.groups(grid).max()) + 1
        return {level: count[level] for level in self.levels}

    def spread(self, layer: int) -> int:
        """What a weight of a layer is per unit of its latent at first, in units of 2^-14.

        That of a SIREN with its frequency in the weights, which count in turns (Sitzmann 2020).
        """
        return round((1 << MIX_SHIFT) * math.sqrt(6 / self.layers[layer][1]) / math.tau)

    def fourier(self) -> NDArray[np.int16]:
        """[2 dims frequencies, samples] sines and cosines of a patch's places, units of 2^-14."""
        table, rows = sine_table(), []
        for axis, count in enumerate(self.patch):
            place = 2 * np.arange(count) + 1 - count  # Twice the distance from the middle.
            for doubling in range(self.frequencies):
                phase = ((TURN >> 3) * place * (1 << doubling)) // count
                for shift in (0, TURN // 4):
                    row = table[(phase + shift) % TURN]
                    view = [1] * self.dims
                    view[axis] = count
                    rows.append(np.broadcast_to(row.reshape(view), self.patch).reshape(-1))
        return np.stack(rows)


assert SINE_SHIFT == MIX_SHIFT
