"""The quantisation step of each format, value by value, and the order in which it puts Gaussians.

An error is counted in the space in which the format rounds: logarithmic positions for SOG, opacity
rather than its logit, components of unit quaternions; a value rounded to the nearest is within half
a step. Formats of plain floats have the spacing of float32 (or float16) as their step.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fieldpress.gaussians import ksplat, sog_write, spz
from fieldpress.gaussians.compressed_ply_write import _curve_order
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.pack import morton_order
from fieldpress.gaussians.splat import by_size
from fieldpress.gaussians.unpack import SH_C0

Values = dict[str, NDArray]
FLOAT32, FLOAT16 = 2.0**-22, 2.0**-10  # Of 1: through exp, log and a norm the last bit or two go.
ROOT = float(np.sqrt(2))


def order_of(kind: str, model: SplatModel) -> NDArray[np.int64]:
    """Where each Gaussian of a file written in this format came from."""
    values = {name: value.numpy() for name, value in model.tensors().items()}
    if kind == "splat":
        return by_size(values)
    if kind in ("ksplat 1", "ksplat 2"):
        return ksplat._Buckets.of(values["means"]).order
    if kind == "sog":
        return morton_order(sog_write._fixed_means(values["means"])[2])
    if kind == "compressed.ply" and model.extra.get("source_format") != "compressed ply":
        return _curve_order(values["means"])
    return np.arange(len(model))


def domain(kind: str, model: SplatModel) -> Values:
    """What the format rounds, as float64: quaternions of length 1, opacity in [0, 1]."""
    values = {name: value.double().numpy() for name, value in model.tensors().items()}
    values["opacities"] = 1 / (1 + np.exp(-values["opacities"]))
    norm = np.linalg.norm(values["quats"], axis=1, keepdims=True)
    values["quats"] = values["quats"] / np.where(norm > 0, norm, 1)
    if kind in ("ksplat 1", "ksplat 2"):  # float16, which has an even spacing near 0.
        values["scales"] = np.exp(values["scales"])
    if kind == "sog":
        values["means"] = np.sign(values["means"]) * np.log1p(np.abs(values["means"]))
    return values


def steps(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    """Tensor -> the step of each value of `decoded`, which `given` became, in the same order."""
    return {
        "ply": _floats, "safetensors": _floats, "glb": _floats, "splat": _splat,
        "ksplat 0": _ksplat0, "ksplat 1": _ksplat, "ksplat 2": _ksplat,
        "spz 2": _spz, "spz 3": _spz, "spz 4": _spz,
        "compressed.ply": _compressed, "sog": _sog,
    }[kind](kind, given, decoded)  # fmt: skip


def _floats(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    found = domain(kind, given)
    steps = {name: FLOAT32 * np.maximum(np.abs(value), 1e-3) for name, value in found.items()}
    # Linear in a file: a rounding of the value is one of its logarithm, whatever that is.
    return steps | {"scales": 2 * FLOAT32 + steps["scales"], "quats": FLOAT32, "opacities": FLOAT32}


def _splat(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    byte = {"opacities": 1 / 255, "sh0": 1 / 255 / SH_C0, "quats": 1 / 128}
    return _floats(kind, given, decoded) | byte


def _ksplat0(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    return _floats(kind, given, decoded) | {"opacities": 1 / 255, "sh0": 1 / 255 / SH_C0}


def _ksplat(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    block = ksplat._Buckets.of(given.means.numpy()).block
    rest = np.abs(domain(kind, given)["shN"])
    linear = given.scales.double().exp().numpy()
    return _ksplat0(kind, given, decoded) | {
        "means": 0.5 * block / ksplat.STEPS + FLOAT32 * 10,
        "scales": FLOAT16 * np.maximum(linear, 2.0**-14),
        "quats": 2 * FLOAT16,  # The norm of rounded components is not 1: one more.
        "shN": FLOAT16 * np.maximum(rest, 2.0**-14)
        if kind == "ksplat 1"
        else 2 * float(rest.max(initial=0)) / 255,
    }


def _spz(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    bits = spz._fraction_bits(float(given.means.abs().max()))
    rest = np.full(given.shN.shape, 16 / 128)
    rest[:, :3] = 8 / 128
    # Version 2 has no w: where that is small, its error is the root of a rounding.
    xyz = np.where(np.arange(4) > 0, 2 / 255, 4 / np.sqrt(255))
    return {
        "means": 2.0**-bits,
        "quats": xyz if kind == "spz 2" else 1 / (511 * ROOT),
        "scales": 1 / 16,
        "opacities": 1 / 255,
        "sh0": 1 / 255 / spz.COLOR_SCALE,
        "shN": rest + 2 / 128,  # Bytes are rounded first, then made coarse.
    }


def _compressed(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    def span(value: torch.Tensor) -> NDArray:
        chunks = [part.amax(0) - part.amin(0) for part in value.double().split(256)]
        rows = [len(part) for part in value.split(256)]
        return torch.cat([c.expand(n, 3) for c, n in zip(chunks, rows, strict=True)]).numpy()

    packed = np.array([2047, 1023, 2047])
    far = FLOAT32 * (1 + given.means.abs().double().numpy())
    return {
        "means": span(given.means) / packed + far,
        "scales": span(given.scales) / packed + 1e-5,
        "quats": ROOT / 1023,
        "opacities": 1 / 255,
        "sh0": (span(given.sh0[:, 0]) / 255 + 1e-5)[:, None],
        "shN": 8 / 256,
    }


def _sog(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, NDArray | float]:
    means = domain(kind, given)["means"]
    return {
        "means": np.ptp(means, axis=0) / 65535 + 1e-6,
        "scales": _gaps(decoded.scales.numpy()),
        "quats": ROOT / 255,
        "opacities": 1 / 255,
        "sh0": _gaps(decoded.sh0.numpy()),
        "shN": float("nan"),  # Vectors of a palette: no step of their own.
    }


def _gaps(values: NDArray) -> NDArray:
    """The wider of the two gaps beside each value's level; at the ends the one that there is."""
    levels, inverse = np.unique(values, return_inverse=True)
    gaps = np.diff(levels.astype(np.float64))
    wide = np.maximum(np.append(gaps, 0), np.insert(gaps, 0, 0)) + 1e-6
    return wide[inverse].reshape(values.shape)
