"""The splat codec: SplatModel to .fpz bytes and back (docs/format.md).

Positions go through an octree after signed-log contraction; everything else is predicted from
causal neighbours in octree order and coded with adaptive integer contexts. Each Gaussian carries
a class, how little it matters in the picture, that coarsens all its steps by powers of two: the
reverse water-filling w * step^2 = const over Gaussians whose squared blending weights w spread
over many octaves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..quant import container, entropy
from ..quant.transforms import expand
from . import blocks, fit_tables, tiles, vectree_file
from .frames import from_angles, is_needle, logit_of_log
from .layout import (
    BLOCK,
    DEPTH,
    GEOMETRY,
    Layout,
    Predictor,
    table_bytes,
    unpack_tables,
)
from .model import SplatModel, check_room
from .shelf import let_go, shelf

T = TypeVar("T")
U = TypeVar("U")
Floats = dict[str, NDArray[np.float32]]  # a block's tensors, colours together
COLOR = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float64)
COLOR /= np.sqrt((COLOR * COLOR).sum(1, keepdims=True))  # Orthonormal luma and two chroma axes.


@dataclass(frozen=True)
class Steps:
    """Quantisation steps of class 0, the Gaussians that matter most.

    Attributes:
        position: position cell as a fraction of the Gaussian's second scale.
        opacity: natural log of alpha. scale: natural log. rotation: radians.
        dc, ac: spherical-harmonic coefficient units.
        prune: importance, relative to that of class 0, below which a Gaussian is dropped before
            coding (by the caller: `encode` keeps what it is given).
    """

    # Where `allocate` takes a real capture at 41 dB.
    position: float = 0.010
    opacity: float = 0.013
    scale: float = 0.013
    rotation: float = 0.016
    dc: float = 0.044
    ac: float = 0.036
    prune: float = 1.5e-3

    def scaled(self, factor: float) -> Steps:
        """All steps times one factor, and what goes with their square: rate control's knob."""
        scaled = {name: value * factor for name, value in vars(self).items()}
        return replace(Steps(**scaled), prune=self.prune * factor**2)


