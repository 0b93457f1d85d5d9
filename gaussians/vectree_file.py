"""VecTree in the .fpz container and back (docs/format.md, chapter 2.7).

Everything but the positions is integers for the adaptive coder: a half-precision number is its
rank among all of them, an index the rank of its codeword by use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quant import container, entropy
from .model import SplatModel, check_room
from .vectree import MAX_CODEWORDS, MAX_POSITION, Half, Three, VecTree

NAME = "vectree"  # the header's "codec"
BLOCK = 1 << 16  # most Gaussians in a block
NEIGHBORS = 4
KEYS = ("pos", "vq", "opa", "scl", "rot", "idx", "col")
CHANNELS = {"opa": 1, "scl": 3, "rot": 4}
MOST_RANK = 0x7BFF  # of 65504, the largest finite half
MAX_BLOCKS = 1 << 16

Int = NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """The header's numbers. `fill`: ranks that those of opa and scl are taken from, by channel."""

    counts: tuple[int, ...]
    sh_degree: int
    antialiased: bool
    level: int
    low: Three
    span: Three
    codewords: int
    fill: dict[str, tuple[int, ...]]

    @property
    def channels(self) -> int:
        """SH coefficients of one Gaussian, three colours."""
        return 3 * (self.sh_degree + 1) ** 2


