"""The native encodings against their twin, the laws that they obey, and the lazy optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fieldpress.fields import _native, _reference
from fieldpress.fields.encoding import LazyAdam, encode, new_table
from fieldpress.fields.levels import LATTICES, Encoding

OTYPES = ["HashGrid", "KuhnGrid", "SimplexGrid", "PermutoGrid"]
SIZES = [0, 1, 63, 64, 65, 200]


@pytest.fixture(params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


def small(dims: int, otype: str, features: int = 2, log2_rows: int = 10) -> Encoding:
    """Four levels, dense ones and hashed ones."""
    return Encoding(dims, otype, 4, features, log2_rows, 4, 1.7)


def pair(encoding: Encoding, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    points = torch.rand(count, encoding.dims, generator=rng)
    return points, torch.randn(encoding.rows, encoding.features, generator=rng)


@pytest.mark.parametrize("dims", [2, 3, 4])
@pytest.mark.parametrize("otype", OTYPES)
def test_values_and_gradients_are_the_twins(isa: str, otype: str, dims: int) -> None:
    encoding = small(dims, otype)
    points, table = pair(encoding, 300)
    x, t = points.clone().requires_grad_(), table.clone().requires_grad_()
    xd, td = points.double().requires_grad_(), table.double().requires_grad_()
    got, want = encode(encoding, x, t), _reference.encode(encoding, xd, td)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    (got * upstream).sum().backward()
    (want * upstream).sum().backward()
    assert x.grad is not None
    assert t.grad is not None
    torch.testing.assert_close(got.double(), want, rtol=0, atol=5e-5)
    torch.testing.assert_close(t.grad.double(), td.grad, rtol=0, atol=5e-5)
    torch.testing.assert_close(x.grad.double(), xd.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3, 4])
def test_equal_parts_are_taken_in_their_order(isa: str, dims: int) -> None:
    """On the faces between simplices the slope is that of the simplex of a stable sort."""
    encoding = small(dims, "KuhnGrid")
    points, table = pair(encoding, 100)
    points[:40] = points[:40, :1]
    points[40:70, 1] = points[40:70, 0]
    points[70:, -1] = points[70:, 0]
    x, xd = points.clone().requires_grad_(), points.double().requires_grad_()
    encode(encoding, x, table).square().sum().backward()
    _reference.encode(encoding, xd, table.double()).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), xd.grad, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("count", SIZES)
def test_sizes_and_features(isa: str, features: int, count: int) -> None:
    encoding = small(3, "SimplexGrid", features)
    points, table = pair(encoding, count)
    t = table.clone().requires_grad_()
    td = table.double().requires_grad_()
    got, want = encode(encoding, points, t), _reference.encode(encoding, points.double(), td)
    assert got.shape == (encoding.width, count)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=5e-5)
    got.square().sum().backward()
    want.square().sum().backward()
    assert t.grad is not None
    torch.testing.assert_close(t.grad.double(), td.grad, rtol=0, atol=1e-3)


@pytest.mark.parametrize("otype", OTYPES)
def test_the_number_of_threads_changes_no_bit(otype: str) -> None:
    encoding = small(3, otype)
    points, table = pair(encoding, 1000)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            x, t = points.clone().requires_grad_(), table.clone().requires_grad_()
            features = encode(encoding, x, t)
            features.square().sum().backward()
            found.append((features.detach(), x.grad, t.grad))
        finally:
            torch.set_num_threads(1)
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dims", [2, 3, 4])
@pytest.mark.parametrize("otype", OTYPES)
def test_a_constant_table_gives_its_constant(otype: str, dims: int) -> None:
    """Weights add up to one."""
    encoding = small(dims, otype)
    points, table = pair(encoding, 100)
    features = encode(encoding, points, torch.full_like(table, 0.75))
    torch.testing.assert_close(features, torch.full_like(features, 0.75))


@pytest.mark.parametrize("otype", ["DenseGrid", "KuhnGrid", "SimplexGrid"])
def test_a_linear_function_on_dense_levels_is_reproduced(otype: str) -> None:
    encoding = Encoding(2, otype, 1, 1, 12, 20, 1.0)
    level = encoding.level[0]
    y, x = torch.meshgrid(torch.arange(level.side), torch.arange(level.side), indexing="ij")
    table = torch.zeros(encoding.rows, 1)
    table[: level.side**2, 0] = (2.0 * x - 3.0 * y).flatten()
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 0.9
    u = level.scale * points + 0.5
    if otype == "SimplexGrid":
        u = u + 0.3660254 * u.sum(1, keepdim=True)
    want = 2 * u[:, 0] - 3 * u[:, 1]
    torch.testing.assert_close(encode(encoding, points, table)[0], want, rtol=0, atol=1e-3)


def test_levels_and_rows_are_those_of_tiny_cuda_nn() -> None:
    """Worked out by hand from its formula: scale = base 2^l - 1, side = ceil(scale) + 1."""
    encoding = Encoding.of({"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 14}, 3)
    assert [level.scale for level in encoding.level] == [15, 31, 63, 127]
    assert [level.side for level in encoding.level] == [16, 32, 64, 128]
    assert [level.rows for level in encoding.level] == [4096, 1 << 14, 1 << 14, 1 << 14]
    assert encoding.first_rows == (0, 4096, 20480, 36864, 53248)


def test_the_row_of_a_corner_is_that_of_tiny_cuda_nn() -> None:
    """At a corner the weight is 1: dense x fastest; else the xor of coordinates times primes."""
    encoding = Encoding.of({"n_levels": 2, "log2_hashmap_size": 13, "n_features_per_level": 1}, 3)
    corner = torch.tensor([3.0, 7.0, 11.0])
    for number, level in enumerate(encoding.level):
        point = ((corner - 0.5) / level.scale)[None]
        table = torch.arange(encoding.rows, dtype=torch.float32)[:, None]
        dense = 3 + 7 * 16 + 11 * 256
        hashed = (3 ^ (7 * 2654435761) ^ (11 * 805459861)) % (1 << 13)
        row = encode(encoding, point, table)[number, 0] - encoding.first_rows[number]
        assert float(row) == pytest.approx(dense if number == 0 else hashed, abs=0.1)


@pytest.mark.parametrize("otype", OTYPES)
def test_points_outside_and_nan_are_taken_in(isa: str, otype: str) -> None:
    encoding = small(3, otype)
    table = pair(encoding, 1)[1]
    wild = torch.tensor([[-1e30, 0.5, 2.0], [float("nan"), float("inf"), -float("inf")]])
    tame = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 0.0]])
    assert torch.equal(encode(encoding, wild, table), encode(encoding, tame, table))


@pytest.mark.parametrize("otype", OTYPES)
@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_packed_tables_give_what_their_values_give(isa: str, otype: str, features: int) -> None:
    encoding = small(3, otype, features)
    points, table = pair(encoding, 70)
    half = table.half()
    expected = encode(encoding, points, half.float())
    torch.testing.assert_close(encode(encoding, points, half), expected, rtol=1e-5, atol=1e-5)
    steps = torch.tensor([0.5, 0.25, 2.0, 1.0])
    of_row = steps.repeat_interleave(torch.tensor([level.rows for level in encoding.level]))
    small_ints = (20 * table).round().clamp(-127, 127).to(torch.int8)
    expected = encode(encoding, points, small_ints * of_row[:, None])
    got = encode(encoding, points, small_ints, steps)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    ones = (table > 0).flatten()
    weights = 2 ** torch.arange(8)
    packed = (ones.reshape(-1, 8) * weights).sum(1).to(torch.uint8)
    signs = (2.0 * ones.reshape(table.shape) - 1) * of_row[:, None]
    got = encode(encoding, points, packed, steps)
    torch.testing.assert_close(got, encode(encoding, points, signs), rtol=1e-4, atol=1e-4)


def test_lazy_adam_is_torchs_sparse_adam(isa: str) -> None:
    encoding = small(2, "SimplexGrid")
    points, table = pair(encoding, 40)
    twin = torch.nn.Parameter(table.clone())
    theirs = torch.optim.SparseAdam([twin], lr=0.01, betas=(0.9, 0.99), eps=1e-15)
    ours = LazyAdam(encoding, table)
    for step in range(4):
        points = pair(encoding, 40, seed=step)[0]
        upstream = torch.randn(encoding.width, 40, generator=torch.Generator().manual_seed(step))
        ours.accumulate(points, upstream)
        gradient = ours.grad.clone()
        twin.grad = gradient.to_sparse(1)
        theirs.step()
        ours.step(0.01)
        assert not ours.grad.any()
    torch.testing.assert_close(table, twin.detach(), rtol=1e-5, atol=1e-6)
    untouched = pair(encoding, 40)[1] == table
    assert untouched.any()  # Rows that no point met stayed.


@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 30, 5000])
@pytest.mark.parametrize("threads", [1, 3])
def test_update_is_accumulate_and_step(features: int, count: int, threads: int) -> None:
    """Also where two levels share a line, and where a level is marked as a whole."""
    encoding = small(2, "HashGrid", features)
    points, table = pair(encoding, count)
    tables = [table.clone(), table.clone()]
    first, second = (LazyAdam(encoding, t) for t in tables)
    for step in range(2):
        upstream = torch.randn(encoding.width, count, generator=torch.Generator().manual_seed(step))
        first.accumulate(points, upstream)
        first.step(0.01)
        torch.set_num_threads(threads)
        try:
            second.update(points, upstream, 0.01)
        finally:
            torch.set_num_threads(1)
    assert torch.equal(tables[0], tables[1])
    assert not second.grad.any()
    assert count == 0 or not torch.equal(tables[0], table)


def test_update_takes_what_waits_along() -> None:
    encoding = small(2, "HashGrid")
    points, table = pair(encoding, 200)
    upstream = torch.randn(encoding.width, 200, generator=torch.Generator().manual_seed(0))
    tables = [table.clone(), table.clone()]
    first, second = (LazyAdam(encoding, t) for t in tables)
    first.accumulate(points, upstream)
    first.accumulate(1 - points, upstream)
    first.step(0.01)
    second.accumulate(points, upstream)
    second.update(1 - points, upstream, 0.01)
    assert torch.equal(tables[0], tables[1])
    assert not second.grad.any()


def test_lazy_adam_learns() -> None:
    encoding = small(2, "HashGrid")
    points = pair(encoding, 256)[0]
    wanted = (6 * points[:, 0]).sin()
    table = new_table(encoding)
    optimiser = LazyAdam(encoding, table)
    errors = []
    for _ in range(60):
        features = encode(encoding, points, table)
        error = features.sum(0) - wanted
        errors.append(float(error.square().mean()))
        optimiser.update(points, (2 * error / len(error)).expand(features.shape), 0.02)
    assert errors[-1] < 1e-3 < errors[0]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"n_level": 4}, "n_level"),
        ({"otype": "TiledGrid"}, "TiledGrid"),
        ({"interpolation": "Smoothstep"}, "interpolation"),
        ({"n_levels": 33}, "levels"),
        ({"n_levels": 2.5}, "n_levels"),
        ({"n_levels": "4"}, "n_levels"),
        ({"n_features_per_level": 3}, "features"),
        ({"log2_hashmap_size": 40}, "log2_hashmap_size"),
        ({"base_resolution": 0}, "base_resolution"),
        ({"per_level_scale": float("nan")}, "per_level_scale"),
        ({"per_level_scale": 10.0}, "per_level_scale"),
    ],
)
def test_impossible_configurations_are_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Encoding.of(config, 3)


@pytest.mark.parametrize("otype", LATTICES)
def test_a_configuration_survives_a_round_trip(otype: str) -> None:
    encoding = Encoding(2, otype, 3, 4, 9, 5, 1.5)
    assert Encoding.of(encoding.config(), 2) == encoding


def test_arguments_that_do_not_fit_are_refused_by_name() -> None:
    encoding = small(3, "HashGrid")
    points, table = pair(encoding, 5)
    for wrong, named in [
        ((points[:, :2], table), "points"),
        ((points.double(), table), "points"),
        ((points, table[1:]), "table"),
        ((points, table.double()), "table"),
        ((points, table, torch.ones(4)), "steps"),
        ((points, table.to(torch.int8)), "steps"),
    ]:
        with pytest.raises(ValueError, match=named):
            encode(encoding, *wrong)


@pytest.mark.parametrize("dims", [2, 3, 4])
@pytest.mark.parametrize("otype", OTYPES)
def test_second_derivatives_are_the_twins(isa: str, otype: str, dims: int) -> None:
    """Of a loss of both gradients, with respect to points, table and upstream."""
    encoding = small(dims, otype)
    points, table = pair(encoding, 130)
    upstream = torch.randn(encoding.width, 130, generator=torch.Generator().manual_seed(1))
    of_slopes = torch.randn(points.shape, generator=torch.Generator().manual_seed(2))
    of_rows = torch.randn(table.shape, generator=torch.Generator().manual_seed(3))
    found = []
    for call, dtype in ((encode, torch.float32), (_reference.encode, torch.float64)):
        x, t, g = (v.to(dtype).requires_grad_() for v in (points, table, upstream))
        first = torch.autograd.grad((call(encoding, x, t) * g).sum(), (x, t), create_graph=True)
        loss = sum(
            (a * b.to(dtype)).sum() for a, b in zip(first, (of_slopes, of_rows), strict=True)
        )
        found.append(torch.autograd.grad(loss, (x, t, g), allow_unused=True))
    for got, want, scale in zip(*found, (20.0, 1.0, 1.0), strict=True):
        assert got is not None
        wanted = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got.double(), wanted.double(), rtol=1e-4, atol=1e-3 * scale)
    assert found[0][1].abs().max() > 1  # Something was asked.


@pytest.mark.parametrize("otype", OTYPES)
def test_the_twins_derivatives_are_differences(otype: str) -> None:
    encoding = Encoding(2, otype, 2, 2, 5, 3, 1.7)
    rng = torch.Generator().manual_seed(5)
    x = torch.rand(6, 2, generator=rng, dtype=torch.float64).requires_grad_()
    t = torch.randn(encoding.rows, 2, generator=rng, dtype=torch.float64).requires_grad_()

    def call(points: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return _reference.encode(encoding, points, table)

    assert torch.autograd.gradcheck(call, (x, t))
    assert torch.autograd.gradgradcheck(call, (x, t))


def test_a_third_derivative_is_refused() -> None:
    encoding = small(2, "HashGrid")
    points, table = pair(encoding, 5)
    x = points.requires_grad_()
    features = encode(encoding, x, table)
    (first,) = torch.autograd.grad(features.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()
