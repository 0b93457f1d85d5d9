"""Fields on CUDA, run on the CPU from the kernels' own source, against twins in double."""

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


@pytest.mark.parametrize("features", [1, 2, 8])
def test_packed_rows_give_what_the_cpu_gives(
    emulate: Any, monkeypatch: pytest.MonkeyPatch, features: int
) -> None:
    of = small(3, "KuhnGrid", features)
    points, table = pair(of, 70)
    steps = torch.tensor([0.5, 0.25, 2.0, 1.0])
    small_ints = (20 * table).round().clamp(-127, 127).to(torch.int8)
    bits = ((table > 0).flatten().reshape(-1, 8) * 2 ** torch.arange(8)).sum(1).to(torch.uint8)
    want = [encode(of, points, rows, steps) for rows in (small_ints, bits)]
    use(monkeypatch, emulate(encoding_cuda.LIBRARY))
    got = [encode(of, points, rows, steps) for rows in (small_ints, bits)]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)


def test_the_optimiser_takes_the_cpus_steps(emulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    of = small(2, "SimplexGrid")
    table = pair(of, 1)[1]
    tables = [table.clone(), table.clone()]
    for rows in tables:
        optimiser = LazyAdam(of, rows)
        for step in range(3):
            points = pair(of, 40, seed=step)[0]
            rng = torch.Generator().manual_seed(step)
            optimiser.update(points, torch.randn(of.width, 40, generator=rng), 0.01)
        assert not optimiser.grad.any()
        use(monkeypatch, emulate(encoding_cuda.LIBRARY))
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-4, atol=1e-6)
    assert (tables[0] == table).any()
    assert not torch.equal(tables[0], table)


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_threads_changes_nothing(
    emulate: Any, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    found = []
    for turn in (0, order):
        backend = use(monkeypatch, emulate(encoding_cuda.LIBRARY, order=turn))
        origins, rays_d, cells, jitter = rays(300)
        found.append([
            *nerf_cuda.march(backend, origins, rays_d, cells, jitter),
            nerf_cuda.colors(backend, new_field(), origins[:20], rays_d[:20]),
        ])  # fmt: skip
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_tables_in_the_middle_of_16_bytes(emulated: Any) -> None:
    of = small(2, "HashGrid", 4)
    points, table = pair(of, 9)
    room = torch.zeros(table.numel() + 1)
    room[1:] = table.flatten()
    assert torch.equal(encode(of, points, room[1:].reshape(table.shape)), encode(of, points, table))


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
    want = _reference.march(origins, rays_d, cells, jitter)
    assert torch.equal(ray, want[1])
    torch.testing.assert_close(points, want[0], rtol=0, atol=1e-6)
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


def check_fields(backend: encoding_cuda.Backend) -> None:
    """One small case of every kernel."""
    assert_parity(small(3, "SimplexGrid"), 300)
    assert_parity(small(2, "HashGrid"), 300)
    of = small(2, "SimplexGrid")
    (points, _), (table, weights) = pair(of, 300), new_network(of, [16, 16, 3])
    got = network_cuda.evaluate(backend, of, table, weights, points)
    assert got is not None
    want = layers(_reference.encode(of, points, table), weights)[-1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    origins, rays_d, cells, jitter = rays(300)
    places, ray = nerf_cuda.march(backend, origins, rays_d, cells, jitter)
    samples = _reference.march(origins, rays_d, cells, jitter)
    assert torch.equal(ray, samples[1])
    torch.testing.assert_close(places, samples[0], rtol=0, atol=1e-6)
    field, few = new_field(), rays(9)
    found = nerf_cuda.colors(backend, field, few[0], few[1])
    assert found is not None
    assert float((found - field._marched(few[0], few[1])).abs().max()) < 2e-4
    rows, mean, square, grad = (torch.zeros(7), torch.zeros(7), torch.zeros(7), torch.ones(7))
    backend.adam((rows, mean, square), (0.5, 0.0, 0.0, 1.0, 0.0), grad, rows, 1)
    assert rows.tolist() == [-0.5] * 7


MUTATIONS = [
    ("lattice_simd.h", "int end = N - 1; end > 0", "int end = N - 1; end > 1"),
    ("lattice_simd.h", "int i = N - 1; i >= 0; --i) {  //", "int i = N - 1; i > 0; --i) {  //"),
    ("kind.h", "f < F; ++f) sum[f] += weight", "f < F - 1; ++f) sum[f] += weight"),
    ("kind.h", "words[f / EACH] >>", "words[f / EACH + 1] >>"),
    ("encode.cu", "item.point >= count", "item.point + 1 >= count"),
    ("scatter.cu", "f < F; ++f) atomicAdd(row + f", "f < F - 1; ++f) atomicAdd(row + f"),
    ("slope.cu", "number < grid->count", "number < grid->count - 1"),
    ("adam.cu", "i < size;", "i + 1 < size;"),
    ("perceptron.h", "j < Net::NEURONS; j += 4", "j < Net::NEURONS - 4; j += 4"),
    ("network.cu", "o < Net::OUTPUTS", "o < Net::OUTPUTS - 1"),
    ("march.cu", "__ffs(static_cast<int>(bits)) - 1", "__ffs(static_cast<int>(bits))"),
    ("ray.h", "all<Floats>(CELL_SIDE - 1)", "all<Floats>(CELL_SIDE - 2)"),
    ("radiance.cu", "k < RADIANCE_BASES; ++k)", "k < RADIANCE_BASES - 1; ++k)"),
    ("radiance.cu", "((1u << lane()) - 1u)", "((2u << lane()) - 1u)"),
    ("radiance.cu", "pending[WARP + lane()]", "pending[WARP - 1 + lane()]"),
]


@pytest.mark.parametrize(("file", "old", "new"), MUTATIONS, ids=lambda text: text[:24])
def test_an_off_by_one_is_seen(
    emulate: Any, monkeypatch: pytest.MonkeyPatch, mutated: Any, outcome: Any, tmp_path: Any,
    file: str, old: str, new: str,
) -> None:  # fmt: skip
    """Every kernel: one number wrong, and values or gradients are."""
    library = mutated(encoding_cuda.LIBRARY, tmp_path, file, old, new)
    backend = use(monkeypatch, emulate(library))
    assert outcome(lambda: check_fields(backend)) != 0


def test_without_a_mutation_nothing_is_seen(emulated: Any, outcome: Any) -> None:
    assert outcome(lambda: check_fields(emulated)) == 0
