"""Fields on CUDA, run on the CPU from the kernels' own source, against twins in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fieldpress.fields import _reference, encoding, encoding_cuda, nerf, nerf_cuda, network_cuda
from fieldpress.fields.encoding import LazyAdam, encode
from fieldpress.fields.levels import Encoding
from fieldpress.fields.network import Network, layers, new_weights

OTYPES = ["HashGrid", "KuhnGrid", "SimplexGrid", "PermutoGrid"]
SIZES = [0, 1, 255, 257]


def small(dims: int, otype: str, features: int = 2, log2_rows: int = 10) -> Encoding:
    """Four levels, dense ones and hashed ones."""
    return Encoding(dims, otype, 4, features, log2_rows, 4, 1.7)


def pair(of: Encoding, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    points = torch.rand(count, of.dims, generator=rng)
    return points, torch.randn(of.rows, of.features, generator=rng)


def use(monkeypatch: pytest.MonkeyPatch, kernels: Any) -> encoding_cuda.Backend:
    backend = encoding_cuda.Backend(kernels)
    monkeypatch.setattr(encoding, "backend_of", lambda device: backend)
    return backend


@pytest.fixture
def emulated(emulate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> encoding_cuda.Backend:
    """Encodings run the CUDA kernels in emulation."""
    return use(monkeypatch, emulate(encoding_cuda.LIBRARY))


def assert_parity(of: Encoding, count: int, dtype: torch.dtype = torch.float32) -> None:
    """Values, and gradients of a fixed linear form with respect to points and rows."""
    points, table = pair(of, count)
    table = table.to(dtype)
    x, t = points.clone().requires_grad_(), table.clone().requires_grad_()
    xd, td = points.double().requires_grad_(), table.double().requires_grad_()
    got, want = encode(of, x, t), _reference.encode(of, xd, td)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    (got * upstream).sum().backward()
    (want * upstream).sum().backward()
    assert x.grad is not None
    assert t.grad is not None
    assert t.grad.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0, atol=5e-5)
    coarse = 5e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(t.grad.double(), td.grad, rtol=0, atol=coarse)
    torch.testing.assert_close(x.grad.double(), xd.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3, 4])
@pytest.mark.parametrize("otype", OTYPES)
def test_values_and_gradients_are_the_twins(emulated: Any, otype: str, dims: int) -> None:
    assert_parity(small(dims, otype), 300)


@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_sizes_features_and_half_rows(emulated: Any, features: int) -> None:
    for count in SIZES:
        assert_parity(small(3, "SimplexGrid", features), count)
        assert_parity(small(3, "SimplexGrid", features), count, torch.float16)


def new_network(
    of: Encoding, widths: list[int], dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    weights = new_weights([of.width, *widths], 3)
    return pair(of, 1)[1].to(dtype), weights


@pytest.mark.parametrize(
    ("otype", "widths"),
    [("SimplexGrid", [64, 64, 3]), ("HashGrid", [32, 16]), ("PermutoGrid", [10, 10, 1])],
)
def test_a_fused_network_is_its_parts(emulated: Any, otype: str, widths: list[int]) -> None:
    of = small(2, otype)
    for dtype in (torch.float32, torch.float16):
        table, weights = new_network(of, widths, dtype)
        for count in SIZES:
            points = pair(of, count)[0]
            got = network_cuda.evaluate(emulated, of, table, weights, points)
            features = _reference.encode(of, points.double(), table.double())
            want = layers(features, [w.double() for w in weights])[-1]
            assert got is not None
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("widths", [[64, 32, 3], [128, 3], [16, 16, 16, 3], [64, 17], [3]])
def test_networks_that_do_not_fit_one_kernel(emulated: Any, widths: list[int]) -> None:
    of = small(2, "HashGrid")
    table, weights = new_network(of, widths)
    assert network_cuda.evaluate(emulated, of, table, weights, pair(of, 5)[0]) is None


def rays(count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Origins around the cube, directions into it and past it, random cells, jitter."""
    rng = torch.Generator().manual_seed(seed)
    origins = 0.5 + 1.2 * torch.randn(count, 3, generator=rng)
    aims = torch.rand(count, 3, generator=rng) * 1.4 - 0.2
    rays_d = torch.nn.functional.normalize(aims - origins, dim=1)
    if count > 2:
        rays_d[0], rays_d[1] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, -1.0])
    cells = torch.rand(nerf.CELL_SIDE**3, generator=rng) < 0.4
    return origins, rays_d, cells, torch.rand(count, generator=rng)


@pytest.mark.parametrize("count", [0, 1, 255, 600])
def test_marching_is_the_twins(emulated: Any, count: int) -> None:
    origins, rays_d, cells, jitter = rays(count)
    points, ray = nerf_cuda.march(emulated, origins, rays_d, cells, jitter)
    want = nerf.march(origins, rays_d, cells, jitter)
    assert torch.equal(ray, want.ray)
    torch.testing.assert_close(points, want.points, rtol=0, atol=1e-6)
    assert count < 2 or len(ray) > 20 * count


def new_field(neurons: int = 16, hidden: int = 1, density: float = 30.0) -> nerf.NerfField:
    of = Encoding(3, "SimplexGrid", 3, 2, 9, 8, 1.6)
    table = pair(of, 1)[1]
    weights = list(new_weights([of.width, *[neurons] * hidden, nerf.GEOMETRY], 1))
    weights[-1][0] *= density**0.5
    head = new_weights([nerf.NerfField.head_inputs, *[neurons] * hidden, 3], 2)
    cells = rays(0)[2]
    return nerf.NerfField(Network(of, table, tuple(weights)), head, cells, (0, 0, 0), 1.0)


@pytest.mark.parametrize(("neurons", "hidden"), [(16, 1), (20, 2)])
@pytest.mark.parametrize("count", [0, 1, 37])
def test_pictures_are_the_twins(emulated: Any, count: int, neurons: int, hidden: int) -> None:
    field = new_field(neurons, hidden)
    origins, rays_d, _, _ = rays(count)
    got = nerf_cuda.colors(emulated, field, origins, rays_d)
    assert got is not None
    assert got.shape == (count, 3)
    if count:
        want = field._marched(origins, rays_d)
        assert float((got - want).abs().max()) < 2e-4
        assert count == 1 or float(want.max()) > 0.1


def test_a_field_that_does_not_fit_one_kernel(emulated: Any) -> None:
    origins, rays_d, _, _ = rays(3)
    assert nerf_cuda.colors(emulated, new_field(100), origins, rays_d) is None