def parallel(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Results in order; as many threads as torch uses (the native coder releases the GIL)."""
    items = list(items)
    threads = min(len(items), torch.get_num_threads())
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def encode(
    model: SplatModel,
    classes: NDArray[np.integer],
    steps: Steps,
    *,
    header: Mapping[str, Any] | None = None,
) -> bytes:
    """The .fpz file of a model of finite values.

    Args:
        model: N Gaussians; order is not kept (the octree's is).
        classes: [N] or [N, 2] in 0..9, how many octaves coarser each Gaussian may be; of two, the
            first is of its colour, the second of its geometry.
        steps: of class 0.
        header: provenance to store beside the layout.

    Raises:
        ValueError: for values that are not finite or classes out of range.
    """
    return encode_source(fit_tables.Source.of(model, np.asarray(classes, np.int32)), steps, header)


def encode_source(
    source: fit_tables.Source, steps: Steps, header: Mapping[str, Any] | None = None
) -> bytes:
    """The same for a model already in octree order, for callers that encode it repeatedly."""
    layout, tables, packed = fit_tables.fit(source, steps)

    def one(block: int) -> dict[str, container.Section]:
        writer = blocks.Writer(block, source.near[block])
        wanted = source.wanted(layout.place(block), layout, tables)
        blocks.code_block(writer, layout, tables.predictors, wanted)
        return writer.sections

    coded = parallel(one, range(len(layout.counts)))
    sections = [container.Section("tab", "zlib", packed, table_bytes(layout))] if coded else []
    for group in ((*GEOMETRY, "dc"), ("lim", "ac")):
        sections += [found[key] for found in coded for key in group if key in found]
    head = {"kind": "gaussians", "layout": layout.to_header(), **(header or {})}
    return container.write(head, sections)


Watch = Callable[[Layout, "Tables"], Callable[[int], blocks.Stream]]


def requantise(source: fit_tables.Source, steps: Steps, watch: Watch | None = None) -> SplatModel:
    """The model that decoding `encode_source(source, steps)` gives, without coding it.

    `watch`, given the file's layout and tables, gives the stream that each block goes through
    instead of `blocks.Dry`, for callers that want to see predictions and symbols.
    """
    layout, tables, _ = fit_tables.fit(source, steps)
    new_stream = watch(layout, tables) if watch else lambda block: blocks.Dry(source.near[block])

    def one(block: int, out: Floats) -> None:
        wanted = source.wanted(layout.place(block), layout, tables)
        stream = new_stream(block)
        restore(blocks.code_block(stream, layout, tables.predictors, wanted), layout, tables, out)

    return _paint(one, range(len(layout.counts)), layout, {}, on_disk=source.stored.fresh)


def decode(data: bytes, *, partial: bool = False, name: str = "<bytes>") -> SplatModel:
    """The model of a .fpz file; bit-identical on every machine and thread count.

    With `partial`, a file cut at any place after its section table gives what had come: whole
    blocks, without the view-dependent colour whose sections are missing. Raises ValueError, in
    one line that names the file and the section.
    """
    if container.locate(data, name=name)[0].get("kind") == tiles.KIND:
        file = tiles.TiledFile.of(data, name, partial=partial)
        if not partial:
            file.verify()
        check_room(file.count, 0, name)
        parts = list(file.finest())
        return tiles.joined(parts) if parts else _nothing()
    return decode_one(data, partial=partial, name=name)


def decode_one(
    data: bytes, *, partial: bool = False, name: str = "<bytes>", on_disk: bool = False
) -> SplatModel:
    """The same for a file that is not of tiles, which a stream of a tile may not be.

    With `on_disk` its colours come to be on a shelf.
    """
    found = container.read(data, partial=partial, name=name)
    kind = found.header.get("kind")
    if kind != "gaussians":
        raise ValueError(f"{name}: header: expected kind 'gaussians', got {kind!r}")
    if found.header.get("codec") == vectree_file.NAME:
        return vectree_file.decode(found, partial=partial, name=name)
    layout = Layout.from_header(found.header, name)
    sections = {section.name: section for section in found.sections}
    if not partial:
        _check_complete(layout, sections, name)
    here = [
        block
        for block in range(len(layout.counts))
        if "tab" in sections and all(f"{key}/{block}" in sections for key in GEOMETRY)
    ]
    if not here:
        return _paint(lambda block, out: None, here, layout, found.header, name)
    tables = Tables.read(sections["tab"], layout, name)

    def one(block: int, out: Floats) -> None:
        reader = blocks.Reader(block, layout.counts[block], sections, name)
        restore(blocks.code_block(reader, layout, tables.predictors, None), layout, tables, out)

    return _paint(one, here, layout, found.header, name, on_disk=on_disk)


def _check_complete(layout: Layout, sections: Mapping[str, Any], name: str) -> None:
    """Refuse missing and unknown sections: nothing is allocated for blocks that are not there."""
    if not layout.counts and not sections:
        return
    keys = (*GEOMETRY, "dc", *(("lim", "ac") if layout.rest else ()))
    names = (f"{key}/{block}" for block in range(len(layout.counts)) for key in keys)
    for section in itertools.chain(["tab"], names):  # Lazily: the counts are only a claim.
        if section not in sections:
            raise ValueError(f"{name}: section {section!r}: expected, got none")
    if len(sections) > 1 + len(keys) * len(layout.counts):
        known = {"tab"} | {f"{k}/{b}" for k in keys for b in range(len(layout.counts))}
        extra = sorted(set(sections) - known)[0]
        raise ValueError(f"{name}: section {extra!r}: expected none, got one")


@dataclass(frozen=True)
class Tables:
    """Predictors and colour bases of a file; bases are rows of float64."""

    predictors: dict[str, Predictor]
    dc: NDArray[np.float64]
    ac: NDArray[np.float64]

    @staticmethod
    def read(section: container.Section, layout: Layout, name: str) -> Tables:
        size = table_bytes(layout)
        if (section.codec, section.raw_size) != ("zlib", size):
            raise ValueError(
                f"{name}: section 'tab': expected {size} bytes by 'zlib', "
                f"got {section.raw_size} by {section.codec!r}"
            )
        predictors, dc, ac = unpack_tables(section.payload, layout, name)
        return Tables.of(predictors, dc, ac, layout)

    @staticmethod
    def of(
        predictors: dict[str, Predictor], dc: NDArray[np.int8], ac: NDArray[np.int8], layout: Layout
    ) -> Tables:
        if layout.mix == "klt":
            return Tables(predictors, dc / 127.0, ac / 127.0)
        k = layout.rest // 3  # All luma coefficients first, then the two chroma axes.
        basis = np.zeros((3, k, k, 3))
        for c in range(3):
            basis[c, np.arange(k), np.arange(k)] = COLOR[c]
        return Tables(predictors, dc / 127.0, basis.reshape(3 * k, 3 * k))


@np.errstate(over="ignore", invalid="ignore")  # A hostile file may hold any integers.
def restore(values: blocks.Values, layout: Layout, tables: Tables, out: Floats) -> None:
    """Write a block's floats, made by separately rounded IEEE operations only, into `out`."""
    unit = layout.units
    t = values.cells * (layout.span / (2 << DEPTH)) + np.array(layout.low)
    out["means"][:] = expand(t, layout.radius) + np.array(layout.center)
    scales = values.scales * unit["scl"]
    needles = np.flatnonzero(is_needle(values.scales))
    out["scales"][:] = scales
    out["scales"][needles] = scales[needles][:, [1, 2, 0]]
    out["quats"][:] = from_angles(values.tilt * unit["tlt"], values.roll[:, 0] * unit["rol"])
    out["opacities"][:] = logit_of_log(values.opacity[:, 0] * unit["opa"])
    colors = out["colors"].reshape(len(t), -1)
    if values.dc is None or values.ac is None:
        colors[:] = 0
    if values.dc is not None:
        entropy.apply_bytes(values.dc, _to_bytes(tables.dc), unit["dc"] / 127.0, colors, 0)
    if values.ac is not None and layout.mix == "klt":
        entropy.apply_bytes(values.ac, _to_bytes(tables.ac), unit["ac"] / 127.0, colors, 3)
    elif values.ac is not None:
        colors[:, 3:] = entropy.apply_basis(
            values.ac, tables.ac * unit["ac"], np.zeros(layout.rest)
        )


def _nothing() -> SplatModel:
    shapes = ((0, 3), (0, 4), (0, 3), (0,), (0, 1, 3), (0, 0, 3))
    means, quats, scales, opacities, sh0, shN = (torch.zeros(shape) for shape in shapes)
    return SplatModel(means, quats, scales, opacities, sh0, shN)


def _to_bytes(basis: NDArray[np.float64]) -> NDArray[np.int8]:
    return np.rint(basis * 127.0).astype(np.int8)


def _paint(
    one: Callable[[int, Floats], None],
    here: Iterable[int],
    layout: Layout,
    header: Mapping[str, Any],
    name: str = "<bytes>",
    *,
    on_disk: bool = False,
) -> SplatModel:
    """A model whose blocks `here`, in order, are each written by `one` into their place.

    With `on_disk` its colours come to be on a shelf.
    """
    here = list(here)
    check_room(sum(layout.counts[block] for block in here), layout.rest // 3, name)
    ends = np.cumsum([0] + [layout.counts[block] for block in here])
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": ()}
    size = int(ends[-1])
    tensors = {name: torch.empty(size, *shape) for name, shape in shapes.items()}
    bases = 1 + layout.rest // 3
    colors = shelf(size, bases) if on_disk else torch.empty(size, bases, 3)

    def place(index: int) -> None:
        part = slice(ends[index], ends[index + 1])
        out = {name: values[part].numpy() for name, values in tensors.items()}
        one(here[index], out | {"colors": colors[part].numpy()})
        let_go(colors)

    parallel(place, range(len(here)))
    return SplatModel(
        **tensors,
        sh0=colors[:, :1],
        shN=colors[:, 1:],
        antialiased=layout.antialiased,
        extra={k: v for k, v in header.items() if k not in ("kind", "layout")},
    )


__all__ = ["BLOCK", "Steps", "Tables", "decode", "encode"]
