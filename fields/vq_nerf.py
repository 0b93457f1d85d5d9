"""Latent radiance fields, rendered small, quantised to a codebook and decoded to full size.

Our reconstruction of VQ-NeRF (arXiv 2310.14487), whose code and numbers are not public: a field
that is marched at 1 / r of the resolution, a vector-quantised autoencoder of the scene's own views
whose decoder gives back the pixels, two scales of losses, a semantic loss.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from . import vq
from .nerf import NerfField
from .network import Network
from .sdf import SdfField

MAX_RATIO = 16
MAX_GROUPS, MAX_CODES, MAX_LATENTS = 16, 1 << 16, 64
STAGES = ("march", "quantise", "decode")


@dataclass(frozen=True)
class VqNerfField(NerfField):
    """A radiance field whose rays bring back a colour and a latent, and what shows pixels of them.

    Attributes:
        decoder: matrices [out, 9 in] of 3x3 convolutions, from colours and latents to
            3 * ratio^2 numbers for each ray.
        codes: [G, K, s] codebooks of the G parts of a latent.
        ratio: pixels of a picture for each ray, each way.
    """

    decoder: tuple[Tensor, ...] = field(kw_only=True)
    codes: Tensor = field(kw_only=True)
    ratio: int = field(kw_only=True)

    kind = "vqnerf"

    def __post_init__(self) -> None:
        if self.codes.ndim != 3 or not 1 <= self.latent <= MAX_LATENTS:
            raise ValueError(f"codes: expected [G, K, s], got {list(self.codes.shape)}")
        super().__post_init__()
        if not 2 <= self.ratio <= MAX_RATIO:
            raise ValueError(f"ratio: expected 2 to {MAX_RATIO}, got {self.ratio}")
        columns = vq.TAPS * self.channels
        for i, weight in enumerate(self.decoder):
            if weight.ndim != 2 or weight.shape[1] != columns:
                raise ValueError(f"decoder {i}: expected [N, {columns}], got {list(weight.shape)}")
            columns = vq.TAPS * len(weight)
        if not self.decoder or len(self.decoder[-1]) != 3 * self.ratio**2:
            raise ValueError(f"decoder: expected {3 * self.ratio**2} outputs at the end")

    @property
    def latent(self) -> int:
        return self.codes.shape[0] * self.codes.shape[2]

    @property
    def channels(self) -> int:
        return 3 + self.latent

    @property
    def float_bytes(self) -> int:
        more = self.codes.numel() + sum(w.numel() for w in self.decoder)
        return super().float_bytes + 4 * more

    def tensors(self) -> dict[str, Tensor]:
        decoders = {f"decoder/{i}": w for i, w in enumerate(self.decoder)}
        return super().tensors() | decoders | {"codes": self.codes}

    def meta(self) -> dict[str, Any]:
        return {**super().meta(), "kind": self.kind, "upscale": self.ratio}

    def place(self) -> dict[str, Any]:
        return {**super().place(), "ratio": self.ratio}

    @staticmethod
    def at(network: Network, layout: dict[str, Any], extra: dict[str, Any]) -> VqNerfField:
        """The model of a file's layout and of what it read. Raises ValueError naming the key."""
        low, edge = SdfField.cube_of(layout)
        return VqNerfField(
            network, layout["head"], layout["cells"], low, edge, extra,
            decoder=layout["decoder"], codes=layout["codes"], ratio=layout["ratio"],
        )  # fmt: skip

    def coarse(self, camera: Cameras) -> Cameras:
        """The camera whose pixels are blocks of ratio x ratio of one camera, rounded up."""
        r = self.ratio
        Ks = camera.Ks / camera.Ks.new_tensor([[r], [r], [1.0]])
        return Cameras(camera.viewmats, Ks, -(-camera.width // r), -(-camera.height // r))

    def _view(self, camera: Cameras) -> Tensor:
        return self.staged(camera)[0]

    @torch.no_grad()
    def staged(self, camera: Cameras) -> tuple[Tensor, dict[str, float]]:
        """[H, W, 3] of one camera, and the seconds of march, quantiser and decoder."""
        clock = [time.perf_counter()]
        traced = self.trace(self.coarse(camera)).movedim(2, 0)[None]
        clock.append(time.perf_counter())
        latents = vq.quantised(traced[:, 3:], self.codes)
        clock.append(time.perf_counter())
        picture = vq.pixels_of(latents, traced[:, :3], self.decoder, self.ratio)[0].movedim(0, 2)
        clock.append(time.perf_counter())
        spent = [b - a for a, b in pairwise(clock)]
        seconds: dict[str, float] = dict(zip(STAGES, spent, strict=True))
        return picture[: camera.height, : camera.width].clamp(0, 1), seconds
