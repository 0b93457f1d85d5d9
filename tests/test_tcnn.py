"""tiny-cuda-nn's adapter, against a stand-in that reads flat parameters as it does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch

from fieldpress.fields import tcnn
from fieldpress.fields.encoding import encode, new_table
from fieldpress.fields.levels import Encoding
from fieldpress.fields.network import layers, new_weights

ENCODING = Encoding(3, "HashGrid", 5, 2, 8, 4, 1.5)


class StandIn(torch.nn.Module):
    """NetworkWithInputEncoding by tiny-cuda-nn's documentation: the network's matrices come first,
    row-major, inputs and outputs in whole sixteens; then the levels' rows."""

    def __init__(self, n_in: int, n_out: int, encoding: dict[str, Any], network: dict[str, Any]):
        super().__init__()
        self.encoding = Encoding.of(encoding, n_in)
        assert network["otype"] == "FullyFusedMLP"
        wide = network["n_neurons"]
        widths = [self.encoding.width, *[wide] * network["n_hidden_layers"], n_out]
        full = [-(-w // 16) * 16 for w in widths]
        self.shapes = [(b, a) for a, b in pairwise(full)]
        self.n_out = n_out
        count = sum(a * b for a, b in self.shapes) + 2 * self.encoding.rows
        self.params = torch.nn.Parameter(torch.randn(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at, matrices = 0, []
        for rows, columns in self.shapes:
            matrices.append(self.params[at : at + rows * columns].reshape(rows, columns))
            at += rows * columns
        table = self.params[at:].reshape(-1, 2)
        features = encode(self.encoding, x, table)
        ones = torch.ones(self.shapes[0][1] - len(features), features.shape[1])
        return layers(torch.cat([features, ones]), matrices)[-1][: self.n_out].T.half()


@pytest.fixture
def fresh() -> Iterator[None]:
    tcnn.module.cache_clear()
    yield
    tcnn.module.cache_clear()


@pytest.fixture
def installed(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("tinycudann")
    fake.NetworkWithInputEncoding = StandIn  # pyright: ignore
    monkeypatch.setitem(sys.modules, "tinycudann", fake)


@pytest.mark.parametrize("widths", [[128, 128, 128, 3], [16, 17]])
def test_parameters_arrive_where_they_belong(installed: None, widths: list[int]) -> None:
    table, weights = 1e4 * new_table(ENCODING), new_weights([ENCODING.width, *widths], 0)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    got = tcnn.evaluate(ENCODING, table, weights, points)
    assert got is not None
    want = layers(encode(ENCODING, points, table), weights)[-1]
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("otype", "base", "widths"),
    [("SimplexGrid", 4, [64, 3]), ("HashGrid", 4.5, [64, 3]), ("HashGrid", 4, [48, 3]),
     ("HashGrid", 4, [64, 32, 3]), ("HashGrid", 4, [3])],
)  # fmt: skip
def test_what_it_has_no_network_for(
    installed: None, otype: str, base: float, widths: list[int]
) -> None:
    encoding = Encoding(3, otype, 5, 2, 8, base, 1.5)
    weights = new_weights([encoding.width, *widths], 0)
    points = torch.rand(4, 3)
    assert tcnn.evaluate(encoding, new_table(encoding), weights, points) is None


@pytest.mark.parametrize("error", [ImportError("none"), OSError("Unknown compute capability")])
def test_an_import_that_fails_is_no_failure(
    fresh: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(tcnn.importlib, "import_module", refuse)
    assert tcnn.module() == f"tinycudann: {error}"
    weights = new_weights([ENCODING.width, 64, 3], 0)
    assert tcnn.evaluate(ENCODING, new_table(ENCODING), weights, torch.rand(4, 3)) is None


def test_another_layout_is_refused(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = new_weights([ENCODING.width, 64, 3], 0)
    with pytest.raises(ValueError, match="table: expected"):
        tcnn.network(ENCODING, new_table(ENCODING)[:-1], weights)
