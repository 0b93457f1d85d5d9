"""Frames on CUDA: the same calls as `_native` has for the CPU, in launches on torch's stream.

How many splats and pairs of a splat and a tile a frame has is known on the device alone. Room for
them is guessed from the frames before; one that finds too little draws nothing and says so, and is
drawn again with more. The few numbers that say so are the only ones copied to the host, once a
call, while the last frame is still being sorted and blended.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import _native, cuda, loss_cuda, ordered_cuda

LAYOUT = _native.CUDA
BLOCK = LAYOUT["block"]
FEWEST_SPLATS, FEWEST_PAIRS = 1 << 12, 1 << 14  # Room that is always there.
MOST_PAIRS = 1 << 29  # As on the CPU.
SPARE = 1.25  # More room than the last call needed.
MOST_ROUNDS = 4  # Too few splats, then too few pairs, then it fits.
WAVES = 8  # Blocks a processor of kernels that go on until nothing is left.
CAMERA_FAULTS = {
    LAYOUT["fault_not_finite"]: "viewmats, Ks: expected finite numbers, got NaN or infinity",
    LAYOUT["fault_focal"]: "Ks: expected positive focal lengths, got one that is not",
    LAYOUT["fault_singular"]: "viewmats: expected invertible rotations, got determinant 0",
}
DETAIL_FIELDS = ("radii", "means2d", "depths", "conics", "splat_opacities", "tiles_per_gauss")
SUM_FIELDS = ("hits", "opacity_hits", "weight", "weight_sq", "max_weight")
GRAD_FIELDS = ("means_grad", "quats_grad", "scales_grad", "opacities_grad")
Fields = dict[str, int]


@dataclass(frozen=True)
class Shot:
    """A scene before its cameras.

    Attributes:
        scene: fields of a frame that all cameras share, `count` among them.
        colors: as `rasterize` takes them; None where the scene holds its own, or has none.
        viewmats: [C, 4, 4] on the device.
        Ks: [C, 3, 3] on the device.
        settings: everything else.
        decoder: macros that say how `project` reads the scene.
    """

    scene: Fields
    colors: Tensor | None
    viewmats: Tensor
    Ks: Tensor
    settings: _native.Settings
    decoder: cuda.Macros = ()

    @property
    def tiles(self) -> int:
        """Tiles of a picture."""
        tile, set_ = _native.TILE, self.settings
        return -(-set_.width // tile) * -(-set_.height // tile)

    def camera(self, c: int) -> Fields:
        """The fields of one camera's frame."""
        found = self.scene | {"viewmat": _at(self.viewmats, c), "K": _at(self.Ks, c)}
        if self.colors is not None:
            shared = self.settings.sh_degree >= 0 or self.colors.ndim == 2
            width = self.colors.shape[-2:].numel() if self.settings.sh_degree >= 0 else None
            found["colors"] = _at(self.colors, 0 if shared else c)
            found["color_stride"] = width or self.colors.shape[-1]
        return found

    def of_colors(self, gradient: Tensor | None, c: int) -> int:
        """Where the gradients of camera c's colours go; 0: nowhere."""
        shared = self.settings.sh_degree >= 0 or (gradient is not None and gradient.ndim == 2)
        return _at(gradient, 0 if shared else c)


@dataclass(frozen=True)
class Buffers:
    """The device memory of one frame, with room for so many splats and pairs."""

    cleared: Tensor  # uint8; begins with the frame's progress
    kept: Tensor  # uint8; until the backward pass
    scratch: Tensor  # uint8
    splats: int
    pairs: int

    def frame(self, settings: _native.Settings, fields: Fields) -> Tensor:
        """The kernels' argument, on the device."""
        fields = fields | {"splat_room": self.splats, "pair_room": self.pairs}
        parts = (part.data_ptr() for part in (self.cleared, self.kept, self.scratch))
        return cuda.uploaded(_native.cuda_frame(settings, fields, *parts), self.kept.device)


