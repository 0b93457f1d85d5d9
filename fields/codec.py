"""Fields to .fpz bytes and back (docs/format.md, chapter 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import container
from ..quant.container import Section
from . import _native, latent_image, tables, vq_sections
from .encoding import encode as features_at
from .image import ImageField
from .levels import Encoding
from .nerf import NerfField
from .network import Network, check_widths
from .sdf import SdfField
from .vq_nerf import VqNerfField

Used = Sequence[NDArray[np.bool_]]  # Of each level, which rows count.
Field = ImageField | SdfField | NerfField
KINDS: dict[str, type[ImageField] | type[SdfField] | type[NerfField]] = {
    "image": ImageField,
    "sdf": SdfField,
    "nerf": NerfField,
    "vqnerf": VqNerfField,
}
PROBES = 1 << 14  # Points at which sensitivities are measured.
ROUNDING = 0.45
CELLS_BACK = (1, NerfField.side, NerfField.side**2)
QUANTISED_SHARE = 1 / 3  # Of the steps of a fit, the last ones: they go through the rounding.
WEIGHT_ERROR = 0.25  # Steps of weights: so much of the features' error is allowed to them.


@dataclass(frozen=True)
class Steps:
    """Quantisation steps of each level of a table, and of each weight matrix.

    The same of a head's; of a decoder's and of its codes, which `scaled` leaves alone.
    """

    table: tuple[float, ...]
    weights: tuple[float, ...]
    head: tuple[float, ...] = ()
    decoder: tuple[float, ...] = ()
    codes: float = 0.0

    def scaled(self, factor: float) -> Steps:
        """Those of a field times a factor."""
        parts = (self.table, self.weights, self.head)
        scaled = (tuple(factor * step for step in part) for part in parts)
        return Steps(*scaled, decoder=self.decoder, codes=self.codes)


def rows_in_use(encoding: Encoding, points: Iterable[Tensor]) -> list[NDArray[np.bool_]]:
    """Which rows of each level points, [N, n] at a time, meet with any weight."""
    grad = torch.zeros(encoding.rows, encoding.features)
    touched = torch.zeros(encoding.native.lines, dtype=torch.uint8)
    threads = torch.get_num_threads()
    for part in points:
        ones = torch.ones(encoding.width, len(part))
        _native.scatter(
            encoding.native, part.contiguous(), None, ones, grad, touched, None, None, threads
        )
    met = (grad[:, 0] != 0).numpy()
    ends = encoding.first_rows
    return [met[a:b] for a, b in pairwise(ends)]


def even_steps(network: Network, used: Used, points: Tensor) -> Steps:
    """Steps at which every level and matrix costs as much error per bit (reverse water-filling).

    A row of a level with sensitivity g, the mean squared slope of the output by its features, is
    met by a share 1 / rows of the points: its error is about g step^2 / rows. Equal slopes of the
    rate-distortion curve want it the same everywhere. Scaled so that one unit of `Steps.scaled`
    is an expected squared error of about 1 / 12 at each output.
    """
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    slopes, weight_slopes = _sensitivities(network, points[:PROBES])
    features = network.encoding.features
    per_level = slopes.reshape(-1, features).mean(1)
    count = [max(int(u.sum()), 1) for u in used]
    total = sum(count) + sum(w.numel() for w in network.weights) / features
    table = [
        math.sqrt(n / total / max(float(g) * features, 1e-12))
        for n, g in zip(count, per_level, strict=True)
    ]
    weights = [
        math.sqrt(WEIGHT_ERROR * w.numel() / features / total / max(g, 1e-12))
        for w, g in zip(network.weights, weight_slopes, strict=True)
    ]
    return Steps(tuple(table), tuple(weights))


def _sensitivities(network: Network, points: Tensor) -> tuple[Tensor, list[float]]:
    """Means over points: |d output / d feature|^2 [width], and |d output / d w|^2 summed."""
    features = features_at(network.encoding, points, network.table).detach().requires_grad_()
    weights = [w.detach() for w in network.weights]
    x, kept = features, [features]
    for weight in weights[:-1]:
        x = (weight @ x).relu()
        kept.append(x)
    pre = weights[-1] @ x
    outputs = len(pre)
    slopes = torch.zeros(features.shape[0])
    by_matrix = [0.0] * len(weights)
    for i in range(outputs):
        grads = torch.autograd.grad(pre[i].sum(), kept, retain_graph=True)
        slopes += grads[0].square().mean(1) / outputs
        for j in range(len(weights)):
            # d out / d W_j = (d out / d its output, before the rectifier) times its input.
            after = grads[j + 1] * (kept[j + 1] > 0) if j + 1 < len(kept) else torch.ones(1)
            square = after.square().sum(0) * kept[j].detach().square().sum(0)
            by_matrix[j] += float(square.mean()) / outputs
    return slopes.detach(), by_matrix


def encode(
    model: Field,
    steps: Steps,
    used: Used,
    header: Mapping[str, Any] | None = None,
) -> bytes:
    """The .fpz file of a field.

    Args:
        model: finite values.
        steps: positive.
        used: [rows] of each level: rows that count; the others are 0 when decoded.
        header: provenance to store beside the layout.
    """
    network = model.network
    if not all(bool(t.isfinite().all()) for t in network.tensors().values()):
        raise ValueError("field: expected finite values")
    layout = {
        "encoding": network.encoding.config(),
        "layers": [len(w) for w in network.weights],
        "steps": list(steps.table),
        "weight_steps": list(steps.weights),
        **model.place(),
    }
    sections = tables.write_matrices("mlp", network.weights, steps.weights)
    if isinstance(model, NerfField):
        layout |= {"head": [len(w) for w in model.head], "head_steps": list(steps.head)}
        layout["prior"] = "cells"
        sections += tables.write_matrices("head", model.head, steps.head)
        sections.append(tables.write_flags("cells", model.cells.numpy(), CELLS_BACK))
    if isinstance(model, VqNerfField):
        layout |= vq_sections.layout(model, steps.decoder, steps.codes)
        sections += vq_sections.write(model, steps.decoder, steps.codes)
    cells = model.cells.numpy() if isinstance(model, NerfField) else None
    sections += tables.write_table(network.encoding, _symbols(network, steps, used), used, cells)
    data = container.write({"kind": model.kind, "layout": layout, **(header or {})}, sections)
    tables.check_expansion(network.float_bytes, len(data), "field")
    return data


def _symbols(network: Network, steps: Steps, used: Used) -> list[tables.Ints]:
    found, ends = [], network.encoding.first_rows
    for level, step in enumerate(steps.table):
        rows = network.table[ends[level] : ends[level + 1]]
        found.append(tables.quantise(rows, step, ROUNDING) * used[level][:, None])
    return found


def rounded_table(encoding: Encoding, table: Tensor, steps: Steps) -> Tensor:
    """The table [rows, F] that decoding gives, rows out of use included."""
    sizes = torch.tensor([level.rows for level in encoding.level])
    step = torch.tensor(steps.table).repeat_interleave(sizes)[:, None].to(table.device)
    units = table / step
    return ((units.abs() + ROUNDING).floor().copysign(units)) * step


def requantise(network: Network, steps: Steps, used: Used) -> Network:
    """The network that decoding gives, without coding it."""
    parts = [
        tables.dequantise(q, step)
        for q, step in zip(_symbols(network, steps, used), steps.table, strict=True)
    ]
    weights = tables.rounded(network.weights, steps.weights)
    return Network(network.encoding, torch.from_numpy(np.concatenate(parts)), weights)


def rounded(model: NerfField, steps: Steps, used: Used) -> NerfField:
    """The radiance field that decoding gives, without coding it."""
    head = tables.rounded(model.head, steps.head)
    model = replace(model, network=requantise(model.network, steps, used), head=head)
    if isinstance(model, VqNerfField):
        return vq_sections.rounded(model, steps.decoder, steps.codes)
    return model


def decode(
    data: bytes, *, partial: bool = False, name: str = "<bytes>"
) -> Field | latent_image.LatentImage:
    """The field of a .fpz file, the same bits on every machine.

    With `partial`, a file cut behind its weights gives what levels had come. Raises ValueError, in
    one line that names the file and the section or the key at fault.
    """
    found = container.read(data, partial=partial, name=name)
    if found.header.get("codec") == latent_image.CODEC:
        return latent_image.read(found, name)
    kind = KINDS.get(str(found.header.get("kind")))
    if kind is None:
        expected = " or ".join(KINDS)
        raise ValueError(
            f"{name}: header: expected kind {expected}, got {found.header.get('kind')!r:.40}"
        )
    layout: Any = found.header.get("layout")
    encoding, widths, steps = _read_layout(layout, kind.dims, name)
    parameters = encoding.rows * encoding.features + sum(a * b for a, b in pairwise(widths))
    tables.check_expansion(4 * parameters, len(data), name)
    sections = {section.name: section for section in found.sections}
    more = {}
    if issubclass(kind, NerfField):
        more = _read_more(layout, sections, name, kind)
    cells = more["cells"].numpy() if more and layout.get("prior") else None
    network = _read_network(encoding, widths, steps, sections, name, partial, cells)
    extra = {k: v for k, v in found.header.items() if k not in ("kind", "layout")}
    try:
        return kind.at(network, layout | more, extra)
    except ValueError as error:
        raise ValueError(f"{name}: header: {error}") from None


def _read_more(
    layout: dict[str, Any], sections: dict[str, Section], name: str, kind: type[NerfField]
) -> dict[str, Any]:
    """A NeRF's colour layers and cells, taken out of the sections: what `at` of its kind wants."""
    try:
        widths = [NerfField.head_inputs, *tables.whole_numbers(layout, "head")]
        check_widths(widths)
        steps = tables.positive(layout, "head_steps", len(widths) - 1)
        if layout.get("prior") not in (None, "cells"):
            raise ValueError(f"prior: expected 'cells' or none, got {layout['prior']!r:.40}")
    except ValueError as error:
        raise ValueError(f"{name}: header: {error}") from None
    head = tables.read_matrices("head", widths, steps, sections, name)
    cells = tables.read_flags(sections, "cells", NerfField.side**3, CELLS_BACK, name)
    more = {"head": head, "cells": torch.from_numpy(cells)}
    if kind is VqNerfField:
        more |= vq_sections.read(layout, sections, name)
    for key in [key for key in sections if key.split("/")[0] in more]:
        del sections[key]
    return more


