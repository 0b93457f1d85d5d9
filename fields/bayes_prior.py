"""Priors of Bayesian fields: what encoder and decoder share, in whole numbers, as a .fpz file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..quant import container
from ..quant.container import Section
from . import tables
from .bayes_blocks import COST_UNITS, Blocks
from .bayes_learn import Learner
from .bayes_network import Shared
from .bayes_posterior import Gaussians, kl_nats
from .bayes_shape import MIX_SHIFT, Shape

KIND = "prior"
NAME_DIGITS = 8  # Hexadecimal: files name their prior, and are small.
MOST_BITS = 20  # Of an index.
INDEX_BITS = 16
BUDGET = 14.0  # Bits of KL of a block: bench/recombiner.py prints what samples are like by it.
MAX_MEAN, MAX_STD, MIN_STD = 64.0, 16.0, 2.0**-14
MAX_WEIGHT = (1 << 15) - 1
UNIT = 2.0**-MIX_SHIFT  # Of mixing matrices and convolutions.

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Prior:
    """Gaussians over latents, and the maps that make a network of them.

    Attributes:
        shape: of the fields.
        mean, std: [n] of each level, half precision.
        cost: [n] of each level, average KL of training signals in units of 1 / 256 bit.
        mixing: [n, n] of each layer, w = h A, in units of 2^-14; none in plain mode.
        kernels: [out, in, 3, ...] of each convolution, in units of 2^-14.
        index_bits: of a block's index.
        budget: bits of KL of a block.
        beta: mean squared error that a nat was worth, where an encoder begins.
        extra: provenance.
    """

    shape: Shape
    mean: dict[str, Half]
    std: dict[str, Half]
    cost: dict[str, NDArray[np.uint16]]
    mixing: tuple[NDArray[np.int16], ...]
    kernels: tuple[NDArray[np.int16], ...]
    index_bits: int = INDEX_BITS
    budget: float = BUDGET
    beta: float = 1e-5
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.index_bits <= MOST_BITS:
            raise ValueError(f"index_bits: expected 1 to {MOST_BITS}, got {self.index_bits}")
        if not 0.5 <= self.budget <= 64 or not 0 < self.beta < 1:
            raise ValueError(f"budget: expected 0.5 to 64, got {self.budget}, beta {self.beta}")
        for level in self.shape.levels:
            mean, std = self.mean[level], self.std[level]
            if not (np.abs(mean) <= MAX_MEAN).all():
                raise ValueError(f"mean: expected up to {MAX_MEAN:g} at level {level}")
            if not ((std >= MIN_STD) & (std <= MAX_STD)).all():
                raise ValueError(f"std: expected {MIN_STD:g} to {MAX_STD:g} at level {level}")

    @staticmethod
    def of(learner: Learner, extra: Mapping[str, Any] | None = None, **options: Any) -> Prior:
        """What was learned, rounded; `options` are index_bits and budget."""
        mean, std = {}, {}
        for level, value in learner.prior.mean.items():
            mean[level] = value.clamp(-MAX_MEAN, MAX_MEAN).numpy().astype(np.float16)
            spread = learner.prior.log_std[level].exp().clamp(2 * MIN_STD, MAX_STD)
            std[level] = spread.numpy().astype(np.float16)
        cost = {}
        for level, kl in kl_nats(learner.posterior, learner.prior).items():
            units = kl.mean((0, 1)) * (COST_UNITS / math.log(2))
            cost[level] = units.round().clamp(0, 65535).numpy().astype(np.uint16)
        shared = learner.shared
        return Prior(
            learner.shape, mean, std, cost,
            tuple(_rounded(x) for x in shared.mixing) if learner.shape.mixing else (),
            tuple(_rounded(x) for x in shared.kernels),
            beta=learner.beta, extra=dict(extra or {}), **options,
        )  # fmt: skip

    @cached_property
    def gaussians(self) -> Gaussians:
        """The same for fitting, [n] float32."""
        return Gaussians(
            {k: torch.from_numpy(v.astype(np.float32)) for k, v in self.mean.items()},
            {k: torch.from_numpy(v.astype(np.float32)).log() for k, v in self.std.items()},
        )

    @cached_property
    def shared(self) -> Shared:
        """The same for fitting."""
        kernels = tuple(torch.from_numpy(x.astype(np.float32)) * UNIT for x in self.kernels)
        if self.shape.mixing:
            mixing = tuple(torch.from_numpy(x.astype(np.float32)) * UNIT for x in self.mixing)
            return Shared(mixing, kernels)
        return Shared(Shared.new(self.shape, torch.Generator()).mixing, kernels)

    @cached_property
    def blocks(self) -> dict[str, Blocks]:
        """How each level is cut."""
        budget = int(self.budget * COST_UNITS)
        return {
            level: Blocks.of(self.cost[level], budget, number, self.shape.shuffled)
            for number, level in enumerate(self.shape.levels)
        }

    @property
    def layout(self) -> dict[str, Any]:
        """What the file's header says beside provenance."""
        return {
            "shape": self.shape.config(), "index_bits": self.index_bits, "budget": self.budget,
            "beta": self.beta,
        }  # fmt: skip

    @property
    def columns(self) -> dict[str, NDArray[np.int32]]:
        """All numbers by section, [N] each, in the order of the file."""
        found = {}
        for level in self.shape.levels:
            found[f"mean/{level}"] = self.mean[level].view(np.int16)
            found[f"std/{level}"] = self.std[level].view(np.int16)
            found[f"cost/{level}"] = self.cost[level]
        for key in ("mixing", "kernels"):
            for number, values in enumerate(getattr(self, key)):
                found[f"{key}/{number}"] = values.reshape(-1)
        return {name: values.astype(np.int32) for name, values in found.items()}

    @cached_property
    def data(self) -> bytes:
        """The .fpz file."""
        sections = [tables.write_matrix(k, x[:, None]) for k, x in self.columns.items()]
        return container.write({"kind": KIND, "layout": self.layout, **self.extra}, sections)

    @cached_property
    def name(self) -> str:
        """What files call it: the first digits of the SHA-256 of its layout and numbers."""
        state = hashlib.sha256(json.dumps(self.layout, sort_keys=True).encode())
        for values in self.columns.values():
            state.update(values.astype("<i4").tobytes())
        return state.hexdigest()[:NAME_DIGITS]


