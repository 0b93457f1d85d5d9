"""VecTree, LightGaussian's quantisation (Fan et al. 2024).

A codebook for the colours that matter least, half precision for the other values, an octree for
the positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import entropy
from ..quant.codebook import CodebookSettings, assign, fit_codebook
from .model import SplatModel

Half = NDArray[np.float16]
Three = tuple[float, float, float]
MOST_HALF = 65504.0
MAX_POSITION = 1e30  # Coordinates beyond it are refused: their sums stay far below float32's end.
MAX_CODEWORDS = 1 << 16


@dataclass(frozen=True)
class VecTreeSettings:
    """What VecTree keeps.

    Attributes:
        share: of the Gaussians, the least significant, whose colours share the codebook.
        codebook: how it is fitted. The paper's 8,192 codewords are meant for a million Gaussians
            and more: there are never more than one for `per_codeword` colours, or a small scene
            would consist of codebook.
        per_codeword: colours that a codeword must at least stand for, on average.
        level: bits an axis of the positions, over the box around all of them.
    """

    share: float = 0.6
    codebook: CodebookSettings = field(default_factory=CodebookSettings)
    per_codeword: int = 8
    level: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected in [0, 1], got {self.share}")
        if not 1 <= self.level <= 20:
            raise ValueError(f"level: expected 1..20, got {self.level}")
        if self.per_codeword < 1:
            raise ValueError(f"per_codeword: expected at least 1, got {self.per_codeword}")
        if self.codebook.size > MAX_CODEWORDS:
            got = self.codebook.size
            raise ValueError(f"codebook size: expected at most {MAX_CODEWORDS}, got {got}")


@dataclass(frozen=True)
class VecTree:
    """N quantised Gaussians as the file has them, sorted by the Morton code of their cell.

    Attributes:
        codes: [N] uint64 Morton codes of `level` bits an axis.
        low, span: the box around the positions, world units.
        opacities: [N, 1] float16 logits; scales: [N, 3] float16 logs; quats: [N, 4] float16.
        coded: [N] bool, the M Gaussians whose colours stand in the codebook.
        indices: [M] int32 codewords of those, in order.
        codebook: [K, D] float16 SH coefficients, D = 3 (degree + 1)^2, colour running fastest.
        colors: [N - M, D] float16 SH coefficients of the others, in order.
    """

    codes: NDArray[np.uint64]
    level: int
    low: Three
    span: Three
    opacities: Half
    scales: Half
    quats: Half
    coded: NDArray[np.bool_]
    indices: NDArray[np.int32]
    codebook: Half
    colors: Half
    antialiased: bool = False

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def sh_degree(self) -> int:
        return round((self.codebook.shape[1] / 3) ** 0.5) - 1

    @property
    def packed_bytes(self) -> int:
        """Bytes by packing alone, as LightGaussian stores all but the positions: no coder."""
        halves = (self.opacities, self.scales, self.quats, self.codebook, self.colors)
        bits = len(self) * 3 * self.level + len(self.coded) + len(self.indices) * self.width
        return sum(array.nbytes for array in halves) + -(-bits // 8)

    @property
    def width(self) -> int:
        """Bits of a packed index."""
        return max(len(self.codebook) - 1, 1).bit_length()

    def rows(self) -> Tensor:
        """[N] int64, each Gaussian's row in the codebook with `colors` below it."""
        rows = np.empty(len(self), np.int64)
        rows[self.coded] = self.indices
        rows[~self.coded] = len(self.codebook) + np.arange(len(self.colors))
        return torch.from_numpy(rows)

    def table(self) -> Tensor:
        """[K + N - M, D] float32: the codebook with `colors` below it."""
        return torch.from_numpy(np.concatenate([self.codebook, self.colors]).astype(np.float32))

    def model(self, extra: Mapping[str, Any] | None = None) -> SplatModel:
        """What a decoder gives: cell centres, halves as floats, colours looked up."""
        cells = entropy.morton_cells(self.codes).astype(np.float64)
        width = np.array(self.span) / (1 << self.level)
        means = (cells + 0.5) * width + np.array(self.low)
        colors = self.table()[self.rows()].unflatten(1, (-1, 3))

        def tensor(values: NDArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, np.float32))

        return SplatModel(
            means=tensor(means),
            quats=tensor(self.quats),
            scales=tensor(self.scales),
            opacities=tensor(self.opacities[:, 0]),
            sh0=colors[:, :1],
            shN=colors[:, 1:],
            antialiased=self.antialiased,
            extra=dict(extra or {}),
        )

    def with_codebook(self, codebook: Tensor) -> VecTree:
        """The same with other codewords [K, D], rounded to half precision."""
        if tuple(codebook.shape) != self.codebook.shape:
            expected, got = list(self.codebook.shape), list(codebook.shape)
            raise ValueError(f"codebook: expected {expected}, got {got}")
        return replace(self, codebook=_half(codebook.detach()))


