"""Fields on CUDA, run on the CPU from the kernels' own source, against twins in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fieldpress.fields import _reference, encoding, encoding_cuda
from fieldpress.fields.encoding import LazyAdam, encode
from fieldpress.fields.levels import Encoding

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
