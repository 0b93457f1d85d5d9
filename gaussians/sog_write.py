"""Write SOG version 2: lossless WebP textures and meta.json, loose or in one stored archive."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..quant.palette import (
    even_levels,
    fit_levels,
    fit_palette,
    fit_weighted_levels,
    level_indices,
    nearest,
)
from .importance import Importance
from .limits import BYTE_OPACITY, Limits
from .model import SplatModel
from .pack import alpha_bytes, drop_one, morton_order, stored_values
from .sog import COEFFICIENTS, PALETTE_COLUMNS, ROTATION_TAG

META = "meta.json"
FILES = (
    *("means_l.webp", "means_u.webp", "scales.webp", "quats.webp", "sh0.webp"),
    *("shN_centroids.webp", "shN_labels.webp", META),
)
LARGEST_SIDE = 16380  # WebP's 16383, in fours.
PALETTE_UNIT, PALETTE_LIMIT = 1024, 1 << 16  # Labels have 16 bits.
MEAN_STEPS = (1 << 16) - 1
# Root mean square errors that no picture shows beside those of 8-bit rotations and the palette:
# log-scales, DC (0.28 of it is colour), the other coefficients.
TOLERANCE = {"scales": 0.02, "sh0": 0.008, "shN": 0.002}
LEVELS = 256
SAMPLE = 1 << 14  # Gaussians that tell how much each palette entry matters.
LEAST_WEIGHT, LEAST_MOMENT = 1e-4, 1e-3  # Of what views do not show, times the mean.
# Exact: colours count where alpha is 0. More effort than this takes 100 times as long for nothing.
WEBP = {"lossless": True, "exact": True, "quality": 75, "method": 4}
EPOCH = (1980, 1, 1, 0, 0, 0)  # The archive's clock: the same bytes on every day.

LIMITS = Limits(sh_degree=3, ranges={"opacities": BYTE_OPACITY})

Files = dict[str, bytes]


@dataclass(frozen=True)
class Section:
    """One object of meta.json and the textures that it names."""

    meta: dict[str, Any]
    textures: dict[str, NDArray[np.uint8]]  # name: [H, W, 4]


def write_sog(
    model: SplatModel,
    *,
    iterations: int = 1,
    palette: int | None = None,
    seed: int = 0,
    seen: Importance | None = None,
    levels: int = LEVELS,
) -> Files:
    """The model as the files of a SOG version 2 folder: names to bytes, meta.json the last.

    SH beyond DC share a palette of at most `palette` entries (default: `palette_size`), fitted by
    `iterations` of k-means. Gaussians go along the Morton curve of their stored positions. Codebook
    levels are the nearest; positions, rotations and opacities are rounded. With `seen`, codebooks
    and palette are those of least error in the pictures of its views, and the palette's values have
    `levels` even levels. Raises ValueError for SH degree 4, non-finite values, no or too many
    Gaussians, and where Pillow is missing.
    """
    n = len(model)
    if not 0 < n <= LARGEST_SIDE**2:
        raise ValueError(f"SOG count: expected 1 to {LARGEST_SIDE**2}, got {n}")
    size = palette_size(n) if palette is None else palette
    if not 1 <= size <= PALETTE_LIMIT:
        raise ValueError(f"SOG palette: expected 1 to {PALETTE_LIMIT} entries, got {size}")
    values = stored_values(model, "SOG")
    _pillow()  # Where it is missing, that is said before the work.
    low, high, fixed = _fixed_means(values["means"])
    order = morton_order(fixed)
    values = {name: value[order] for name, value in values.items()}
    weight = None if seen is None else _relative(seen.weight.numpy()[order])
    sections = {
        "means": _means(low, high, fixed[order]),
        "scales": _levels("scales", values["scales"], None, weight),
        "quats": _quats(values["quats"]),
        "sh0": _levels("sh0", values["sh0"][:, 0], alpha_bytes(values["opacities"]), weight),
    }
    if model.sh_degree and weight is not None and seen is not None:
        sections["shN"] = _seen_rest(
            values["shN"], weight, seen.moments.numpy(), (size, levels, iterations, seed)
        )
    elif model.sh_degree:
        sections["shN"] = _rest(values["shN"], size, iterations, seed)
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "fieldpress"}, "count": n}
    if model.antialiased:
        meta["model"] = "antialiased"
    meta |= {name: section.meta for name, section in sections.items()}
    textures = {k: v for section in sections.values() for k, v in section.textures.items()}
    files = {name: _webp(pixels) for name, pixels in textures.items()}
    return files | {META: json.dumps(meta, separators=(",", ":")).encode()}


def _relative(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] weights of mean 1, a little more: nothing is worth nothing."""
    return weight / max(float(weight.mean()), 1e-300) + LEAST_WEIGHT