def quantise(model: SplatModel, scores: Tensor, settings: VecTreeSettings) -> VecTree:
    """Quantise N Gaussians whose significance [N] is known; their order is not kept.

    The codewords are fitted with the scores as weights, rounded to half precision, and only then
    assigned; unused ones are dropped and the others sorted by use. Raises ValueError for values
    that are not finite, and for scores of another shape or below zero.
    """
    _check(model, scores)
    n = len(model)
    order, codes, low, span = _octree_order(model.means.double().numpy(), settings.level)
    pick = torch.from_numpy(order)
    model, scores = model[pick], scores[pick]
    coded = torch.zeros(n, dtype=torch.bool)
    coded[scores.argsort(stable=True)[: round(settings.share * n)]] = True
    colors = model.colors().float().flatten(1)
    codebook, indices = _fit(colors[coded], scores[coded], settings)
    quats = torch.nn.functional.normalize(model.quats.float(), dim=1)
    largest = quats.abs().argmax(1, keepdim=True)
    quats = quats * torch.where(quats.gather(1, largest) < 0, -1.0, 1.0)  # q and -q are the same.
    return VecTree(
        codes=codes,
        level=settings.level,
        low=low,
        span=span,
        opacities=_half(model.opacities[:, None]),
        scales=_half(model.scales),
        quats=_half(quats),
        coded=coded.numpy(),
        indices=indices,
        codebook=codebook,
        colors=_half(colors[~coded]),
        antialiased=model.antialiased,
    )


def _check(model: SplatModel, scores: Tensor) -> None:
    for name, value in model.tensors().items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name}: expected finite values (sanitise first)")
    if len(model) and float(model.means.abs().max()) > MAX_POSITION:
        raise ValueError(f"means: expected at most {MAX_POSITION:g}, got larger ones")
    if scores.shape != (len(model),):
        raise ValueError(f"scores: expected [{len(model)}], got {list(scores.shape)}")
    if not bool((scores.isfinite() & (scores >= 0)).all()):
        raise ValueError("scores: expected finite values of at least 0, got others")


def _octree_order(
    x: NDArray[np.float64], level: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64], Three, Three]:
    """The order of positions [N, 3] by Morton code, the sorted codes, and the box: low and span."""
    low = x.min(0) if len(x) else np.zeros(3)
    span = x.max(0) - low if len(x) else np.zeros(3)
    cells = (x - low) * ((1 << level) / np.where(span > 0, span, 1.0))
    cells = np.minimum(cells, (1 << level) - 1).astype(np.uint32)
    codes = entropy.morton_codes(cells)
    order = np.argsort(codes, kind="stable")
    return order, codes[order], _three(low), _three(span)


def _three(x: NDArray[np.float64]) -> Three:
    return float(x[0]), float(x[1]), float(x[2])


def _half(x: Tensor) -> Half:
    """Float16, clipped to its range, without negative zero (which the coder does not keep)."""
    clipped = x.detach().float().clamp(-MOST_HALF, MOST_HALF).numpy().astype(np.float16)
    return np.ascontiguousarray(clipped + np.float16(0))


def _fit(
    colors: Tensor, scores: Tensor, settings: VecTreeSettings
) -> tuple[Half, NDArray[np.int32]]:
    """Codewords [K, D] in use, the most used first, and indices [M] of colours [M, D]."""
    size = min(settings.codebook.size, max(1, len(colors) // settings.per_codeword))
    codebook = fit_codebook(colors, scores, replace(settings.codebook, size=size))
    half = _half(codebook)
    indices = assign(colors, torch.from_numpy(half.astype(np.float32))).numpy()
    uses = np.bincount(indices, minlength=len(half))
    by_use = np.argsort(-uses, kind="stable")[: np.count_nonzero(uses)]
    rank = np.zeros(len(half), np.int32)
    rank[by_use] = np.arange(len(by_use))
    return half[by_use], rank[indices]
