"""Stub of the compiled encodings and latent grids (fields/native/*module.cpp).

Twins are in `_reference.py`, `_reference_latent.py` and `_reference_noise.py`.
"""

from numpy import float32, int16, int32, uint8, uint16
from numpy.typing import NDArray
from torch import Tensor

_Tables = tuple[NDArray[uint16], NDArray[int32], NDArray[int32]]

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
    grid: Grid,
    table: Tensor,
    steps: Tensor | None,
    points: Tensor,
    along: Tensor | None,
    out: Tensor,
    threads: int,
) -> None: ...
def scatter(
    grid: Grid,
    points: Tensor,
    along: Tensor | None,
    upstream: Tensor,
    grad: Tensor,
    touched: Tensor,
    moments: tuple[Tensor, Tensor, Tensor] | None,
    step: tuple[float, float, float, float, float] | None,
    threads: int,
) -> None: ...
def slope(
    grid: Grid,
    table: Tensor,
    points: Tensor,
    along: Tensor | None,
    upstream: Tensor,
    dx: Tensor,
    threads: int,
) -> None: ...
def adam(
    moments: tuple[Tensor, Tensor, Tensor],
    step: tuple[float, float, float, float, float],
    grad: Tensor,
    touched: Tensor,
    threads: int,
) -> None: ...
def score_candidates(
    table: NDArray[int16],
    coefficients: NDArray[float32],
    level: int,
    block: int,
    first: int,
    out: NDArray[float32],
) -> None: ...

class SlidingNet:
    parameters: int
    def __init__(
        self,
        layers: int,
        hidden: int,
        outputs: int,
        planes: list[tuple[int, int, int, int]],
        taps: list[tuple[int, int, int]],
        replicate: bool,
    ) -> None: ...

def slide(
    net: SlidingNet, buffer: Tensor, parameters: Tensor, out: Tensor, threads: int = 1
) -> None: ...
def slide_back(
    net: SlidingNet,
    buffer: Tensor,
    parameters: Tensor,
    upstream: Tensor,
    grad: Tensor,
    parameter_grad: Tensor,
) -> None: ...
def rate(
    net: SlidingNet,
    buffer: Tensor,
    parameters: Tensor,
    grad: Tensor,
    parameter_grad: Tensor,
    each: Tensor | None = None,
) -> float: ...
def soften(
    x: Tensor, noise: Tensor, cold: float, over: float, spread: float, out: Tensor, slope: Tensor
) -> None: ...
def upsample(x: Tensor, kernel: Tensor, out: Tensor, threads: int = 1) -> None: ...
def to_bytes(planes: Tensor, out: NDArray[uint8], threads: int = 1) -> None: ...
def upsample_back(
    x: Tensor, kernel: Tensor, upstream: Tensor, grad: Tensor, kernel_grad: Tensor
) -> None: ...
def find_motion(
    now: NDArray[uint8],
    before: NDArray[uint8],
    block: int,
    reach: int,
    price: int,
    motion: NDArray[int32],
) -> None: ...
def move(
    picture: NDArray[uint8], motion: NDArray[int32], block: int, out: Tensor, threads: int = 1
) -> None: ...
def restore_motion(motion: NDArray[int32], rest: NDArray[int32]) -> None: ...
def encode_parts(parts: NDArray[int32], away: list[int]) -> bytes: ...
def decode_parts(data: bytes, away: list[int], parts: NDArray[int32]) -> None: ...
def count_parts(parts: NDArray[int32], away: list[int], counts: NDArray[float32]) -> None: ...
def compose(
    references: list[NDArray[uint8]], parts: NDArray[int32], out: Tensor, threads: int = 1
) -> None: ...
def search_parts(
    now: NDArray[uint8],
    references: list[NDArray[uint8]],
    price: float,
    passes: int,
    away: list[int],
    seeds: list[NDArray[int32]],
    parts: NDArray[int32],
) -> None: ...
def encode_planes(
    nets: list[SlidingNet], parameters: NDArray[int32], tables: _Tables, symbols: NDArray[int32]
) -> bytes: ...
def decode_planes(
    nets: list[SlidingNet],
    parameters: NDArray[int32],
    tables: _Tables,
    data: bytes,
    symbols: NDArray[int32],
) -> None: ...
def encode_numbers(
    symbols: NDArray[int32], centers: NDArray[int32], scales: NDArray[int32], tables: _Tables
) -> bytes: ...
def decode_numbers(
    data: bytes,
    centers: NDArray[int32],
    scales: NDArray[int32],
    tables: _Tables,
    symbols: NDArray[int32],
) -> None: ...
def perceptron(weights: list[Tensor], inputs: Tensor, outputs: Tensor, threads: int) -> None: ...
def march(
    origins: Tensor, rays_d: Tensor, cells: Tensor, jitter: Tensor, threads: int
) -> tuple[Tensor, Tensor]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
