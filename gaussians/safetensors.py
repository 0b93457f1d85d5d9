"""Our tensors by name in a .safetensors file: the names and values that gsplat trains, too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..quant.safetensors import read_tensors, tensor_blocks
from .limits import Limits
from .model import SplatModel

LIMITS = Limits(finite=False)
SHAPES = {"means": 2, "quats": 2, "scales": 2, "opacities": 1, "sh0": 3, "shN": 3}
FORMAT, ANTIALIASED = "fieldpress gaussians", "antialiased"


def read_safetensors(data: bytes, *, name: str = "safetensors") -> SplatModel:
    """Read means [N, 3], quats, scales, opacities [N], sh0 [N, 1, 3] and shN [N, K-1, 3].

    Other tensors are ignored, shN may be missing. Raises ValueError in one line naming the file and
    the tensor at fault.
    """
    arrays, metadata = read_tensors(data, name=name)
    if "shN" not in arrays and "sh0" in arrays:
        arrays["shN"] = np.zeros((*arrays["sh0"].shape[:1], 0, 3), np.float32)
    tensors = {}
    for key, dimensions in SHAPES.items():
        array = arrays.get(key)
        if array is None or array.ndim != dimensions or array.dtype.kind != "f":
            what = "none" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ValueError(
                f"{name}: safetensors {key}: expected floats in {dimensions} dimensions, got {what}"
            )
        with np.errstate(over="ignore"):
            tensors[key] = torch.from_numpy(array.astype(np.float32))
    try:
        return SplatModel(
            **tensors,
            antialiased=metadata.get(ANTIALIASED) == "1",
            extra={"source_format": "safetensors"},
        )
    except ValueError as error:
        raise ValueError(f"{name}: safetensors {error}") from None


def write_safetensors(model: SplatModel) -> Iterator[bytes]:
    """The model's tensors as float32, to the bit."""
    arrays = {key: tensor.detach().cpu().float().numpy() for key, tensor in model.tensors().items()}
    metadata = {"format": FORMAT} | ({ANTIALIASED: "1"} if model.antialiased else {})
    return tensor_blocks(arrays, metadata)