def encode(tree: VecTree, header: Mapping[str, Any] | None = None) -> bytes:
    """The .fpz file of quantised Gaussians; `header` is provenance to store beside the layout."""
    n = len(tree)
    count = -(-n // BLOCK)
    ends = [n * b // count for b in range(count + 1)] if count else [0]
    fill = {"opa": _medians(tree.opacities), "scl": _medians(tree.scales)}
    layout = Layout(
        counts=tuple(b - a for a, b in itertools.pairwise(ends)),
        sh_degree=tree.sh_degree,
        antialiased=tree.antialiased,
        level=tree.level,
        low=tree.low,
        span=tree.span,
        codewords=len(tree.codebook),
        fill=fill,
    )
    sections = []
    if n:
        nobody = np.zeros((len(tree.codebook), 0), np.int32)
        sections.append(_ints("book", _ranks(tree.codebook), nobody, 2))
    used = np.cumsum(np.concatenate([[0], tree.coded])).astype(int)  # Indices before each place.
    for b in range(count):
        place = slice(ends[b], ends[b + 1])
        coded = slice(used[place.start], used[place.stop])
        kept = slice(place.start - coded.start, place.stop - coded.stop)
        sections += _block(tree, layout, b, place, tree.indices[coded], tree.colors[kept])
    head = {**(header or {}), "kind": "gaussians", "codec": NAME, "layout": vars(layout)}
    return container.write(head, sections)


def decode(found: container.Container, *, partial: bool = False, name: str) -> SplatModel:
    """The model of a container whose header says `"codec": "vectree"`; the same bits everywhere.

    With `partial`, the whole blocks of a file that was cut. Raises ValueError, in one line that
    names the file and the section.
    """
    tree = read(found, partial=partial, name=name)
    known = ("kind", "codec", "layout")
    return tree.model({k: v for k, v in found.header.items() if k not in known})


def read(found: container.Container, *, partial: bool = False, name: str) -> VecTree:
    """The quantised Gaussians themselves; arguments and errors as for `decode`."""
    layout = _layout(found.header, name)
    sections = {section.name: section for section in found.sections}
    if not partial:
        _check_complete(layout, sections, name)
    reader = _Reader(layout, sections, name)
    here = []
    for block in range(len(layout.counts)):
        if "book" not in sections or any(f"{key}/{block}" not in sections for key in KEYS):
            break
        here.append(block)
    d = layout.channels
    book = np.zeros((0, d), np.float16)
    if here:
        nobody = np.zeros((layout.codewords, 0), np.int32)
        book = _halves(reader.ints("book", d, nobody, 2), 0, "book", name)
    check_room(sum(layout.counts[block] for block in here), d // 3 - 1, name)
    parts = [reader.block(block) for block in here] or [_nothing(d)]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in KEYS}
    return VecTree(
        codes=joined["pos"],
        level=layout.level,
        low=layout.low,
        span=layout.span,
        opacities=joined["opa"],
        scales=joined["scl"],
        quats=joined["rot"],
        coded=joined["vq"],
        indices=joined["idx"],
        codebook=book,
        colors=joined["col"],
        antialiased=layout.antialiased,
    )


# Writing


def _block(
    tree: VecTree, layout: Layout, block: int, place: slice, indices: Int, colors: Half
) -> Iterator[container.Section]:
    codes, coded = tree.codes[place], tree.coded[place]
    near = entropy.causal_neighbors(codes, layout.level, NEIGHBORS)
    data = entropy.encode_octree(codes, layout.level)
    yield container.Section(f"pos/{block}", "octree", data, 8 * len(codes))
    yield _ints(f"vq/{block}", coded.astype(np.int32)[:, None], near, 1)
    for key, values in (("opa", tree.opacities), ("scl", tree.scales), ("rot", tree.quats)):
        ranks = _ranks(values[place]) - np.array(layout.fill.get(key, 0), np.int32)
        yield _ints(f"{key}/{block}", ranks, near, 2)
    nobody = np.zeros((len(indices), 0), np.int32)
    found = _ints(f"idx/{block}", indices[:, None], nobody, 4)
    packed = entropy.pack_bits(
        indices.astype(np.uint32), np.full(len(indices), tree.width, np.uint8)
    )
    if len(packed) < len(found.payload):  # Where all codewords are used alike, there is no model.
        found = container.Section(found.name, "bits", packed, found.raw_size)
    yield found
    near = entropy.causal_neighbors(codes[~coded], layout.level, NEIGHBORS)
    yield _ints(f"col/{block}", _ranks(colors), near, 2)


def _ints(name: str, symbols: Int, near: Int, size: int) -> container.Section:
    """Plain integers through the adaptive coder; `size` bytes is what one of them is worth."""
    scale, context = _no_side(len(symbols))
    data = entropy.encode_ints(symbols, scale, context, near)
    return container.Section(name, "ints", data, size * symbols.size)


def _no_side(n: int) -> tuple[Int, NDArray[np.uint8]]:
    return np.ones(n, np.int32), np.zeros((n, 2), np.uint8)


def _ranks(values: Half) -> Int:
    """Halves in their order as integers: 0 is zero, neighbours differ by one."""
    bits = np.ascontiguousarray(values).view(np.uint16).astype(np.int32)
    return np.where(bits & 0x8000, -(bits & 0x7FFF), bits & 0x7FFF).astype(np.int32)


def _medians(values: Half) -> tuple[int, ...]:
    ranks = _ranks(values)
    middle = np.sort(ranks, axis=0)[len(ranks) // 2] if len(ranks) else np.zeros(ranks.shape[1])
    return tuple(int(x) for x in middle)


# Reading


def _halves(ranks: Int, fill: int | tuple[int, ...], key: str, name: str) -> Half:
    """Halves of ranks; ValueError for a rank that no finite half has."""
    ranks = ranks + np.array(fill, np.int32)
    size = np.abs(ranks)
    if size.max(initial=0) > MOST_RANK:
        got = size.max(initial=0)
        raise ValueError(f"{name}: section '{key}': expected ranks to {MOST_RANK}, got {got}")
    return (size | np.where(ranks < 0, 0x8000, 0)).astype(np.uint16).view(np.float16)


def _nothing(channels: int) -> dict[str, NDArray]:
    """The arrays of no block."""
    halves = {key: np.zeros((0, c), np.float16) for key, c in {**CHANNELS, "col": channels}.items()}
    rest = {"pos": np.zeros(0, np.uint64), "vq": np.zeros(0, bool), "idx": np.zeros(0, np.int32)}
    return {**halves, **rest}


@dataclass(frozen=True)
class _Reader:
    """Decodes the sections of one file."""

    layout: Layout
    sections: Mapping[str, container.Section]
    name: str

    def block(self, block: int) -> dict[str, NDArray]:
        """Every array of one block."""
        layout, count = self.layout, self.layout.counts[block]
        payload = self._get(f"pos/{block}", ("octree",), 8 * count).payload
        codes = self._guard(
            f"pos/{block}", lambda: entropy.decode_octree(payload, layout.level, count)
        )
        near = entropy.causal_neighbors(codes, layout.level, NEIGHBORS)
        coded = self.ints(f"vq/{block}", 1, near, 1)[:, 0]
        if coded.min(initial=0) < 0 or coded.max(initial=0) > 1:
            raise ValueError(f"{self.name}: section 'vq/{block}': expected zeros and ones")
        coded = coded.astype(bool)
        out: dict[str, NDArray] = {"pos": codes, "vq": coded}
        for key, channels in CHANNELS.items():
            ranks = self.ints(f"{key}/{block}", channels, near, 2)
            out[key] = _halves(ranks, layout.fill.get(key, 0), f"{key}/{block}", self.name)
        out["idx"] = self._indices(f"idx/{block}", int(coded.sum()))
        near = entropy.causal_neighbors(codes[~coded], layout.level, NEIGHBORS)
        ranks = self.ints(f"col/{block}", layout.channels, near, 2)
        out["col"] = _halves(ranks, 0, f"col/{block}", self.name)
        return out

    def ints(self, key: str, channels: int, near: Int, size: int) -> Int:
        payload = self._get(key, ("ints",), size * len(near) * channels).payload
        scale, context = _no_side(len(near))
        return self._guard(
            key, lambda: entropy.decode_ints(payload, channels, scale, context, near)
        )

    def _indices(self, key: str, count: int) -> Int:
        section = self._get(key, ("ints", "bits"), 4 * count)
        if section.codec == "bits":
            width = max(self.layout.codewords - 1, 1).bit_length()
            widths = np.full(count, width, np.uint8)
            found = self._guard(key, lambda: entropy.unpack_bits(section.payload, widths))
            found = found.astype(np.int32)
        else:
            found = self.ints(key, 1, np.zeros((count, 0), np.int32), 4)[:, 0]
        top = self.layout.codewords - 1
        if count and not 0 <= found.min() <= found.max() <= top:
            got = f"{found.min()}..{found.max()}"
            raise ValueError(f"{self.name}: section '{key}': expected 0..{top}, got {got}")
        return found

    def _get(self, key: str, codecs: Sequence[str], raw: int) -> container.Section:
        section = self.sections[key]
        if section.codec not in codecs or section.raw_size != raw:
            raise ValueError(
                f"{self.name}: section {key!r}: expected {raw} bytes by {' or '.join(codecs)}, "
                f"got {section.raw_size} by {section.codec}"
            )
        return section

    def _guard(self, key: str, decode: Callable[[], NDArray]) -> NDArray:
        try:
            return decode()
        except ValueError as error:
            where = f"{self.name}: section {key!r}"
            raise ValueError(f"{where}: expected a decodable stream, got: {error}") from None


def _check_complete(layout: Layout, sections: Mapping[str, Any], name: str) -> None:
    """Refuse missing and unknown sections: nothing is allocated for blocks that are not there."""
    blocks = range(len(layout.counts))
    names = (f"{key}/{block}" for block in blocks for key in KEYS)
    wanted = itertools.chain(["book"], names) if layout.counts else iter(())
    count = 0
    for section in wanted:
        count += 1
        if section not in sections:
            raise ValueError(f"{name}: section {section!r}: expected, got none")
    if len(sections) > count:
        known = {"book", *(f"{key}/{block}" for block in blocks for key in KEYS)}
        extra = sorted(set(sections) - known if layout.counts else set(sections))[0]
        raise ValueError(f"{name}: section {extra!a}: expected none, got one")


def _layout(header: Mapping[str, Any], name: str) -> Layout:
    """The layout that a header describes, every field checked; ValueError names it."""
    fields = header.get("layout")
    try:
        if not isinstance(fields, dict):
            raise ValueError(type(fields).__name__)
        counts, fill = fields["counts"], fields["fill"]
        if not isinstance(counts, list) or len(counts) > MAX_BLOCKS:
            raise ValueError(f"counts {str(counts)[:40]}")
        return Layout(
            counts=tuple(_whole(n, 1, BLOCK) for n in counts),
            sh_degree=_whole(fields["sh_degree"], 0, 4),
            antialiased=bool(fields["antialiased"]),
            level=_whole(fields["level"], 1, 20),
            low=_three(fields["low"], -MAX_POSITION),
            span=_three(fields["span"], 0.0),
            codewords=_whole(fields["codewords"], 0, MAX_CODEWORDS),
            fill={key: _fills(fill[key], CHANNELS[key]) for key in ("opa", "scl")},
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{name}: header: expected a VecTree layout, got {what}") from None


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r:.40} where {low}..{high} is expected")
    return value


def _three(values: Any, low: float) -> Three:
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= 2 * MAX_POSITION or not math.isfinite(value):
            raise ValueError(f"{value!r:.40} where a coordinate is expected")
    x, y, z = values
    return float(x), float(y), float(z)


def _fills(values: Any, count: int) -> tuple[int, ...]:
    if len(values) != count:
        raise ValueError(f"{len(values)} fills where {count} are expected")
    return tuple(_whole(value, -MOST_RANK, MOST_RANK) for value in values)
