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
    CLASSES,
    DEPTH,
    NEIGHBORS,
    SHAPES,
    UNIT_RANGE,
    UNITS,
    Layout,
    Predictor,
    pack_tables,
)
from .model import SplatModel
from .shelf import STRIP, let_go
from .stored import Floats, Resident, Spilled, Stored

if TYPE_CHECKING:
    from .codec import Steps, Tables

Double = NDArray[np.floating]
Triple = tuple[float, float, float]
LOGIT_RANGE = (-5.6, 7.0)  # alpha 1/270 to 0.999: beyond, nothing changes in the picture
SCALE_RANGE = (-30.0, 40.0)
COARSEST = {"opa": 1.6, "scl": 0.6, "tlt": 0.6, "rol": 0.6, "dc": 0.6, "ac": 2.0}
COARSEST_POSITION = 1.0  # of the second scale
KLT_FROM = 4000  # Gaussians from which a 45x45 basis of bytes pays
BLOCK_SIZE = 1 << 15  # half of what the format allows: memory and threads for 0.4 % of the bytes
BASIS_STRIP = 4096  # Gaussians whose colours are in double precision at once
SAMPLE_BLOCKS = 3
LEAST_MOMENT = 0.15  # of the mean: what no view saw may be seen by the next
SAMPLE_COLORS = 30_000  # Gaussians that the colour bases are fitted on
SAMPLE_ROWS = 8_000  # rows of the least squares: more change the weights by less than rounding
BIAS = {"opa": 0, "scl": 0, "tlt": 0, "rol": 0, "dc": 0, "ac": 1}


