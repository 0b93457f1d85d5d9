"""Bayesian fields as .fpz files: a size, the name of a prior, and indices (docs/format.md, 8)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import container
from ..quant.container import Section
from ..scenes.cameras import Cameras
from . import bayes_exact, bayes_prior
from .bayes_blocks import Index, packed, unpacked
from .bayes_exact import OUTPUT_SHIFT
from .bayes_prior import NAME_DIGITS, Prior, read_prior

KIND = "bayes"
KINDS = {KIND, bayes_prior.KIND}
SECTION = "i"
MAX_SIDE = 1 << 16
SEARCH = "FIELDPRESS_PRIORS"  # Files and folders of priors, as PATH lists folders.
EXPANSION = 1 << 12  # Samples for each byte of a file: no reader takes more memory.


@dataclass(frozen=True)
class BayesField:
    """A signal as indices into samples of a prior (RECOMBINER, or COMBINER without its maps).

    Attributes:
        prior: what the indices mean.
        size: samples along each axis, slow ones first: height and width of a picture.
        index: [rows, blocks] of each level.
        extra: numbers and strings that travel with the model (provenance).
    """

    prior: Prior
    size: tuple[int, ...]
    index: Mapping[str, Index]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it can be written as."""
        return "image" if self.prior.shape.dims == 2 and self.prior.shape.channels == 3 else KIND

    @property
    def height(self) -> int:
        return self.size[-2]

    @property
    def width(self) -> int:
        return self.size[-1]

    @property
    def float_bytes(self) -> int:
        """Of the latents of all patches as floats."""
        rows = self.prior.shape.rows(self.prior.shape.grid(self.size))
        return 4 * sum(rows[level] * count for level, count in self.prior.shape.levels.items())

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """[*size, channels] in units of 2^-16 about 0, the same on every machine."""
        return bayes_exact.decode_signal(self.prior, self.index, self.size)

    def signal(self) -> Tensor:
        """[*size, channels] float32, about -1/2 to 1/2: what was encoded, nearly."""
        return torch.from_numpy(self.units.astype(np.float32)) / (1 << OUTPUT_SHIFT)

    def picture(self, width: int | None = None, height: int | None = None) -> Tensor:
        """[H, W, 3] float32 in [0, 1], whole multiples of 1 / 255. Raises ValueError for a size."""
        if (height or self.height, width or self.width) != self.size:
            raise ValueError(f"picture: expected its own size {self.size}, got {height}x{width}")
        return torch.from_numpy(self.bytes().astype(np.float32)) / 255

    def bytes(self) -> NDArray[np.uint8]:
        """[*size, channels]: -1/2 is 0 and 1/2 is 255."""
        half = 1 << (OUTPUT_SHIFT - 1)
        return np.clip(((self.units + half) * 255 + half) >> OUTPUT_SHIFT, 0, 255).astype(np.uint8)

    def tensors(self) -> dict[str, Tensor]:
        return {level: torch.from_numpy(index) for level, index in self.index.items()}

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": list(self.size), "prior": self.prior.name, **self.extra}

    def describe(self) -> dict[str, Any]:
        """What `info` says of it."""
        rows = {level: list(index.shape) for level, index in self.index.items()}
        return {
            **self.meta(),
            "method": "recombiner" if self.prior.shape.mixing else "combiner",
            "shape": self.prior.shape.config(),
            "rows_and_blocks": rows,
            "index_bits": self.prior.index_bits,
            "float_bytes": self.float_bytes,
            "provenance": dict(self.extra),
        }

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3]: the picture, whatever the poses."""
        return self.picture(cameras.width, cameras.height).expand(len(cameras), -1, -1, -1)


@dataclass(frozen=True)
class PriorField:
    """A prior where models are asked for: it can be described, not shown."""

    prior: Prior
    kind = bayes_prior.KIND

    @property
    def float_bytes(self) -> int:
        return 4 * sum(x.numel() for x in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        prior = self.prior
        parts = {f"{name}/{i}": x for name in ("mixing", "kernels")
                 for i, x in enumerate(getattr(prior, name))}  # fmt: skip
        for level in prior.shape.levels:
            parts |= {f"mean/{level}": prior.mean[level], f"std/{level}": prior.std[level]}
        return {name: torch.from_numpy(x) for name, x in parts.items()}

    def describe(self) -> dict[str, Any]:
        """What `info` says of it."""
        prior = self.prior
        bits = sum(int(x.astype(np.int64).sum()) for x in prior.cost.values())
        return {
            "kind": self.kind, "prior": prior.name, "shape": prior.shape.config(),
            "index_bits": prior.index_bits, "budget": prior.budget,
            "blocks": {level: len(blocks.ends) for level, blocks in prior.blocks.items()},
            "kl_bits": bits / 256, "float_bytes": self.float_bytes, "provenance": dict(prior.extra),
        }  # fmt: skip


def encode(model: BayesField) -> bytes:
    """The .fpz file of a field; its prior is named, not held."""
    bits = model.prior.index_bits
    payload = packed([model.index[level] for level in model.prior.shape.levels], bits)
    layout = [model.prior.name, *model.size]  # Bare: names of keys would be a tenth of the file.
    section = Section(SECTION, "raw", payload, len(payload))
    return container.write({"kind": KIND, "layout": layout, **model.extra}, [section])


def decode(
    data: bytes, *, prior: Prior | None = None, name: str = "<bytes>"
) -> BayesField | PriorField:
    """The field of a .fpz file, or the prior that it is.

    Without `prior` the one that the file names is looked for among the files and in the folders
    that the environment's FIELDPRESS_PRIORS lists, then beside the file. Raises ValueError, in one
    line that names the file and the section or the key at fault, and where no prior fits.
    """
    if container.kind_of(data, name=name) == bayes_prior.KIND:
        return PriorField(read_prior(data, name=name))
    found = container.read(data, name=name)
    wanted, size = _layout(found.header, name)
    if prior is None:
        prior = find_prior(wanted, name)
    if prior.name != wanted:
        raise ValueError(f"{name}: header: expected prior {wanted}, got {prior.name}")
    return _field(found, prior, size, name)


def _field(
    found: container.Container, prior: Prior, size: tuple[int, ...], name: str
) -> BayesField:
    dims = prior.shape.dims
    if len(size) != dims:
        raise ValueError(f"{name}: header: size: expected {dims} numbers, got {len(size)}")
    names = [section.name for section in found.sections]
    if names != [SECTION] or found.sections[0].codec != "raw":
        raise ValueError(f"{name}: sections: expected {SECTION!r} alone, got {names!r:.60}")
    payload = found.sections[0].payload
    if math.prod(size) > EXPANSION * len(payload):
        raise ValueError(f"{name}: header: size: {size} is too much for {len(payload)} bytes")
    rows = prior.shape.rows(prior.shape.grid(size))
    sizes = [(rows[level], len(blocks.ends)) for level, blocks in prior.blocks.items()]
    try:
        parts = unpacked(payload, sizes, prior.index_bits)
    except ValueError as error:
        raise ValueError(f"{name}: section {SECTION!r}: {error}") from None
    extra = {k: v for k, v in found.header.items() if k not in ("kind", "layout")}
    return BayesField(prior, size, dict(zip(prior.blocks, parts, strict=True)), extra)


def _layout(header: Mapping[str, Any], name: str) -> tuple[str, tuple[int, ...]]:
    layout = header.get("layout")
    if header.get("kind") != KIND or not isinstance(layout, list) or not layout:
        raise ValueError(f"{name}: header: expected kind {KIND} and a layout")
    wanted, *size = layout
    if type(wanted) is not str or len(wanted) != NAME_DIGITS:
        raise ValueError(
            f"{name}: header: prior: expected {NAME_DIGITS} digits, got {wanted!r:.40}"
        )
    if not (1 <= len(size) <= 3 and all(type(n) is int and 1 <= n <= MAX_SIDE for n in size)):
        raise ValueError(f"{name}: header: size: expected 1 to 3 sides, got {size!r:.40}")
    return wanted, tuple(size)


def find_prior(wanted: str, name: str) -> Prior:
    """The prior of a name, where `decode` says. Raises ValueError."""
    for path in _candidates(name):
        data = _prior_bytes(path)
        if data is not None:
            prior = read_prior(data, name=str(path))
            if prior.name == wanted:
                return prior
    raise ValueError(
        f"{name}: expected its prior {wanted} beside the file or in {SEARCH}, got none"
    )


def _candidates(name: str) -> Iterator[Path]:
    places = [Path(p) for p in os.environ.get(SEARCH, "").split(os.pathsep) if p]
    for place in [*places, Path(name).parent]:
        yield from sorted(place.glob("*.fpz")) if place.is_dir() else [place]


def _prior_bytes(path: Path) -> bytes | None:
    """The bytes of a file if it is a prior."""
    try:
        data = path.read_bytes()
        return data if container.kind_of(data, name=str(path)) == bayes_prior.KIND else None
    except (OSError, ValueError):
        return None
