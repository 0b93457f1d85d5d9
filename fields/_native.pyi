"""Stub of the compiled encodings (fields/native/module.cpp); twins in `_reference.py`."""

from torch import Tensor

CELL_SIDE: int
GEOMETRY: int
LEAST_DIRECTION: float
LEVEL_SHIFT: float
MARCH: int
MAX_LAYERS: int
MAX_LEVELS: int
MAX_LOG_DENSITY: float
MAX_NEURONS: int
MIDDLE: float
PERMUTO_FACTOR: int
PRIMES: tuple[int, int, int, int]
RADIANCE_SH_DEGREE: int
ROW_GROUP: int
STEP: float

class Grid:
    dims: int
    features: int
    lattice: int
    levels: int
    rows: int
    lines: int
    data: bytes
    def __init__(
        self,
        dims: int,
        features: int,
        lattice: str,
        scales: list[float],
        sides: list[int],
        rows: list[int],
    ) -> None: ...

def encode(
    grid: Grid, table: Tensor, steps: Tensor | None, points: Tensor, out: Tensor, threads: int
) -> None: ...
def scatter(
    grid: Grid,
    points: Tensor,
    upstream: Tensor,
    grad: Tensor,
    touched: Tensor,
    moments: tuple[Tensor, Tensor, Tensor] | None,
    step: tuple[float, float, float, float, float] | None,
    threads: int,
) -> None: ...
def slope(
    grid: Grid, table: Tensor, points: Tensor, upstream: Tensor, dx: Tensor, threads: int
) -> None: ...
def adam(
    moments: tuple[Tensor, Tensor, Tensor],
    step: tuple[float, float, float, float, float],
    grad: Tensor,
    touched: Tensor,
    threads: int,
) -> None: ...
def perceptron(weights: list[Tensor], inputs: Tensor, outputs: Tensor, threads: int) -> None: ...
def march(
    origins: Tensor, rays_d: Tensor, cells: Tensor, jitter: Tensor, threads: int
) -> tuple[Tensor, Tensor]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