@dataclass
class Frames:
    """What a forward pass leaves to its backward pass, by camera."""

    kept: dict[int, Buffers] = field(default_factory=dict)


class Backend:
    """Rendering, its gradients, statistics and loss as `_native` has them, on one CUDA device."""

    Frames = Frames

    def __init__(self, kernels: cuda.Kernels) -> None:
        self.kernels = kernels
        self.splats, self.pairs = FEWEST_SPLATS, FEWEST_PAIRS

    def render(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor,
        colors: Tensor | None, viewmats: Tensor, Ks: Tensor, settings: _native.Settings,
        backgrounds: Tensor | None, image: Tensor, alpha: Tensor,
        details: tuple[Tensor, ...] | None, frames: Frames | None,
    ) -> tuple[()]:  # fmt: skip
        """`_native.render`; nobody waits for the device to tell seconds."""
        scene = _scene(means, quats, scales, opacities)
        shot = Shot(scene, colors, viewmats, Ks, settings)
        self.draw(shot, backgrounds, image, alpha, details, frames)
        return ()

    def draw(
        self,
        shot: Shot,
        backgrounds: Tensor | None,
        image: Tensor,
        alpha: Tensor,
        details: tuple[Tensor, ...] | None = None,
        frames: Frames | None = None,
    ) -> None:
        """Fills images [C, H, W, channels] and alphas [C, H, W, 1], and what else is given."""

        def fields(c: int) -> Fields:
            extra = dict(zip(DETAIL_FIELDS, (_at(t, c) for t in details or ()), strict=False))
            extra |= {"image": _at(image, c), "alpha": _at(alpha, c)}
            return shot.camera(c) | extra | {"background": _at(backgrounds, c)}

        def blend(frame: int) -> None:
            macros = (("FIELDPRESS_CHANNELS", image.shape[-1]),)
            self.kernels.launch("blend", shot.tiles, BLOCK, frame, macros=macros)

        self._run(shot, range(len(image)), fields, blend, frames, details is not None)

    def statistics(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor,
        Ks: Tensor, settings: _native.Settings, hits: Tensor, opacity_hits: Tensor,
        weight: Tensor, weight_sq: Tensor, max_weight: Tensor,
    ) -> tuple[()]:  # fmt: skip
        """`_native.statistics`; nobody waits for the device to tell seconds."""
        sums = (hits, opacity_hits, weight, weight_sq, max_weight)
        scene = _scene(means, quats, scales, opacities)
        scene |= {name: t.data_ptr() for name, t in zip(SUM_FIELDS, sums, strict=True)}
        shot = Shot(scene, None, viewmats, Ks, settings)
        self._run(
            shot, range(len(viewmats)), shot.camera,
            lambda frame: self.kernels.launch("measure", shot.tiles, BLOCK, frame),
        )  # fmt: skip
        return ()

    def render_backward(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor,
        colors: Tensor | None, viewmats: Tensor, Ks: Tensor, settings: _native.Settings,
        outputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        gradients: tuple[Tensor | None, ...], frames: Frames,
    ) -> tuple[()]:  # fmt: skip
        """`_native.render_backward`; nobody waits for the device to tell seconds.

        Tiles add to a splat in whatever order they come: the last bits of two runs differ, unless
        torch.use_deterministic_algorithms was asked for.
        """
        for grad in gradients:
            if grad is not None:
                grad.zero_()
        of_backgrounds, of_viewmats = gradients[5:]
        scene = _scene(means, quats, scales, opacities)
        scene |= {name: _at(t) for name, t in zip(GRAD_FIELDS, gradients[:4], strict=True)}
        shot = Shot(scene, colors, viewmats, Ks, settings)
        channels = outputs[0].shape[-1]
        sums = torch.zeros(len(viewmats), channels, dtype=torch.float64, device=means.device)
        poses = torch.zeros(
            len(viewmats), LAYOUT["pose_bytes"], dtype=torch.uint8, device=means.device
        )
        for c in range(len(viewmats)):
            if c not in frames.kept:  # An earlier backward pass has used it.
                self._run(shot, [c], shot.camera, None, frames)
            names = ("drawn_image", "drawn_alpha", "image_grad", "alpha_grad")
            fields = shot.camera(c) | dict(zip(names, (_at(t, c) for t in outputs), strict=True))
            fields |= {
                "colors_grad": shot.of_colors(gradients[4], c),
                "background_grad": 0 if of_backgrounds is None else _at(sums, c),
                "pose": 0 if of_viewmats is None else _at(poses, c),
                "viewmat_grad": _at(of_viewmats, c),
            }
            buffers = frames.kept.pop(c)
            if torch.are_deterministic_algorithms_enabled():
                background = None if of_backgrounds is None else sums[c]
                pose = None if of_viewmats is None else poses[c]
                ordered_cuda.unblend(self, shot, fields, buffers, channels, background, pose)
            else:
                self._unblend(shot, fields, buffers, channels)
        if of_backgrounds is not None:
            of_backgrounds.copy_(sums)
        return ()

    def photometric_moments(
        self, target: Tensor, mean: Tensor, variance: Tensor, threads: int
    ) -> None:
        """`_native.photometric_moments`."""
        loss_cuda.moments(self.kernels, target, mean, variance)

    def photometric_loss(
        self, image: Tensor, target: Tensor, mean: Tensor, variance: Tensor,
        mask: Tensor | None, ssim_weight: float, gradient: Tensor | None, threads: int,
    ) -> Tensor:  # fmt: skip
        """`_native.photometric_loss`, but a scalar on the device."""
        moments = (mean, variance)
        return loss_cuda.loss(self.kernels, image, target, moments, mask, ssim_weight, gradient)

    def _unblend(self, shot: Shot, fields: Fields, buffers: Buffers, channels: int) -> None:
        """From the gradients of one image to those of the scene and the camera."""
        stride = -(-(LAYOUT["grad_color"] + channels) // 4) * 4
        splat_grads = torch.zeros(buffers.splats, stride, device=buffers.kept.device)
        frame = buffers.frame(shot.settings, fields | {"splat_grads": splat_grads.data_ptr()})
        address, launch = frame.data_ptr(), self.kernels.launch
        macros = (("FIELDPRESS_CHANNELS", channels),)
        launch("unblend", shot.tiles, BLOCK, address, macros=macros)
        launch("unproject", self.blocks(buffers.splats), BLOCK, address)
        if fields["pose"]:
            launch("finish_pose", 1, 1, address)

    def _run(
        self,
        shot: Shot,
        cameras: Any,
        fields: Callable[[int], Fields],
        finish: Callable[[int], None] | None,
        frames: Frames | None = None,
        details: bool = False,
    ) -> None:
        """Projects, sorts and bins for each camera, then `finish` with the frame's address."""
        pending = list(cameras)
        for _ in range(MOST_ROUNDS):
            if not pending:
                return
            shape = (len(pending), 4)
            heads = torch.zeros(shape, dtype=torch.int32, device=self.kernels.device)
            buffers: Buffers | None = None
            read: Callable[[], Tensor] | None = None
            for k, c in enumerate(pending):
                if buffers is None or frames is not None:
                    buffers = self._buffers(shot)
                buffers.cleared.zero_()
                frame = buffers.frame(shot.settings, fields(c))
                self._project(shot, frame.data_ptr(), buffers, details)
                heads[k].copy_(buffers.cleared[:16].view(torch.int32))
                if k == len(pending) - 1:
                    read = _reader(heads)
                self._list(shot, frame.data_ptr(), buffers)
                if finish is not None:
                    finish(frame.data_ptr())
                if frames is not None:
                    frames.kept[c] = replace(buffers, scratch=buffers.kept)  # Given back.
            assert read is not None
            pending = self._short_of_room(pending, read())
        if pending:
            raise RuntimeError(f"CUDA: frames of cameras {pending} never found room; a bug")

    def _short_of_room(self, cameras: list[int], heads: Tensor) -> list[int]:
        """The cameras that need more room, which there is from now on; ValueError for bad ones."""
        again = []
        for c, (low, high, survivors, faults) in zip(cameras, heads.tolist(), strict=True):
            for fault, message in CAMERA_FAULTS.items():
                if faults & fault:
                    raise ValueError(message)
            pairs = (high << 32) + (low & 0xFFFFFFFF)
            if pairs > MOST_PAIRS:
                raise ValueError(
                    f"means: expected at most 2^29 pairs of a splat and a tile, got {pairs}"
                )
            self.splats = max(self.splats, int(survivors * SPARE))
            self.pairs = max(self.pairs, min(int(pairs * SPARE), MOST_PAIRS))
            if faults:
                again.append(c)
        return again

    def _project(self, shot: Shot, frame: int, buffers: Buffers, details: bool) -> None:
        launch, decoder = self.kernels.launch, shot.decoder
        launch("prepare_camera", 1, 1, frame, macros=decoder)
        launch("project", self.blocks(shot.scene["count"]), BLOCK, frame, macros=decoder)
        self._sort(frame, False, LAYOUT["sort_passes"], buffers.splats)
        if details:
            launch("write_details", self.blocks(buffers.splats), BLOCK, frame, macros=decoder)
        launch("emit", self.blocks(buffers.splats), BLOCK, frame)

    def _list(self, shot: Shot, frame: int, buffers: Buffers) -> None:
        self._sort(frame, True, _native.cuda_passes(shot.tiles), buffers.pairs)
        self.kernels.launch("find_ranges", self.blocks(buffers.pairs), BLOCK, frame)

    def _sort(self, frame: int, of_tiles: bool, passes: int, room: int) -> None:
        launch, which = self.kernels.launch, int(of_tiles)
        launch("sort_count", self.blocks(room), BLOCK, frame, which)
        launch("sort_begin", passes, BLOCK, frame, which)
        blocks = self.blocks(room, LAYOUT["sort_part"])
        for number in range(passes):
            launch("sort_pass", blocks, BLOCK, frame, which, number)

    def blocks(self, items: int, each: int = BLOCK) -> int:
        """Blocks that go on until nothing is left: no more than the device runs at once."""
        return max(1, min(WAVES * self.kernels.processors, -(-items // each)))

    def _buffers(self, shot: Shot) -> Buffers:
        count = shot.scene["count"]
        splats = min(self.splats, max(count, 1))
        cleared, kept, scratch = (
            torch.empty(size, dtype=torch.uint8, device=self.kernels.device)
            for size in _native.cuda_room(shot.settings, count, splats, self.pairs)
        )
        return Buffers(cleared, kept, scratch, splats, self.pairs)


@functools.cache
def backend_on(device: torch.device) -> Backend:
    """The one backend of a CUDA device; ValueError with one sentence where it cannot be used."""
    return Backend(cuda.kernels_on(device))


def _scene(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor) -> Fields:
    named = {"means": means, "quats": quats, "scales": scales, "opacities": opacities}
    return {"count": len(means)} | {name: t.data_ptr() for name, t in named.items()}


def _at(tensor: Tensor | None, row: int = 0) -> int:
    """The address of a row; 0 for no tensor."""
    if tensor is None:
        return 0
    return tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()


def _reader(heads: Tensor) -> Callable[[], Tensor]:
    """Begins a copy to the host; what it returns waits for that, and for nothing enqueued later."""
    if heads.device.type != "cuda":
        return heads.clone
    host = torch.empty(heads.shape, dtype=heads.dtype, pin_memory=True)
    host.copy_(heads, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(heads.device))

    def wait() -> Tensor:
        event.synchronize()
        return host

    return wait
