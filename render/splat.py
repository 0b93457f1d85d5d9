"""The splat rasteriser: gsplat's argument order, on the CPU or on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _native
from .elsewhere import Elsewhere, elsewhere_for
from .sh import basis_count

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")


@dataclass(frozen=True)
class RasterOptions:
    """What may be asked of the rasteriser beyond the scene and the cameras.

    Attributes:
        sh_degree: colors are SH coefficients, used up to this degree (0 to 4); None: channels.
        near_plane, far_plane: camera z outside them is not drawn, world units.
        eps2d: pixels squared, added to the diagonal of the screen covariance.
        alpha_clamp: alpha never exceeds this; 0.999 for parity with gsplat 1.5.3.
        render_mode: RGB, D, ED, RGB+D or RGB+ED; D is accumulated camera z, ED divides by alpha.
        rasterize_mode: classic, or antialiased (Mip-Splatting's compensation of eps2d).
        backgrounds: [D] or [C, D] float32 behind the colour channels; depth has none.
        radius_clip: splats whose radii are both at most this many pixels are not drawn.
        compensation_floor: least antialiasing factor; 0 for parity with gsplat 1.5.3.
        details: add per-Gaussian tensors to the returned dict.
    """

    sh_degree: int | None = None
    near_plane: float = _native.NEAR_PLANE
    far_plane: float = _native.FAR_PLANE
    eps2d: float = _native.EPS2D
    alpha_clamp: float = _native.ALPHA_CLAMP
    render_mode: str = "RGB"
    rasterize_mode: str = "classic"
    backgrounds: Tensor | None = None
    radius_clip: float = 0.0
    compensation_floor: float = _native.COMPENSATION_FLOOR
    details: bool = False

    def __post_init__(self) -> None:
        if self.render_mode not in RENDER_MODES:
            raise ValueError(
                f"render_mode: expected one of {RENDER_MODES}, got {self.render_mode!r}"
            )
        if self.rasterize_mode not in RASTERIZE_MODES:
            raise ValueError(
                f"rasterize_mode: expected one of {RASTERIZE_MODES}, got {self.rasterize_mode!r}"
            )
        if self.sh_degree is not None:
            basis_count(self.sh_degree)
        if not 0 <= self.near_plane < self.far_plane:
            raise ValueError(
                "near_plane, far_plane: expected 0 <= near < far,"
                f" got {self.near_plane} and {self.far_plane}"
            )
        if not 0 < self.alpha_clamp <= 1:
            raise ValueError(f"alpha_clamp: expected in (0, 1], got {self.alpha_clamp}")
        for name in ("eps2d", "radius_clip", "compensation_floor"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")

    @property
    def has_color(self) -> bool:
        return self.render_mode.startswith("RGB")

    @property
    def has_depth(self) -> bool:
        return self.render_mode.endswith("D")


DEFAULTS = RasterOptions()


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    options: RasterOptions = DEFAULTS,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Images of N Gaussians from C pinhole cameras (Kerbl et al. 2023), gsplat's semantics.

    A Gaussian with a NaN or an infinity anywhere is not drawn.

    Where gradients are enabled and asked for by the scene's tensors, the backgrounds or the
    viewmats, the result has them: the same bits whatever the number of threads, summed over the
    cameras, once differentiable. They are those of the twin: none through the alpha clamp, the
    clamped slope of the Jacobian or a colour clamped at 0, none for what is not drawn, none by the
    last row of a viewmat. Until the backward pass or the end of the graph each camera's frame is
    kept, up to 256 MB of them; the rest is made again.

    Args:
        means: [N, 3] float32 centres, world units.
        quats: [N, 4] float32 wxyz, of any length.
        scales: [N, 3] float32 standard deviations, world units (linear).
        opacities: [N] float32 in [0, 1].
        colors: float32 SH [N, K, 3] with options.sh_degree, else [N, D] or [C, N, D] with D up to
            32; may be None where only depth is rendered.
        viewmats: [C, 4, 4] float32 world to camera, OpenCV axes.
        Ks: [C, 3, 3] float32 intrinsics, pixels; pixel centres at +0.5.
        width: image columns.
        height: image rows.
        options: everything else.

    All tensors lie on one device, the CPU or a CUDA GPU, which then does the work (but see
    `elsewhere.drawing_on`).

    Returns:
        Image [C, H, W, channels], alpha [C, H, W, 1], and a dict: width, height, n_cameras,
        tile_size, seconds (by stage, the backward pass's too once it has run; none on CUDA); with
        options.details also gsplat's radii [C, N, 2] int32, means2d [C, N, 2], depths [C, N],
        conics [C, N, 3], opacities [C, N] and tiles_per_gauss [C, N] int32, all zero where a
        Gaussian is culled.

    Raises:
        ValueError: a shape, dtype, device or value that does not fit, by argument.
    """
    there = elsewhere_for(means)
    if there is not None:
        tensors = (means, quats, scales, opacities, colors, viewmats, Ks)
        return _drawn(there, tensors, width, height, options)
    call = _Call(Ks, width, height, options)
    inputs = (means, quats, scales, opacities, colors, options.backgrounds, viewmats)
    if torch.is_grad_enabled() and any(_has_grad(t) for t in (*inputs, Ks)):
        if _has_grad(Ks):
            raise ValueError("Ks: expected no requires_grad, there are no gradients; got one")
        image, alpha = _Rasterize.apply(call, *inputs)  # pyright: ignore
    else:
        image, alpha = call.draw(inputs)[1]
    return image, alpha, call.meta


def _drawn(
    there: Elsewhere, tensors: tuple[Any, ...], width: int, height: int, options: RasterOptions
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`rasterize` on another device; what comes of it comes back."""
    home = tensors[0].device
    given = there.copies_of(tensors)
    options = replace(options, backgrounds=there.copy_of(options.backgrounds))
    image, alpha, meta = rasterize(*given, width=width, height=height, options=options)
    back = {k: v.to(home) if isinstance(v, Tensor) else v for k, v in meta.items()}
    return image.to(home), alpha.to(home), back


def _has_grad(value: Tensor | None) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def forget_workspace() -> None:
    """Free the memory that waits for the next frame on the CPU: it is made anew then."""
    _native.forget_workspace()


class _Call:
    """One call of `rasterize` without the tensors that may ask for gradients."""

    def __init__(self, Ks: Tensor, width: int, height: int, options: RasterOptions) -> None:
        self.Ks, self.width, self.height, self.options = Ks, width, height, options
        self.settings = native_settings(width, height, options)
        self.frames: Any = None
        self.meta: dict[str, Any] = {}

    def draw(
        self, inputs: Sequence[Any], keep_frames: bool = False
    ) -> tuple[tuple[Tensor | None, ...], tuple[Tensor, Tensor]]:
        """What the kernels took (means to Ks), image and alpha; fills `meta`.

        inputs: means, quats, scales, opacities, colors, backgrounds, viewmats.
        """
        means, quats, scales, opacities, colors, _, viewmats = inputs
        options, settings = self.options, self.settings
        gaussians, cameras = checked_scene(means, quats, scales, opacities, viewmats, self.Ks)
        n, count = len(gaussians[0]), len(cameras[0])
        painted = _checked_colors(colors, n, count, options, gaussians[0].device)
        settings.color_channels = 0 if painted is None else painted.shape[-1]
        channels = settings.color_channels + options.has_depth
        device = gaussians[0].device
        backgrounds = full_backgrounds(options, count, channels, settings.color_channels, device)
        image = torch.empty(count, self.height, self.width, channels, device=device)
        alpha = torch.empty(count, self.height, self.width, 1, device=device)
        details = _details(count, n, device) if options.details else {}
        backend = backend_of(device)
        self.frames = backend.Frames() if keep_frames else None
        seconds = backend.render(
            *gaussians, painted, *cameras, settings, backgrounds, image, alpha,
            tuple(details.values()) if details else None, self.frames,
        )  # fmt: skip
        self.meta |= {
            "width": self.width,
            "height": self.height,
            "n_cameras": count,
            "tile_size": _native.TILE,
            "seconds": dict(zip(("project", "sort", "bin", "blend"), seconds, strict=False)),
        }
        self.meta |= details
        return (*gaussians, painted, *cameras), (image, alpha)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        # A backward pass empties the frames; a second one, of a retained graph, makes them again.
        ctx.call = call
        taken, outputs = call.draw(inputs, keep_frames=True)
        ctx.save_for_backward(*taken, *outputs)
        ctx.background_shape = None if inputs[5] is None else inputs[5].shape
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Any:  # pyright: ignore
        means, quats, scales, opacities, colors, viewmats, Ks, image, alpha = ctx.saved_tensors
        settings = ctx.call.settings
        behind = image[:, 0, 0] if settings.color_channels else None
        grads: list[Tensor | None] = [
            torch.empty_like(t) if want and t is not None else None
            for want, t in zip(
                ctx.needs_input_grad[1:],
                (means, quats, scales, opacities, colors, behind, viewmats),
                strict=True,
            )
        ]
        settings.threads = torch.get_num_threads()
        given: Any = (None if g is None else g.contiguous() for g in grad_outputs)
        seconds = backend_of(means.device).render_backward(
            means, quats, scales, opacities, colors, viewmats, Ks, settings,
            (image, alpha, *given), tuple(grads), ctx.call.frames,
        )  # fmt: skip
        stages = (f"backward_{stage}" for stage in ("prepare", "unblend", "reduce", "unproject"))
        ctx.call.meta["seconds"] |= dict(zip(stages, seconds, strict=False))
        if grads[5] is not None:
            each = grads[5][:, : settings.color_channels]
            grads[5] = each if len(ctx.background_shape) == 2 else each.sum(0)
        return (None, *grads)


def checked_scene(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The Gaussians and the cameras as the kernels take them: contiguous, without gradients.

    Raises ValueError naming the first argument that does not fit.
    """
    n = _length("means", means)
    on = means.device
    gaussians = (
        checked("means", means, (n, 3), on),
        checked("quats", quats, (n, 4), on),
        checked("scales", scales, (n, 3), on),
        checked("opacities", opacities, (n,), on),
    )
    c = _length("viewmats", viewmats)
    cameras = (checked("viewmats", viewmats, (c, 4, 4), on), checked("Ks", Ks, (c, 3, 3), on))
    if on.type == "cpu":
        _check_cameras(*cameras)
    return gaussians, cameras


def _check_cameras(viewmats: Tensor, Ks: Tensor) -> None:
    """Elsewhere the kernels do it: asking would wait for the device."""
    for name, value in (("viewmats", viewmats), ("Ks", Ks)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if bool((Ks[:, (0, 1), (0, 1)] <= 0).any()):
        raise ValueError("Ks: expected positive focal lengths, got one that is not")


def check(name: str, value: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raises ValueError unless this is a float32 tensor of this shape on that device."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: expected a CPU tensor or a CUDA one, got one on {value.device}")
    if value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if value.dtype != torch.float32:
        raise ValueError(f"{name}: expected float32, got {str(value.dtype).removeprefix('torch.')}")


def checked(name: str, value: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The tensor, contiguous and detached; raises as `check`."""
    check(name, value, shape, device)
    return value.detach().contiguous()


def backend_of(device: torch.device) -> Any:
    """The kernels of a device: `_native`, or `splat_cuda.Backend` with the same calls.

    Raises ValueError with one sentence where a GPU cannot be used.
    """
    if device.type == "cpu":
        return _native
    from . import splat_cuda  # Not before there is something for it to do.

    return splat_cuda.backend_on(device)


def native_settings(width: int, height: int, options: RasterOptions) -> _native.Settings:
    """The options as the kernels take them, without colour channels."""
    for name, side in (("width", width), ("height", height)):
        if not 1 <= side <= _native.MAX_SIDE:
            raise ValueError(f"{name}: expected 1 to {_native.MAX_SIDE}, got {side}")
    settings = _native.Settings()
    settings.width, settings.height = int(width), int(height)
    settings.near_plane, settings.far_plane = options.near_plane, options.far_plane
    settings.eps2d, settings.alpha_clamp = options.eps2d, options.alpha_clamp
    settings.compensation_floor = options.compensation_floor
    settings.radius_clip = options.radius_clip
    settings.sh_degree = -1 if options.sh_degree is None else options.sh_degree
    settings.depth = options.has_depth
    settings.expected = options.render_mode.endswith("ED")
    settings.antialiased = options.rasterize_mode == "antialiased"
    settings.threads = torch.get_num_threads()
    return settings


def _length(name: str, value: Tensor) -> int:
    if not isinstance(value, Tensor) or value.ndim == 0:
        raise ValueError(f"{name}: expected a tensor with rows, got {type(value).__name__}")
    return len(value)


def _checked_colors(
    colors: Tensor | None, n: int, c: int, options: RasterOptions, device: torch.device
) -> Tensor | None:
    if not options.has_color:
        return None
    if not isinstance(colors, Tensor):
        raise ValueError(f"colors: expected a tensor, got {type(colors).__name__}")
    got = list(colors.shape)
    if options.sh_degree is not None:
        bases = basis_count(options.sh_degree)
        if len(got) != 3 or got[0] != n or got[1] < bases or got[2] != 3:
            raise ValueError(f"colors: expected [{n}, {bases} or more, 3], got {got}")
    elif got[:-1] not in ([n], [c, n]) or not 1 <= got[-1] <= _native.MAX_CHANNELS:
        raise ValueError(
            f"colors: expected [{n}, D] or [{c}, {n}, D], D from 1 to {_native.MAX_CHANNELS},"
            f" got {got}"
        )
    return checked("colors", colors, tuple(got), device)


def full_backgrounds(
    options: RasterOptions, cameras: int, channels: int, colors: int, device: torch.device
) -> Tensor | None:
    """[C, channels] of which the first `colors` have a background; None where there is none."""
    if options.backgrounds is None or not options.has_color:
        return None
    shape = (cameras, colors) if options.backgrounds.ndim == 2 else (colors,)
    given = checked("backgrounds", options.backgrounds, shape, device)
    full = torch.zeros(cameras, channels, device=device)
    full[:, :colors] = given
    return full


def _details(cameras: int, n: int, device: torch.device) -> dict[str, Tensor]:
    """In the order in which the kernels take them."""
    rows = (cameras, n)
    return {
        "radii": torch.zeros(*rows, 2, dtype=torch.int32, device=device),
        "means2d": torch.zeros(*rows, 2, device=device),
        "depths": torch.zeros(rows, device=device),
        "conics": torch.zeros(*rows, 3, device=device),
        "opacities": torch.zeros(rows, device=device),
        "tiles_per_gauss": torch.zeros(rows, dtype=torch.int32, device=device),
    }
