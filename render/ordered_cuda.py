"""Gradients on CUDA that are the same bits in every run: sums in a fixed order, no atomics.

For `torch.use_deterministic_algorithms(True)`. Slower, and wants memory for a row of gradients a
pair of a splat and a tile; how many pairs there are is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _native

if TYPE_CHECKING:
    from .splat_cuda import Backend, Buffers, Fields, Shot

BLOCK = _native.CUDA["block"]
WARPS = BLOCK // 32
ORDERED = ("FIELDPRESS_ORDERED", 1)
PROGRESS = 6  # Words of it: pairs in two, survivors, faults, drawn, listed (native/cuda_frame.h).


def unblend(
    backend: Backend,
    shot: Shot,
    fields: Fields,
    buffers: Buffers,
    channels: int,
    background: Tensor | None,
    pose: Tensor | None,
) -> None:
    """From the gradients of one image to those of the scene, its background and its camera.

    Fills `background`, [channels] float64, and `pose`, the bytes of a PoseGrad, where not None.
    """
    on, launch = buffers.kept.device, backend.kernels.launch
    *_, listed = buffers.cleared[: 4 * PROGRESS].view(torch.int32).tolist()
    stride = -(-(_native.CUDA["grad_color"] + channels) // 4) * 4
    pairs = torch.zeros(max(listed, 1), stride, device=on)
    shares = torch.zeros(shot.tiles * WARPS, channels, dtype=torch.float64, device=on)
    given = fields | {"splat_grads": pairs.data_ptr()}
    given["background_grad"] = 0 if background is None else shares.data_ptr()
    frame = buffers.frame(shot.settings, given)
    macros = (("FIELDPRESS_CHANNELS", channels), ORDERED)
    launch("unblend", shot.tiles, BLOCK, frame.data_ptr(), macros=macros)
    if background is not None:
        background.copy_(shares.sum(0))
    splat_grads = _gathered(backend, shot, buffers, pairs, listed)
    blocks = backend.blocks(buffers.splats)
    width = _native.CUDA["pose_bytes"] // 8
    poses = torch.zeros(blocks * WARPS, width, dtype=torch.float64, device=on)
    given = fields | {"splat_grads": splat_grads.data_ptr()}
    given["pose"] = 0 if pose is None else poses.data_ptr()
    frame = buffers.frame(shot.settings, given)
    launch("unproject", blocks, BLOCK, frame.data_ptr(), macros=(ORDERED,))
    if pose is not None:
        pose.view(torch.float64).copy_(poses.sum(0))
        frame = buffers.frame(shot.settings, fields)
        launch("finish_pose", 1, 1, frame.data_ptr(), macros=(ORDERED,))


def _gathered(backend: Backend, shot: Shot, buffers: Buffers, pairs: Tensor, listed: int) -> Tensor:
    """[splats, stride] sums of the pairs' gradients, in the order of the tiles' lists."""
    at = _native.cuda_lists(shot.settings, shot.scene["count"], buffers.splats, buffers.pairs)
    slots = buffers.kept[at : at + 4 * listed].view(torch.int32)
    sorted_slots, order = torch.sort(slots, stable=True)
    ends = torch.arange(buffers.splats + 1, dtype=torch.int32, device=slots.device)
    starts = torch.searchsorted(sorted_slots, ends)
    sums = torch.empty(buffers.splats, pairs.shape[1], device=slots.device)
    parts = (pairs, order, starts)
    backend.kernels.launch(
        "gather", backend.blocks(sums.numel()), BLOCK, *(part.data_ptr() for part in parts),
        buffers.splats, pairs.shape[1], sums.data_ptr(),
    )  # fmt: skip
    return sums