def _rounded(values: torch.Tensor) -> NDArray[np.int16]:
    units = (values.detach() / UNIT).round().clamp(-MAX_WEIGHT, MAX_WEIGHT)
    return units.numpy().astype(np.int16)


def read_prior(data: bytes, *, name: str = "<bytes>") -> Prior:
    """The prior of a .fpz file. Raises ValueError naming the file and the section or the key."""
    found = container.read(data, name=name)
    if found.header.get("kind") != KIND:
        raise ValueError(
            f"{name}: header: expected kind {KIND}, got {found.header.get('kind')!r:.40}"
        )
    sections = {section.name: section for section in found.sections}
    try:
        layout = found.header.get("layout")
        if not isinstance(layout, dict) or not isinstance(layout.get("shape"), dict):
            raise ValueError(f"layout: expected an object with a shape, got {layout!r:.40}")
        shape = Shape.of(layout["shape"])
        options = {key: _number(layout, key) for key in ("index_bits", "budget", "beta")}
        if type(options["index_bits"]) is not int:
            raise ValueError(f"index_bits: expected a whole number, got {options['index_bits']}")
    except ValueError as error:
        raise ValueError(f"{name}: header: {error}") from None
    tables.check_expansion(_float_bytes(shape), len(data), name)
    mean, std, cost = ({} for _ in range(3))
    for level, count in shape.levels.items():
        mean[level] = _take(sections, f"mean/{level}", count, name).view(np.float16)
        std[level] = _take(sections, f"std/{level}", count, name).view(np.float16)
        cost[level] = _take(sections, f"cost/{level}", count, name, np.uint16)
    mixing = tuple(
        _take(sections, f"mixing/{i}", n * n, name).reshape(n, n) for i, n in enumerate(shape.mixed)
    )
    kernels = tuple(
        _take(sections, f"kernels/{i}", out * into * 3**shape.dims, name).reshape(
            out, into, *[3] * shape.dims
        )
        for i, (out, into) in enumerate(shape.kernels)
    )
    tables.check_sections([], sections, name)
    extra = {k: v for k, v in found.header.items() if k not in ("kind", "layout")}
    try:
        return Prior(shape, mean, std, cost, mixing, kernels, extra=extra, **options)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _float_bytes(shape: Shape) -> int:
    mixing = sum(n * n for n in shape.mixed)
    kernels = sum(out * into * 3**shape.dims for out, into in shape.kernels)
    return 4 * (mixing + kernels + 3 * sum(shape.levels.values()))


def _number(layout: dict[str, Any], key: str) -> float:
    value = layout.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{key}: expected a number, got {value!r:.40}")
    return value


def _take(
    sections: dict[str, Section],
    key: str,
    count: int,
    name: str,
    dtype: type[np.int16] | type[np.uint16] = np.int16,
) -> NDArray[Any]:
    """The integers [count] of a section, which is taken out."""
    values = tables.read_symbols(sections, key, (count, 1), name)[:, 0]
    del sections[key]
    info = np.iinfo(dtype)
    if values.size and not (info.min <= values.min() and values.max() <= info.max):
        raise ValueError(f"{name}: section {key!r}: expected {info.min} to {info.max}")
    return values.astype(dtype)
