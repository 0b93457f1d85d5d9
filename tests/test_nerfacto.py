"""nerfacto's checkpoints: read, rounded to what networks say, given back to nerfstudio."""

from __future__ import annotations

import io
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.fields import nerfacto_codec
from fieldpress.fields.nerfacto import NerfactoFields, nerfacto_of
from fieldpress.quant import container
from fieldpress.quant.torch_archive import TorchArchive

LEVELS, LOG2, FINEST = 4, 8, 64
MAIN = "_model.field.mlp_base.model."
FIRST = "_model.proposal_networks.0."


def pipeline(seed: int = 0) -> OrderedDict[str, Any]:
    """The state of a small nerfacto of 1.1.5, by its names; what it has twice is twice in it."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.nn.Parameter(torch.randn(*shape, generator=rng))

    def numbers(prefix: str, finest: int) -> dict[str, Tensor]:
        values = {"max_res": finest, "num_levels": LEVELS, "log2_hashmap_size": LOG2}
        return {prefix + key: torch.tensor(value) for key, value in values.items()}

    box, table = torch.randn(2, 3, generator=rng), normal(LEVELS << LOG2, 2)
    return OrderedDict(
        {"_model.field.aabb": box, **numbers("_model.field.", FINEST),
         "_model.field.embedding_appearance.embedding.weight": normal(5, 3),
         MAIN + "0.hash_table": normal(LEVELS << LOG2, 2),
         MAIN + "1.layers.0.weight": normal(8, 2 * LEVELS), MAIN + "1.layers.0.bias": normal(8),
         MAIN + "1.layers.1.weight": normal(6, 8), MAIN + "1.layers.1.bias": normal(6),
         FIRST + "aabb": box, **numbers(FIRST, 32),
         FIRST + "encoding.hash_table": table, FIRST + "mlp_base.0.hash_table": table,
         FIRST + "mlp_base.1.layers.0.weight": normal(1, 2 * LEVELS),
         FIRST + "mlp_base.1.layers.0.bias": normal(1),
         "_model.occupancy_grid.binaries": torch.rand(1, 4, 4, 4, generator=rng) < 0.5}
    )  # fmt: skip


def saved(state: Any) -> bytes:
    out = io.BytesIO()
    torch.save({"step": 7, "pipeline": state, "optimizers": {"x": torch.zeros(3)}}, out)
    return out.getvalue()


def read(state: Any) -> NerfactoFields:
    found = nerfacto_of(TorchArchive(saved(state), name="a.ckpt"))
    assert found is not None
    return found


def peer(table: Tensor, finest: int, points: Tensor) -> Tensor:
    """nerfstudio 1.1.5's HashEncoding.pytorch_fwd, corner by corner in its own order."""
    growth = math.exp((math.log(finest) - math.log(16)) / (LEVELS - 1))
    scalings = torch.floor(16 * growth ** torch.arange(LEVELS))
    scaled = points[:, None, :] * scalings[:, None]
    high, low = torch.ceil(scaled).int(), torch.floor(scaled).int()
    part = scaled - low

    def rows(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        cell = torch.stack([x[..., 0], y[..., 1], z[..., 2]], -1)
        cell = cell * torch.tensor([1, 2654435761, 805459861])
        index = (cell[..., 0] ^ cell[..., 1] ^ cell[..., 2]) % (1 << LOG2)
        return table[index + torch.arange(LEVELS) * (1 << LOG2)]

    x, y, z = part[..., 0:1], part[..., 1:2], part[..., 2:3]
    near = (rows(high, high, high) * x + rows(low, high, high) * (1 - x)) * y + (
        rows(high, low, high) * x + rows(low, low, high) * (1 - x)) * (1 - y)  # fmt: skip
    far = (rows(high, high, low) * x + rows(low, high, low) * (1 - x)) * y + (
        rows(high, low, low) * x + rows(low, low, low) * (1 - x)) * (1 - y)  # fmt: skip
    return (near * z + far * (1 - z)).flatten(1)


def test_networks_say_what_nerfstudios_formula_says() -> None:
    state = pipeline()
    model, points = read(state), torch.rand(300, 3, generator=torch.Generator().manual_seed(1))
    assert list(model.tables) == [MAIN + "0.hash_table", FIRST + "encoding.hash_table"]
    with torch.no_grad():
        x = peer(state[MAIN + "0.hash_table"], FINEST, points)
        x = (x @ state[MAIN + "1.layers.0.weight"].T + state[MAIN + "1.layers.0.bias"]).relu()
        want = x @ state[MAIN + "1.layers.1.weight"].T + state[MAIN + "1.layers.1.bias"]
        torch.testing.assert_close(model.outputs(MAIN + "0.hash_table", points), want, atol=1e-4,
                                   rtol=1e-4)  # fmt: skip
        x = peer(state[FIRST + "encoding.hash_table"], 32, points)
        layer = FIRST + "mlp_base.1.layers.0."
        want = x @ state[layer + "weight"].T + state[layer + "bias"]
    found = model.outputs(FIRST + "encoding.hash_table", points)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_a_file_keeps_all_but_the_tables_bit_by_bit() -> None:
    model = read(pipeline())
    steps = nerfacto_codec.steps_for(model, 40)
    data = nerfacto_codec.encode(model, steps, model.extra)
    decoded = nerfacto_codec.decode(data)
    want = nerfacto_codec.rounded(model, steps)
    assert {n: t.rows.tolist() for n, t in decoded.tables.items()} == {
        n: t.rows.tolist() for n, t in want.tables.items()
    }
    for name, tensor in model.rest.items():
        assert decoded.rest[name].dtype == tensor.dtype
        assert torch.equal(decoded.rest[name], tensor)
    assert (decoded.aliases, decoded.extra) == (model.aliases, model.extra)
    for name, psnr in nerfacto_codec.measured(model, decoded).items():
        assert 38 < psnr < 50, name
    coarse = nerfacto_codec.encode(model, nerfacto_codec.steps_for(model, 25), {})
    assert len(coarse) < 0.8 * len(data)


def test_the_command_gives_nerfstudio_its_names_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = pipeline()
    source, file, back = (tmp_path / name for name in ("a.ckpt", "a.fpz", "b.ckpt"))
    source.write_bytes(saved(state))
    assert main(["compress", str(source), "-o", str(file), "--target-db", "45", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert min(report["psnr_outputs"].values()) > 43
    assert report["ratio"] > 1.2
    assert main(["info", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][MAIN + "0.hash_table"]["levels"] == LEVELS
    assert main(["decompress", str(file), "-o", str(back)]) == 0
    found = torch.load(back, weights_only=True)
    assert found["step"] == 7
    assert set(found["pipeline"]) == set(state)
    for name, tensor in found["pipeline"].items():
        assert tensor.shape == state[name].shape
        assert name.endswith("hash_table") or torch.equal(tensor, state[name].detach())
    twice = found["pipeline"][FIRST + "mlp_base.0.hash_table"]
    assert torch.equal(twice, found["pipeline"][FIRST + "encoding.hash_table"])
    capsys.readouterr()
    for verb in (["render", str(file), "-o", str(tmp_path / "x"), "--orbit", "1"],
                 ["convert", str(file), str(tmp_path / "x.ply")],
                 ["eval", str(file), "--reference", str(source)]):  # fmt: skip
        assert main(verb) == 1
        assert "nerfacto" in capsys.readouterr().err


CHANGES: dict[str, Any] = {
    "5 levels": lambda s: s.update({"_model.field.num_levels": torch.tensor(5)}),
    "max_res": lambda s: s.pop("_model.field.max_res"),
    "finite": lambda s: s.update({MAIN + "1.layers.0.bias": torch.full((8,), math.nan)}),
    "power of two": lambda s: s.update({MAIN + "0.hash_table": torch.zeros(12, 2)}),
    "a network behind": lambda s: s.pop(MAIN + "1.layers.0.weight"),
    "float32, int64": lambda s: s.update({"_model.x": torch.zeros(3, dtype=torch.int16)}),
}


@pytest.mark.parametrize("named", CHANGES)
def test_what_does_not_fit_is_refused_by_name(named: str) -> None:
    state = pipeline()
    CHANGES[named](state)
    with pytest.raises(ValueError, match=f"a.ckpt: .*{named}") as caught:
        models.load_bytes(saved(state), "a.ckpt")
    assert "\n" not in str(caught.value)


def test_damage_ends_in_one_line() -> None:
    model = read(pipeline())
    steps = {name: (0.5,) * LEVELS for name in model.tables}
    data = nerfacto_codec.encode(model, steps, {})
    found = container.read(data)
    for key, value in (("tables", 3), ("rest", [[1, 2, 3]]), ("aliases", {"a": "b"})):
        layout = found.header["layout"] | {key: value}
        changed = container.write(found.header | {"layout": layout}, found.sections)
        with pytest.raises(ValueError, match=r"^x: header"):
            nerfacto_codec.decode(changed, name="x")
    for number in range(len(found.sections)):
        fewer = found.sections[:number] + found.sections[number + 1 :]
        with pytest.raises(ValueError, match=r"^x: header"):
            nerfacto_codec.decode(container.write(found.header, fewer), name="x")