@dataclass(frozen=True)
class Source:
    """Some of a model's Gaussians in octree order, seen block by block: the model is not copied.

    Attributes:
        stored: the model's Gaussians in octree order, in memory or in a scratch file.
        classes: [N, 2] classes of each of the model's Gaussians: of its colour, of its geometry.
        places: [M] which of the stored ones are taken; order: [M] their indices in the model;
            codes: [M] their Morton codes, sorted.
        bases: byte bases of DC [3, 3] and AC [R, R], rows are basis vectors; and what one unit
            of an AC coefficient is worth; moments: what they were fitted with.
        alone: share of the Gaussians with leaves of their own at which the octree ends.
    """

    stored: Stored
    classes: NDArray[np.int32]
    places: NDArray[np.int32]
    order: NDArray[np.int32]
    codes: NDArray[np.uint64]
    low: Triple
    span: float
    center: Triple
    radius: float
    bases: tuple[NDArray[np.int8], NDArray[np.int8], float]
    moments: NDArray | None
    alone: float = 0.9

    @staticmethod
    def of(model: SplatModel, classes: NDArray[np.int32], moments: NDArray | None = None) -> Source:
        """All of a model; `moments` as `importance` finds them, None for the identity."""
        n = len(model)
        if classes.shape == (n,):
            classes = np.stack([classes, classes], axis=1)
        if classes.shape != (n, 2) or (n and not 0 <= classes.min() <= classes.max() < CLASSES):
            raise ValueError(f"classes: expected [{n}] or [{n}, 2] in 0..{CLASSES - 1}")
        for name, value in model.tensors().items():
            finite = True
            for part in value.split(STRIP):
                finite &= bool(torch.isfinite(part).all())
                let_go(value)
            if not finite:
                raise ValueError(f"{name}: expected finite values (sanitise first)")
        center, radius, low, span, codes = _octree(model.means.numpy())
        order = np.argsort(codes, kind="stable").astype(np.int32)
        return Source(
            Resident(model, order), classes, np.arange(n, dtype=np.int32), order, codes[order],
            low, span, center, radius, _bases(model, classes, moments), moments,
        )  # fmt: skip

    @property
    def model(self) -> SplatModel:
        """All that is stored, in the caller's order; read anew where it is in a file."""
        return self.stored.whole()

    def moved(self, model: SplatModel) -> Source:
        """All of the same Gaussians with other finite values; frame, classes and bases stay."""
        t = contract(model.means.double().numpy() - np.array(self.center), self.radius)
        codes = _codes(t, np.array(self.low), self.span)
        order = np.argsort(codes, kind="stable").astype(np.int32)
        places = np.arange(len(order), dtype=np.int32)
        stored = Resident(model, order)
        return replace(self, stored=stored, places=places, order=order, codes=codes[order])

    def recolored(self, decoded: SplatModel) -> Source:
        """The same geometry with the colours of its decoded form, whose order is the octree's.

        All of the model must be in the source; the bases of colour are fitted anew.
        """
        bases = _bases(decoded, self.classes[self.order], self.moments)
        return replace(self, stored=self.stored.recolored(decoded), bases=bases)

    def spilled(self) -> Source:
        """The same with the model's tensors in a scratch file, or as it is where none will do."""
        try:
            return replace(self, stored=Spilled(self.model, self.order))
        except OSError:
            return self

    def keep(self, mask: NDArray[np.bool_]) -> Source:
        """The Gaussians of a mask [N]; the frame of the octree stays."""
        kept = mask[self.order]
        return replace(
            self, places=self.places[kept], order=self.order[kept], codes=self.codes[kept]
        )

    def kept(self, whole: SplatModel | None = None) -> SplatModel:
        """What is to be coded, as a picture needs it: the others stay, but transparent.

        `whole` is the stored model for callers that have it at hand.
        """
        whole = whole or self.stored.whole()
        opacities = torch.full_like(whole.opacities, -torch.inf)
        index = torch.from_numpy(self.order)
        opacities[index] = whole.opacities[index]
        return replace(whole, opacities=opacities)

    @cached_property
    def level(self) -> int:
        """Depth at which nearly every Gaussian has its own leaf; below it bits are noise."""
        for level in range(1, DEPTH):
            leaves = self.codes >> np.uint64(3 * (DEPTH - level))
            if np.count_nonzero(leaves[1:] != leaves[:-1]) + 1 >= self.alone * len(leaves):
                return level
        return DEPTH

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Gaussians of each block."""
        n = len(self.order)
        count = -(-n // BLOCK_SIZE)
        return tuple(n * (b + 1) // count - n * b // count for b in range(count))

    @cached_property
    def near(self) -> list[blocks.Int]:
        """Causal neighbours of each block, as the decoder will find them."""
        shift = np.uint64(3 * (DEPTH - self.level))
        parts = np.split(self.codes >> shift, np.cumsum(self.counts)[:-1])
        return [entropy.causal_neighbors(p, self.level, NEIGHBORS) for p in parts if len(p)]

    def forget(self) -> None:
        """Let go of neighbours that were found: they are found again where they are needed."""
        vars(self).pop("near", None)

    def wanted(self, place: slice, layout: Layout, tables: Tables) -> blocks.Wanted:
        """One block's values in the layout's integer units."""
        rows, unit = self.stored.rows(self.places[place]), layout.units
        quats = rows["quats"].astype(np.float64)
        quats /= np.maximum(np.sqrt((quats * quats).sum(1, keepdims=True)), 1e-12)
        scales = rows["scales"].astype(np.float64).clip(*SCALE_RANGE)
        axes, scales = sort_axes(quats, scales)

        def angles(needle: NDArray[np.bool_]) -> tuple[blocks.Int, blocks.Int]:
            tilt, roll = to_angles(axes, needle)
            return _units(tilt, unit["tlt"]), _units(roll[:, None], unit["rol"])

        return blocks.Wanted(
            codes=self.codes[place],
            classes=self.classes[self.order[place]],
            opacity=_units(_log_alpha(rows["opacities"]), unit["opa"]),
            scales=_units(scales, unit["scl"]),
            dc=_in_basis(rows["sh0"], tables.dc, unit["dc"]),
            ac=_in_basis(rows["shN"], tables.ac, unit["ac"]),
            angles=angles,
        )


def _log_alpha(logits: Floats) -> Double:
    """[n, 1] ln alpha: in it a step of a given harm does not depend on the opacity."""
    return -np.log1p(np.exp(-logits.astype(np.float64).clip(*LOGIT_RANGE)))


def _units(x: Double, unit: float) -> blocks.Int:
    return np.rint(x / unit).clip(-(1 << 28), 1 << 28).astype(np.int32)


def _in_basis(x: Floats, basis: Double, unit: float) -> blocks.Int:
    """Coefficients of x [n, C] in units; strip by strip, because doubles of a block are large."""
    out = np.empty(x.shape, np.int32)
    for start in range(0, len(x), BASIS_STRIP):
        strip = slice(start, start + BASIS_STRIP)
        out[strip] = _units(to_coefficients(x[strip].astype(np.float64), basis), unit)
    return out


def _octree(means: Floats) -> tuple[Triple, float, Triple, float, NDArray[np.uint64]]:
    """The contraction's centre and radius, the cube's corner and width, Morton codes [N]."""
    n = len(means)
    strips = [slice(start, start + STRIP) for start in range(0, n, STRIP)]
    middle = [np.median(means[:, a].astype(np.float64)) if n else 0.0 for a in range(3)]
    center = np.array(middle).astype(np.float32).astype(np.float64)
    distance = np.ones(max(n, 1))
    for part in strips:
        distance[part] = np.abs(means[part].astype(np.float64) - center).max(1)
    radius = max(float(np.float32(np.median(distance))), 1e-6)

    def contracted(part: slice) -> Double:
        return contract(means[part].astype(np.float64) - center, radius)

    ends = [(t.min(0), t.max(0)) for t in map(contracted, strips)]
    low = np.min([end[0] for end in ends], 0) if n else np.zeros(3)
    high = np.max([end[1] for end in ends], 0) if n else low
    span = max(float((high - low).max()), 1e-6) * (1 + 1e-9)
    codes = np.empty(n, np.uint64)
    for part in strips:
        codes[part] = _codes(contracted(part), low, span)
    return _three(center), radius, _three(low), span, codes


def _codes(t: Double, low: Double, span: float) -> NDArray[np.uint64]:
    """[N] Morton codes of contracted positions [N, 3], those outside the cube at its faces."""
    top = (1 << DEPTH) - 1
    cells = ((t - low) * ((1 << DEPTH) / span)).clip(0, top).astype(np.uint32)
    return entropy.morton_codes(cells)


def _three(x: NDArray) -> Triple:
    return float(x[0]), float(x[1]), float(x[2])


def fit(source: Source, steps: Steps) -> tuple[Layout, Tables, bytes]:
    """Layout, tables and their packed form for one file."""
    from .codec import Tables

    layout = _layout(source, steps)
    dc, ac, _ = source.bases
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
    degree = source.stored.sh_degree
    worth = {
        "opa": steps.opacity, "scl": steps.scale, "tlt": steps.rotation, "rol": steps.rotation,
        "dc": steps.dc, "ac": steps.ac,
    }  # fmt: skip
    mix = "klt" if len(source.order) >= KLT_FROM and degree else "color"
    scale = dict.fromkeys(ATTRIBUTES, 1.0) | ({"ac": source.bases[2]} if mix == "klt" else {})
    return Layout(
        counts=source.counts,
        sh_degree=degree,
        antialiased=source.stored.antialiased,
        level=source.level,
        low=source.low,
        span=source.span,
        center=source.center,
        radius=source.radius,
        log_span=round(float(np.log2(source.span * source.radius)) * 256),
        precision=round(float(np.log2(steps.position)) * 256),
        precision_cap=round(float(np.log2(max(COARSEST_POSITION, steps.position))) * 256),
        units={a: float(np.clip(worth[a] / UNITS * scale[a], *UNIT_RANGE)) for a in ATTRIBUTES},
        caps={
            a: round(np.clip(COARSEST[a] / worth[a] * UNITS, UNITS, 1 << 24)) for a in ATTRIBUTES
        },
        bias=dict(BIAS),
        mix=mix,
    )


def _bases(
    model: SplatModel, classes: NDArray[np.int32], moments: NDArray | None
) -> tuple[NDArray[np.int8], NDArray[np.int8], float]:
    """Byte bases of DC and AC, and the worth of one unit of AC.

    AC is rotated in the metric of the picture, E[e^T M e], so that equal steps of its coefficients
    do equal harm: rows V M^(-1/2) with V the KLT of M^(1/2) x, scaled to fit a byte.
    """
    step = max(1, len(model) // SAMPLE_COLORS)
    weights = 0.25 ** classes[::step, 0].astype(np.float64)
    parts = []
    for rows in torch.arange(0, len(model), step).split(STRIP // step or 1):
        parts.append([x[rows].flatten(1).double() for x in (model.sh0, model.shN)])
        let_go(model.sh0)
    dc, ac = (torch.cat(some).numpy() for some in zip(*parts, strict=True))
    root, inverse = _roots(moments, ac.shape[1] // 3)
    basis = _klt(ac @ root, weights) @ inverse
    worth = float(np.float32(np.abs(basis).max(initial=1e-9)))
    return _to_bytes(_klt(dc, weights)), _to_bytes(basis / worth), worth


def _roots(moments: NDArray | None, k: int) -> tuple[Double, Double]:
    """M^(1/2) and M^(-1/2) on all three channels [3 k, 3 k], with unseen directions bounded."""
    if moments is None or k == 0:
        return np.eye(3 * k), np.eye(3 * k)
    values, vectors = np.linalg.eigh(moments)
    values = np.maximum(values, max(LEAST_MOMENT * float(values.mean()), 1e-6))
    roots = (vectors * values**p @ vectors.T for p in (0.5, -0.5))
    root, inverse = (np.kron(r, np.eye(3)) for r in roots)
    return root, inverse


def _klt(x: Double, weights: Double) -> Double:
    return fit_klt(x - np.average(x, axis=0, weights=weights) if len(x) else x, weights)


def _to_bytes(basis: Double) -> NDArray[np.int8]:
    return np.frombuffer(pack_basis(basis, 8), np.int8).reshape(basis.shape)


def _no_prediction(attribute: str, rest: int) -> Predictor:
    channels, previous, sides = SHAPES[attribute]
    channels = rest if channels is None else channels
    weights = np.zeros((channels, NEIGHBORS + previous + sides + 1), np.int32)
    return Predictor(weights, np.zeros(channels, np.int32))


def _fit_predictors(source: Source, layout: Layout, tables: Tables) -> dict[str, Predictor]:
    """Least squares per channel, each row weighted by 1 / step^2, on a few blocks."""
    chosen = np.unique(np.linspace(0, len(layout.counts) - 1, SAMPLE_BLOCKS).astype(int))
    rows: dict[str, list[tuple[Double, Double, Double]]] = {a: [] for a in ATTRIBUTES}
    for block in chosen:
        wanted = source.wanted(layout.place(block), layout, tables)
        near = source.near[block]
        _, _, needle, _ = blocks.angle_scales(layout, wanted.classes[:, 1], wanted.scales)
        tilt, roll = wanted.angles(needle)
        side = np.concatenate([wanted.classes * blocks.CLASS_SIDE, wanted.opacity], 1)
        values = {
            "opa": wanted.opacity, "scl": wanted.scales, "tlt": tilt, "rol": roll,
            "dc": wanted.dc, "ac": wanted.ac,
        }  # fmt: skip
        take = np.arange(0, len(near), max(1, len(chosen) * len(near) // SAMPLE_ROWS))
        for a, x in values.items():
            kind = 0 if a in ("dc", "ac") else 1
            weight = 1.0 / blocks.row_scale(layout, a, wanted.classes[take, kind])
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
    inputs = np.where(np.isnan(features), fill[:, None], features)
    inputs = np.concatenate([inputs, np.ones((*inputs.shape[:2], 1))], 2) * weight[:, None, None]
    gram = np.einsum("tcf,tcg->cfg", inputs, inputs)
    diagonal = np.arange(gram.shape[1])
    gram[:, diagonal, diagonal] += 1e-6 * gram[:, diagonal, diagonal] + 1e-9
    right = np.einsum("tcf,tc->cf", inputs, x * weight[:, None])
    solved = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
    gains = np.rint(solved[:, :-1].clip(-8, 8) * 4096).astype(np.int32)
    if attribute == "ac":
        gains = np.repeat(gains, NEIGHBORS, axis=1)
    constant = np.rint(solved[:, -1:].clip(-(1 << 27), 1 << 27)).astype(np.int32)
    weights = np.concatenate([gains, constant], axis=1)
    return Predictor(weights, np.rint(fill).clip(-(1 << 27), 1 << 27).astype(np.int32))