def palette_size(count: int) -> int:
    """Palette entries for so many Gaussians: one each below 1024, else splat-transform's rule.

    min(64, 2^floor(log2(N / 1024))) * 1024: more than half of N up to 131,072 Gaussians.
    """
    if count <= PALETTE_UNIT:
        return max(1, count)
    return min(PALETTE_LIMIT, 1 << (count.bit_length() - 1))


def sog_bundle(model: SplatModel, **options: Any) -> bytes:
    """The model as one .sog file; options as of `write_sog`."""
    return bundle(write_sog(model, **options))


def bundle(files: Mapping[str, bytes]) -> bytes:
    """The files in one archive, stored and not deflated: what a .sog file is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def _fixed_means(
    means: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint32]]:
    """Bounds of sign(v) ln(1 + |v|), and each coordinate's 16 bits between them [N, 3]."""
    flat = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    low, high = flat.min(0), flat.max(0)
    span = np.where(high > low, high - low, 1)
    return low, high, np.rint((flat - low) / span * MEAN_STEPS).astype(np.uint32)


def _means(low: NDArray, high: NDArray, fixed: NDArray[np.uint32]) -> Section:
    textures = {"means_l.webp": _texture(fixed & 255), "means_u.webp": _texture(fixed >> 8)}
    return Section({"mins": low.tolist(), "maxs": high.tolist(), "files": [*textures]}, textures)


def _quats(quats: NDArray[np.float32]) -> Section:
    three, dropped = drop_one(quats, 255)
    return Section(
        {"files": ["quats.webp"]}, {"quats.webp": _texture(three, ROTATION_TAG + dropped)}
    )


def _levels(
    name: str,
    values: NDArray[np.float32],
    alpha: NDArray[np.uint8] | None,
    weight: NDArray[np.float64] | None,
) -> Section:
    """[N, 3] values by a codebook that the three share."""
    if weight is None:
        levels = fit_levels(values, TOLERANCE[name], LEVELS)
    else:
        levels = fit_weighted_levels(values, np.broadcast_to(weight[:, None], values.shape), LEVELS)
    file = f"{name}.webp"
    texture = _texture(level_indices(values, levels), 255 if alpha is None else alpha)
    return Section({"codebook": _numbers(levels), "files": [file]}, {file: texture})


def _rest(rest: NDArray[np.float32], size: int, iterations: int, seed: int) -> Section:
    """[N, K, 3] coefficients as labels of a palette, whose values go by a codebook."""
    n, k, _ = rest.shape
    rows = torch.from_numpy(rest.reshape(n, 3 * k))
    palette, labels = fit_palette(rows, size, iterations=iterations, seed=seed)
    levels = fit_levels(palette.numpy(), TOLERANCE["shN"], LEVELS)
    codes = level_indices(palette.numpy(), levels)
    if labels is None:  # The nearest of what is read back, not of what was fitted.
        labels = nearest(rows, torch.from_numpy(levels[codes]))
    return _labelled(codes, labels, levels, k)


