"""The encoder's choices for a file: contraction, octree depth, predictors, colour bases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..quant import entropy
from ..quant.transforms import contract, fit_klt, pack_basis, to_coefficients
from . import blocks
from .frames import sort_axes, to_angles
from .layout import (
    ATTRIBUTES,
    BLOCK,
    CLASSES,
    DEPTH,
    NEIGHBORS,
    SHAPES,
    UNITS,
    Layout,
    Predictor,
    pack_tables,
)
from .model import SplatModel

if TYPE_CHECKING:
    from .codec import Steps, Tables

Double = NDArray[np.floating]
LOGIT_RANGE = (-5.6, 7.0)  # alpha 1/270 to 0.999: beyond, nothing changes in the picture
SCALE_RANGE = (-30.0, 40.0)
COARSEST = {"opa": 1.6, "scl": 0.6, "tlt": 0.6, "rol": 0.6, "dc": 0.6, "ac": 2.0}
COARSEST_POSITION = 1.0  # of the second scale
KLT_FROM = 4000  # Gaussians from which a 45x45 basis of bytes pays
SAMPLE_BLOCKS = 3
SAMPLE_ROWS = 24_000  # rows of the least squares: more change the weights by less than rounding
BIAS = {"opa": 0, "scl": 0, "tlt": 0, "rol": 0, "dc": 0, "ac": 1}


@dataclass(frozen=True)
class Source:
    """A model in octree order, seen block by block so that memory stays bounded.

    Attributes:
        order: [N] index of the model's Gaussian at each place; codes: [N] sorted Morton codes.
    """

    model: SplatModel
    classes: NDArray[np.int32]
    order: NDArray[np.int64]
    codes: NDArray[np.uint64]
    low: tuple[float, float, float]
    span: float
    center: tuple[float, float, float]
    radius: float

    @staticmethod
    def of(model: SplatModel, classes: NDArray[np.int32]) -> Source:
        n = len(model)
        if classes.shape != (n,) or (n and not 0 <= classes.min() <= classes.max() < CLASSES):
            raise ValueError(f"classes: expected [{n}] in 0..{CLASSES - 1}")
        for name, value in model.tensors().items():
            if not torch.isfinite(value).all():
                raise ValueError(f"{name}: expected finite values (sanitise first)")
        x = model.means.double().numpy()
        center = np.median(x, 0).astype(np.float32).astype(np.float64) if n else np.zeros(3)
        distance = np.abs(x - center).max(1) if n else np.ones(1)
        radius = max(float(np.float32(np.median(distance))), 1e-6)
        t = contract(x - center, radius)
        low = t.min(0) if n else np.zeros(3)
        span = max(float((t.max(0) - low).max()) if n else 0.0, 1e-6) * (1 + 1e-9)
        cells = np.minimum((t - low) * ((1 << DEPTH) / span), (1 << DEPTH) - 1).astype(np.uint32)
        codes = entropy.morton_codes(cells)
        order = np.argsort(codes, kind="stable")
        return Source(
            model, classes, order, codes[order], _three(low), span, _three(center), radius,
        )  # fmt: skip

    @cached_property
    def bases(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Byte KLT bases of DC and AC, weighted by importance; rows are basis vectors."""
        index = self.order[:: max(1, len(self.order) // 100_000)].copy()
        part = self.model[torch.from_numpy(index)]
        weights = 0.25 ** self.classes[index].astype(np.float64)
        dc = _klt(part.sh0[:, 0].double().numpy(), weights)
        return dc, _klt(part.shN.flatten(1).double().numpy(), weights)

    def part(self, place: slice) -> SplatModel:
        return self.model[torch.from_numpy(self.order[place])]

    def wanted(self, place: slice, layout: Layout, tables: Tables) -> blocks.Wanted:
        """One block's values in the layout's integer units."""
        part = self.part(place)
        unit = layout.units
        quats = torch.nn.functional.normalize(part.quats.double(), dim=1).numpy()
        axes, scales = sort_axes(quats, part.scales.double().clamp(*SCALE_RANGE).numpy())

        def units(x: Double, attribute: str) -> blocks.Int:
            return np.rint(x / unit[attribute]).clip(-(1 << 28), 1 << 28).astype(np.int32)

        def angles(needle: NDArray[np.bool_]) -> tuple[blocks.Int, blocks.Int]:
            tilt, roll = to_angles(axes, needle)
            return units(tilt, "tlt"), units(roll[:, None], "rol")

        rest = part.shN.flatten(1).double().numpy()
        opacity = part.opacities.double().clamp(*LOGIT_RANGE).numpy()[:, None]
        return blocks.Wanted(
            codes=self.codes[place],
            classes=self.classes[self.order[place]],
            opacity=units(opacity, "opa"),
            scales=units(scales, "scl"),
            dc=units(to_coefficients(part.sh0[:, 0].double().numpy(), tables.dc), "dc"),
            ac=units(to_coefficients(rest, tables.ac), "ac"),
            angles=angles,
        )


def _three(x: NDArray) -> tuple[float, float, float]:
    return float(x[0]), float(x[1]), float(x[2])


def fit(source: Source, steps: Steps) -> tuple[Layout, Tables, bytes]:
    """Layout, tables and their packed form for one file."""
    from .codec import Tables

    layout = _layout(source, steps)
    dc, ac = source.bases
    if layout.mix != "klt":
        ac = np.zeros(0, np.int8)
    nothing = {a: _no_prediction(a, layout.rest) for a in ATTRIBUTES}
    tables = Tables.of(nothing, dc, ac, layout)
    predictors = _fit_predictors(source, layout, tables) if len(source.order) else nothing
    tables = replace(tables, predictors=predictors)
    return (
        layout,
        tables,
        pack_tables(predictors, np.concatenate([dc.ravel(), ac.ravel()]), layout.rest),
    )


def _layout(source: Source, steps: Steps) -> Layout:
    n, degree = len(source.order), source.model.sh_degree
    count = -(-n // BLOCK)
    sizes = [n * (b + 1) // count - n * b // count for b in range(count)] if n else []
    worth = {
        "opa": steps.opacity, "scl": steps.scale, "tlt": steps.rotation, "rol": steps.rotation,
        "dc": steps.dc, "ac": steps.ac,
    }  # fmt: skip
    return Layout(
        counts=tuple(sizes),
        sh_degree=degree,
        antialiased=source.model.antialiased,
        level=_octree_level(source.codes),
        low=source.low,
        span=source.span,
        center=source.center,
        radius=source.radius,
        log_span=round(float(np.log2(source.span * source.radius)) * 256),
        precision=round(float(np.log2(steps.position)) * 256),
        precision_cap=round(float(np.log2(max(COARSEST_POSITION, steps.position))) * 256),
        units={a: worth[a] / UNITS for a in ATTRIBUTES},
        caps={a: max(UNITS, round(COARSEST[a] / worth[a] * UNITS)) for a in ATTRIBUTES},
        bias=dict(BIAS),
        mix="klt" if n >= KLT_FROM and degree else "color",
    )


def _octree_level(codes: NDArray[np.uint64]) -> int:
    """Depth at which nearly every Gaussian has its own leaf; below it bits are noise."""
    for level in range(1, DEPTH):
        leaves = np.unique(codes >> np.uint64(3 * (DEPTH - level)))
        if len(leaves) >= 0.9 * len(codes):
            return level
    return DEPTH


def _klt(x: Double, weights: Double) -> NDArray[np.int8]:
    if len(x):
        x = x - np.average(x, axis=0, weights=weights)
    packed = pack_basis(fit_klt(x, weights), 8)
    return np.frombuffer(packed, np.int8).reshape(x.shape[1], x.shape[1])


def _no_prediction(attribute: str, rest: int) -> Predictor:
    channels, previous, sides = SHAPES[attribute]
    channels = rest if channels is None else channels
    weights = np.zeros((channels, NEIGHBORS + previous + sides + 1), np.int32)
    return Predictor(weights, np.zeros(channels, np.int32))


def _fit_predictors(source: Source, layout: Layout, tables: Tables) -> dict[str, Predictor]:
    """Least squares per channel, each row weighted by 1 / step^2, on a few blocks."""
    chosen = np.unique(np.linspace(0, len(layout.counts) - 1, SAMPLE_BLOCKS).astype(int))
    shift = np.uint64(3 * (DEPTH - layout.level))
    rows: dict[str, list[tuple[Double, Double, Double]]] = {a: [] for a in ATTRIBUTES}
    for block in chosen:
        wanted = source.wanted(layout.place(block), layout, tables)
        near = entropy.causal_neighbors(wanted.codes >> shift, layout.level, NEIGHBORS)
        _, _, needle, _ = blocks.angle_scales(layout, wanted.classes, wanted.scales)
        tilt, roll = wanted.angles(needle)
        side = np.concatenate([wanted.classes[:, None] * blocks.CLASS_SIDE, wanted.opacity], 1)
        values = {
            "opa": wanted.opacity, "scl": wanted.scales, "tlt": tilt, "rol": roll,
            "dc": wanted.dc, "ac": wanted.ac,
        }  # fmt: skip
        take = np.arange(0, len(near), max(1, len(chosen) * len(near) // SAMPLE_ROWS))
        for a, x in values.items():
            weight = 1.0 / blocks.row_scale(layout, a, wanted.classes[take]).astype(np.float64)
            rows[a].append((_features(a, x, near, side, take), x[take].astype(np.float64), weight))
    return {a: _solve(a, parts, layout.rest) for a, parts in rows.items()}


def _features(
    attribute: str, x: blocks.Int, near: blocks.Int, side: blocks.Int, take: NDArray[np.int64]
) -> Double:
    """[t, C, k + P + S] predictor inputs of the rows `take`; absent neighbours are NaN."""
    _, previous, sides = SHAPES[attribute]
    near = near[take]
    around = np.where((near < 0)[:, :, None], np.nan, x[near].astype(np.float64))  # [t, k, C]
    if attribute == "ac":
        around = np.nansum(around, 1, keepdims=True)
    parts = [around.transpose(0, 2, 1)]
    n, channels = len(take), x.shape[1]
    for p in range(previous):
        shifted = np.zeros((n, channels, 1))
        shifted[:, p + 1 :, 0] = x[take, : channels - p - 1]
        parts.append(shifted)
    if sides:
        parts.append(np.broadcast_to(side[take][:, None, :sides], (n, channels, sides)))
    return np.concatenate(parts, axis=2)


def _solve(attribute: str, parts: list[tuple[Double, Double, Double]], rest: int) -> Predictor:
    plain = _no_prediction(attribute, rest)
    if attribute == "rol" or not plain.weights.size:
        fill = np.zeros(len(plain.fill), np.int32)
        if attribute == "rol":  # Rolls have no neighbours worth asking; their mean is pi / 2.
            mean = np.average(np.concatenate([p[1] for p in parts]))
            plain.weights[:, -1] = round(mean)
        return Predictor(plain.weights, fill)
    features = np.concatenate([p[0] for p in parts])
    x, weight = (np.concatenate([p[i] for p in parts]) for i in (1, 2))
    fill = np.average(x, axis=0, weights=weight**2)
    weights = plain.weights.copy()
    for c in range(x.shape[1]):
        inputs = np.where(np.isnan(features[:, c]), fill[c], features[:, c])
        inputs = np.concatenate([inputs, np.ones((len(x), 1))], axis=1) * weight[:, None]
        gram = inputs.T @ inputs
        gram[np.diag_indices_from(gram)] *= 1 + 1e-6
        gram[np.diag_indices_from(gram)] += 1e-9
        solved = np.linalg.solve(gram, inputs.T @ (x[:, c] * weight))
        gains = np.rint(solved[:-1].clip(-8, 8) * 4096).astype(np.int32)
        if attribute == "ac":
            gains = np.repeat(gains, NEIGHBORS)
        weights[c, :-1] = gains
        weights[c, -1] = round(float(np.clip(solved[-1], -(1 << 27), 1 << 27)))
    return Predictor(weights, np.rint(fill).clip(-(1 << 27), 1 << 27).astype(np.int32))