def _read_network(
    encoding: Encoding,
    widths: Sequence[int],
    steps: Steps,
    sections: Mapping[str, Section],
    name: str,
    partial: bool,
    cells: NDArray[np.bool_] | None,
) -> Network:
    keys = [f"mlp/{i}" for i in range(len(steps.weights))]
    both = [f"{key}/{level}" for level in range(encoding.levels) for key in ("runs", "tab")]
    tables.check_sections([*keys, *both], sections, name)
    weights = tables.read_matrices("mlp", widths, steps.weights, sections, name)
    table, _ = tables.read_table(
        encoding, steps.table, sections, name, partial=partial, cells=cells
    )
    return Network(encoding, table, weights)


def _read_layout(layout: Any, dims: int, name: str) -> tuple[Encoding, list[int], Steps]:
    """The encoding, all layers' widths from the features on, and the steps of a header."""
    try:
        if not isinstance(layout, dict) or not isinstance(layout.get("encoding"), dict):
            raise ValueError(f"layout: expected an object with an encoding, got {layout!r:.40}")
        encoding = Encoding.of(layout["encoding"], dims)
        widths = [encoding.width, *tables.whole_numbers(layout, "layers")]
        check_widths(widths)
        steps = Steps(
            tables.positive(layout, "steps", encoding.levels),
            tables.positive(layout, "weight_steps", len(widths) - 1),
        )
    except ValueError as error:
        raise ValueError(f"{name}: header: {error}") from None
    return encoding, widths, steps