def _seen_rest(
    rest: NDArray[np.float32],
    weight: NDArray[np.float64],
    moments: NDArray[np.float64],
    settings: tuple[int, int, int, int],
) -> Section:
    """The same for weights [N] and moments [K, K]: distances are of colours, as they were seen.

    c^T M c is the mean square of the colour that coefficients c add in the directions of the views,
    so with M = L L^T vectors L^T c are compared.
    """
    size, count, iterations, seed = settings
    k = rest.shape[1]
    root = np.linalg.cholesky(moments + LEAST_MOMENT * np.eye(k))

    def compared(values: NDArray[np.float32]) -> torch.Tensor:
        mixed = np.einsum("nkc,kj->njc", values, root).reshape(len(values), 3 * k)
        return torch.from_numpy(mixed.astype(np.float32))

    rows, heavy = compared(rest), torch.from_numpy(weight)
    palette, labels = fit_palette(rows, size, weights=heavy, iterations=iterations, seed=seed)
    some = slice(None, None, max(1, len(rows) // SAMPLE))
    near = nearest(rows[some], palette) if labels is None else labels[some]
    mass = np.bincount(near.numpy(), weights=weight[some], minlength=len(palette)) + LEAST_WEIGHT
    entries = np.einsum("njc,jk->nkc", palette.numpy().reshape(-1, k, 3), np.linalg.inv(root))
    flat = entries.reshape(-1, 3 * k).astype(np.float32)
    levels = even_levels(flat, mass[:, None], count)
    codes = level_indices(flat, levels)
    if labels is None:
        labels = nearest(rows, compared(levels[codes].reshape(-1, k, 3)))
    return _labelled(codes, labels, levels, k)


def _labelled(
    codes: NDArray[np.int64], labels: torch.Tensor, levels: NDArray[np.float32], k: int
) -> Section:
    """Entries [P, 3K] of the palette as levels, and which one each Gaussian has [N]."""
    # In the order of first use labels rise along the curve, which costs half the bytes.
    used, first, inverse = np.unique(labels.numpy(), return_index=True, return_inverse=True)
    by_use = np.argsort(first)
    rank = np.empty(len(by_use), np.int64)
    rank[by_use] = np.arange(len(by_use))
    codes, marks = codes[used[by_use]], rank[inverse.reshape(-1)]
    textures = {
        "shN_centroids.webp": _centroids(codes, k),
        "shN_labels.webp": _texture(np.stack([marks & 255, marks >> 8, 0 * marks], axis=1)),
    }
    bands = {rest: degree for degree, rest in COEFFICIENTS.items()}[k]
    meta = {"count": len(codes), "bands": bands, "codebook": _numbers(levels)}
    return Section(meta | {"files": [*textures]}, textures)


def _centroids(codes: NDArray[np.int64], k: int) -> NDArray[np.uint8]:
    """64 entries a row, their coefficients side by side; the last entry fills the last row."""
    rows = -(-len(codes) // PALETTE_COLUMNS)
    padded = np.pad(codes, ((0, rows * PALETTE_COLUMNS - len(codes)), (0, 0)), mode="edge")
    pixels = np.full((rows, PALETTE_COLUMNS * k, 4), 255, np.uint8)
    pixels[..., :3] = padded.reshape(rows, PALETTE_COLUMNS * k, 3)
    return pixels


def _texture(rgb: NDArray, alpha: NDArray | int = 255) -> NDArray[np.uint8]:
    """[H, W, 4] of [N, 3] colours and alphas [N], row after row; the last one fills the rest."""
    n = len(rgb)
    width = 4 * math.ceil(math.sqrt(n) / 4)
    height = 4 * math.ceil(n / width / 4)
    texels = np.empty((height * width, 4), np.uint8)
    texels[:n, :3], texels[:n, 3] = rgb, alpha
    texels[n:] = texels[n - 1]
    return texels.reshape(height, width, 4)


def _numbers(levels: NDArray[np.float32]) -> list[float]:
    """256 numbers, in as few digits as float32 needs; the last level fills a shorter list."""
    numbers = [float(str(level)) for level in levels]
    return numbers + [numbers[-1]] * (LEVELS - len(numbers))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("SOG needs Pillow: pip install 'fieldpress[images]'") from None
    return Image


def _webp(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    _pillow().fromarray(pixels).save(buffer, "WEBP", **WEBP)
    return buffer.getvalue()
