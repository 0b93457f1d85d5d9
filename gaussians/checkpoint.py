"""Gaussians in training checkpoints of nerfstudio, gsplat and INRIA's code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..quant.torch_archive import Stored, TorchArchive
from .model import SplatModel, check_room
from .turn import moved
from .unpack import SH_C0

TRANSFORMS = "dataparser_transforms.json"  # nerfstudio's, beside the folder of its checkpoints.
MAX_JSON_BYTES = 10**6
PREFIXES = ("_model.gauss_params.", "_model.module.gauss_params.", "_model.", "gauss_params.")
SPLATFACTO = {
    "means": "means", "quats": "quats", "scales": "scales", "opacities": "opacities",
    "sh0": "features_dc", "shN": "features_rest",
}  # fmt: skip
# Places in the tuple that INRIA's GaussianModel.capture gives.
CAPTURED = {"means": 1, "sh0": 2, "shN": 3, "scales": 4, "quats": 5, "opacities": 6}
CAPTURED_LENGTH = 12

Find = Callable[[Any], dict[str, Any] | None]


def gaussians_of(archive: TorchArchive) -> SplatModel | None:
    """The Gaussians of a checkpoint, None where it holds none that is known here.

    Those of nerfstudio lie in the frame that it trained in, see `in_capture`.

    Raises ValueError in one line naming the file and the tensor at fault.
    """
    for layout, find in LAYOUTS.items():
        found = find(archive.root)
        if found is not None:
            return _model(archive, found, layout)
    return None


def _splatfacto(root: Any) -> dict[str, Any] | None:
    pipeline = root.get("pipeline") if isinstance(root, dict) else None
    if not isinstance(pipeline, dict):
        return None
    for prefix in PREFIXES:
        found = {ours: pipeline.get(prefix + theirs) for ours, theirs in SPLATFACTO.items()}
        if found["means"] is not None and found["sh0"] is not None:
            return found
    return None


def _gsplat(root: Any) -> dict[str, Any] | None:
    splats = root.get("splats") if isinstance(root, dict) else None
    if not isinstance(splats, dict) or "means" not in splats or "sh0" not in splats:
        return None
    return {ours: splats.get(ours) for ours in SPLATFACTO}


def _inria(root: Any) -> dict[str, Any] | None:
    captured = root[0] if isinstance(root, tuple) and len(root) == 2 else None
    if not isinstance(captured, tuple) or len(captured) != CAPTURED_LENGTH:
        return None
    return {ours: captured[place] for ours, place in CAPTURED.items()}


LAYOUTS: Mapping[str, Find] = {"splatfacto": _splatfacto, "gsplat": _gsplat, "inria": _inria}


def _model(archive: TorchArchive, found: dict[str, Any], layout: str) -> SplatModel:
    n, rest = _sizes(archive, found)
    check_room(n, rest, archive.name)
    shapes = {
        "means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh0": (n, 1, 3),
        "shN": (n, rest, 3),
    }  # fmt: skip
    tensors = {}
    for key, shape in shapes.items():
        value = found[key]
        size = value.shape if isinstance(value, Stored) else None
        if size is None or int(np.prod(size)) != int(np.prod(shape)) or size[:1] != (n,):
            got = "none" if size is None else list(size)
            raise ValueError(f"{archive.name}: {layout} {key}: expected {list(shape)}, got {got}")
        values = archive.array(value, f"{layout} {key}").astype(np.float32).reshape(shape)
        tensors[key] = torch.from_numpy(values)
    if layout == "splatfacto" and not rest:  # Without directions its colours are logits.
        tensors["sh0"] = (tensors["sh0"].sigmoid() - 0.5) / SH_C0
    extra = {"source_format": f"{layout} checkpoint"}
    try:
        return SplatModel(**tensors, extra=extra)
    except ValueError as error:
        raise ValueError(f"{archive.name}: {layout} {error}") from None


def _sizes(archive: TorchArchive, found: dict[str, Any]) -> tuple[int, int]:
    """Gaussians, and SH coefficients of each beside DC."""
    means, shN = found["means"], found["shN"]
    if not isinstance(means, Stored) or len(means.shape) != 2:
        raise ValueError(f"{archive.name}: means: expected a tensor [N, 3]")
    if not isinstance(shN, Stored) or len(shN.shape) != 3:
        raise ValueError(f"{archive.name}: colours: expected a tensor [N, K - 1, 3]")
    return means.shape[0], shN.shape[1]


def transforms_beside(path: Path) -> Path | None:
    """The record of how nerfstudio moved the capture of a checkpoint, if it is there."""
    places = (path.parent / TRANSFORMS, path.parent.parent / TRANSFORMS)
    return next((place for place in places if place.is_file()), None)


def in_capture(model: SplatModel, transforms: Path) -> SplatModel:
    """The Gaussians where the capture's own poses see them: what nerfstudio did to those undone.

    It trains at x' = scale (R x + t). Raises ValueError naming the file for anything else.
    """
    linear, shift = read_frame(transforms)
    back = np.linalg.inv(linear)
    found = moved(model, back, -back @ shift, str(transforms))
    return replace(found, extra={**found.extra, "frame": "capture"})


def read_frame(transforms: Path) -> tuple[np.ndarray, np.ndarray]:
    """Linear part [3, 3] and shift [3] of a dataparser_transforms.json, x' = linear x + shift."""
    if transforms.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{transforms}: expected at most {MAX_JSON_BYTES} bytes")
    try:
        found = json.loads(transforms.read_bytes())
        matrix, scale = np.array(found["transform"], np.float64), float(found["scale"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"{' '.join(str(error).split()):.80}"
        raise ValueError(f"{transforms}: not nerfstudio's transform and scale: {reason}") from None
    if matrix.shape != (3, 4) or not np.isfinite(matrix).all() or not 1e-12 < scale < 1e12:
        raise ValueError(f"{transforms}: transform, scale: expected 3x4 numbers and one above 0")
    if np.linalg.det(matrix[:, :3]) < 1e-6:
        raise ValueError(f"{transforms}: transform: expected a rotation")
    return scale * matrix[:, :3], scale * matrix[:, 3]
