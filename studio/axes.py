"""nerfstudio's poses as ours."""

from __future__ import annotations

import torch
from torch import Tensor


def viewmats_of(poses: Tensor) -> Tensor:
    """[C, 4, 4] world to camera, OpenCV axes, of [C, 3, 4] camera to world, OpenGL axes."""
    rotation = poses[:, :3, :3] * poses.new_tensor([1.0, -1.0, -1.0])
    inverse = rotation.transpose(1, 2)
    moved = torch.cat([inverse, -inverse @ poses[:, :3, 3:]], 2)
    last = poses.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(poses), 1, 4)
    return torch.cat([moved, last], 1)
