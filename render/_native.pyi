from torch import Tensor

ALPHA_CLAMP: float
ALPHA_CUTOFF: float
COMPENSATION_FLOOR: float
CUDA: dict[str, int]
DEPTH_ALPHA_FLOOR: float
EPS2D: float
EXTENT_SIGMAS: float
FAR_PLANE: float
FRUSTUM_MARGIN: float
MAX_CHANNELS: int
MAX_SH_DEGREE: int
MAX_SIDE: int
NEAR_PLANE: float
SH_C0: float
SH_C1: float
SH_C2: tuple[float, ...]
SH_C3: tuple[float, ...]
SH_C4: tuple[float, ...]
SH_OFFSET: float
TILE: int
TRANSMITTANCE_STOP: float

class Settings:
    width: int
    height: int
    near_plane: float
    far_plane: float
    eps2d: float
    alpha_clamp: float
    compensation_floor: float
    radius_clip: float
    sh_degree: int
    color_channels: int
    depth: bool
    expected: bool
    antialiased: bool
    threads: int
    def __init__(self) -> None: ...

class Frames:
    def __init__(self) -> None: ...

def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    settings: Settings,
    backgrounds: Tensor | None,
    image: Tensor,
    alpha: Tensor,
    details: tuple[Tensor, ...] | None,
    frames: Frames | None,
) -> tuple[float, float, float, float]: ...
def render_backward(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    settings: Settings,
    outputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    gradients: tuple[Tensor | None, ...],
    frames: Frames,
) -> tuple[float, float, float, float]: ...
def statistics(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    settings: Settings,
    hits: Tensor,
    opacity_hits: Tensor,
    weight: Tensor,
    weight_sq: Tensor,
    max_weight: Tensor,
) -> tuple[float, float, float, float]: ...
def photometric_loss(
    image: Tensor,
    target: Tensor,
    mean: Tensor,
    variance: Tensor,
    mask: Tensor | None,
    ssim_weight: float,
    gradient: Tensor | None,
    threads: int,
) -> float: ...
def photometric_moments(target: Tensor, mean: Tensor, variance: Tensor, threads: int) -> None: ...
def cuda_passes(end: int) -> int: ...
def cuda_lists(settings: Settings, count: int, splats: int, pairs: int) -> int: ...
def cuda_room(settings: Settings, count: int, splats: int, pairs: int) -> tuple[int, int, int]: ...
def cuda_frame(
    settings: Settings, fields: dict[str, int], cleared: int, kept: int, scratch: int
) -> bytes: ...
def cuda_loss(views: list[int], work: list[int], ssim_weight: float) -> bytes: ...
def forget_workspace() -> None: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
