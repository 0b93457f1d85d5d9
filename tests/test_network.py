"""Native perceptrons and marching against their twins, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fieldpress.fields import _native, _reference, nerf
from fieldpress.fields.network import layers, new_weights, perceptron

SIZES = [0, 1, 63, 64, 65, 200]


@pytest.fixture(params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


@pytest.mark.parametrize("widths", [[32, 64, 64, 3], [1, 1], [20, 32, 16], [5, 7, 13, 11, 4]])
def test_a_perceptron_is_its_layers(isa: str, widths: list[int]) -> None:
    weights = new_weights(widths, 1)
    for count in SIZES:
        x = torch.randn(widths[0], count, generator=torch.Generator().manual_seed(count))
        want = layers(x.double(), [w.double() for w in weights])[-1]
        torch.testing.assert_close(perceptron(x, weights).double(), want, rtol=1e-4, atol=1e-5)


def test_the_widest_perceptron(isa: str) -> None:
    weights = new_weights([_native.MAX_NEURONS] * 3, 1)
    x = torch.randn(_native.MAX_NEURONS, 70, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(perceptron(x, weights), layers(x, weights)[-1], rtol=0, atol=1e-4)


def rays(count: int) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(4)
    origins = 0.5 + 1.2 * torch.randn(count, 3, generator=rng)
    aims = torch.rand(count, 3, generator=rng) * 1.4 - 0.2
    rays_d = torch.nn.functional.normalize(aims - origins, dim=1)
    if count > 2:
        rays_d[0], rays_d[1] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, -1.0])
    cells = torch.rand(nerf.CELL_SIDE**3, generator=rng) < 0.4
    return origins, rays_d, cells, torch.rand(count, generator=rng)


@pytest.mark.parametrize("count", [0, 1, 37, 2500])
@pytest.mark.parametrize("threads", [1, 3])
def test_marching_is_the_twins(isa: str, count: int, threads: int) -> None:
    """In double precision but for a few steps at the face of a cell."""
    given = rays(count)
    torch.set_num_threads(threads)
    try:
        found = nerf.march(*given)
    finally:
        torch.set_num_threads(1)
    points, ray = _reference.march(*given)
    counts = [torch.bincount(r, minlength=count) for r in (found.ray, ray)]
    assert int((counts[0] - counts[1]).abs().sum()) <= 1 + len(ray) // 10_000
    assert (found.ray[1:] >= found.ray[:-1]).all()
    same = (counts[0] == counts[1])[found.ray], (counts[0] == counts[1])[ray]
    error = (found.points[same[0]] - points[same[1]]).abs()
    assert int((error > 1e-5).any(1).sum()) <= 2 * (1 + len(ray) // 10_000)
    assert count < 2 or len(ray) > 20 * count


def test_shapes_that_do_not_fit_are_refused() -> None:
    origins, rays_d, cells, jitter = rays(5)
    for wrong in ((origins[1:], rays_d, cells, jitter), (origins, rays_d, cells[1:], jitter)):
        with pytest.raises(ValueError, match="unexpected shape"):
            nerf.march(*wrong)
    with pytest.raises(ValueError, match="weights: unexpected shape"):
        perceptron(torch.zeros(3, 5), new_weights([4, 2], 0))
