"""Flat parameters of tiny-cuda-nn: where each of them lies, there and back."""

from __future__ import annotations

import pytest
import torch

from fieldpress.fields.levels import Encoding
from fieldpress.fields.network import Network, new_weights
from fieldpress.fields.tcnn_params import network_of, params_of, table_of

ENCODING = Encoding(3, "HashGrid", 8, 2, 9, 4, 1.5)


def test_parameters_lie_where_tiny_cuda_nn_has_them() -> None:
    matrices = 16 * 16 + 16 * 16 + 16 * 16  # The last has 3 outputs, padded to 16.
    params = torch.arange(matrices + 2 * ENCODING.rows).float()
    network = network_of(params, ENCODING, neurons=16, hidden=2, outputs=3)
    assert [tuple(w.shape) for w in network.weights] == [(16, 16), (16, 16), (3, 16)]
    assert network.weights[0][2, 5] == 2 * 16 + 5
    assert network.weights[2][1, 7] == 2 * 256 + 16 + 7
    assert network.table[0, 0] == matrices
    second = ENCODING.first_rows[1]
    assert second == 64  # 4^3 rows of a level of 4 points a side.
    assert network.table[second, 1] == matrices + 2 * second + 1
    assert torch.equal(table_of(params[matrices:], ENCODING), network.table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_there_and_back(dtype: torch.dtype) -> None:
    table = torch.randn(ENCODING.rows, 2, generator=torch.Generator().manual_seed(0))
    weights = new_weights([ENCODING.width, 32, 32, 5], 1)
    given = Network(ENCODING, table.to(dtype).float(), tuple(w.to(dtype).float() for w in weights))
    back = network_of(params_of(given).to(dtype), ENCODING, neurons=32, hidden=2, outputs=5)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(given(points), back(points))


def test_modules_of_another_layout_are_refused() -> None:
    params = torch.zeros(10)
    with pytest.raises(ValueError, match=r"params: expected \[\d+\], got \[10\]"):
        network_of(params, ENCODING, neurons=16, hidden=1, outputs=3)
    with pytest.raises(ValueError, match="neurons"):
        network_of(params, ENCODING, neurons=24, hidden=1, outputs=3)
    with pytest.raises(ValueError, match="SimplexGrid"):
        table_of(params, Encoding(3, "SimplexGrid", 8, 2, 9, 4))


def test_narrow_features_are_padded():
    narrow = Encoding(3, "HashGrid", 5, 2, 9, 4)
    weights = new_weights([narrow.width, 16, 3], 0)
    table = torch.randn(narrow.rows, narrow.features)
    params = params_of(Network(narrow, table, tuple(weights)))
    assert len(params) == 16 * 16 + 16 * 16 + table.numel()
    again = network_of(params, narrow, neurons=16, hidden=1, outputs=3)
    for ours, theirs in zip(again.weights, weights, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(again.table, table)
