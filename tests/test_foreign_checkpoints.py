"""Checkpoints of other programs: what torch.save wrote is read as it was, nothing of it runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.fields.checkpoint import encoding_numbers, in_frame
from fieldpress.fields.levels import Encoding
from fieldpress.fields.nerf import GEOMETRY, NerfField
from fieldpress.fields.network import new_weights
from fieldpress.gaussians.checkpoint import SPLATFACTO
from fieldpress.gaussians.turn import moved
from fieldpress.quant.torch_archive import MAX_PROGRAM, Stored, TorchArchive
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import orbit

N = 7


def saved(root: Any) -> bytes:
    out = io.BytesIO()
    torch.save(root, out)
    return out.getvalue()


def splat_tensors(rest: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {
        "means": (N, 3), "quats": (N, 4), "scales": (N, 3), "opacities": (N,), "sh0": (N, 1, 3),
        "shN": (N, rest, 3),
    }  # fmt: skip
    return {key: torch.randn(shape, generator=rng) for key, shape in shapes.items()}


def nerfstudio(tensors: dict[str, torch.Tensor], prefix: str = "_model.gauss_params.") -> Any:
    """As nerfstudio 1.1.5's trainer saves it, with an optimiser and numpy's numbers in it."""
    shaped = {**tensors, "sh0": tensors["sh0"][:, 0], "opacities": tensors["opacities"][:, None]}
    parameters = {name: torch.nn.Parameter(shaped[ours]) for ours, name in SPLATFACTO.items()}
    moments = {key: torch.ones(N, 3) for key in ("exp_avg", "exp_avg_sq")}
    group = {"lr": np.float64(1e-3), "betas": (0.9, 0.999), "eps": 1e-15, "params": [0]}
    adam = {"state": {0: {"step": torch.tensor(3.0), **moments}}, "param_groups": [group]}
    pipeline = OrderedDict((prefix + name, value) for name, value in parameters.items())
    return {
        "step": 29999,
        "pipeline": pipeline,
        "optimizers": {"means": adam},
        "schedulers": {"means": {"last_epoch": 3, "_last_lr": [np.float64(0.1)]}},
        "scalers": {},
    }


def inria(tensors: dict[str, torch.Tensor]) -> Any:
    p = {key: torch.nn.Parameter(value) for key, value in tensors.items()}
    count = torch.zeros(N, 1)
    state = {"state": {}, "param_groups": [{"lr": 0.1, "name": "xyz", "params": [0]}]}
    captured = (
        3, p["means"], p["sh0"], p["shN"], p["scales"], p["quats"],
        torch.nn.Parameter(tensors["opacities"][:, None]), count, count, count, state,
        np.float32(4.2),
    )  # fmt: skip
    return captured, 30000


LAYOUTS = {
    "splatfacto": nerfstudio,
    "splatfacto, old": lambda t: nerfstudio(t, "_model."),
    "splatfacto, on many": lambda t: nerfstudio(t, "_model.module.gauss_params."),
    "gsplat": lambda t: {"step": 7, "splats": OrderedDict(t)},
    "inria": inria,
}


@pytest.mark.parametrize("rest", [3, 15])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussians_are_read_to_the_bit(layout: str, rest: int) -> None:
    tensors = splat_tensors(rest)
    found = models.load_bytes(saved(LAYOUTS[layout](tensors)), "step-000029999.ckpt")
    assert found.kind == "gaussians"
    for key, value in found.tensors().items():
        assert torch.equal(value, tensors[key]), key


def test_colours_without_directions_are_logits_in_splatfacto() -> None:
    tensors = splat_tensors(0)
    found = models.load_bytes(saved(nerfstudio(tensors)), "a.ckpt")
    shown = found.sh0[:, 0] * 0.28209479177387814 + 0.5
    torch.testing.assert_close(shown, tensors["sh0"][:, 0].sigmoid())


def test_nerfstudio_frame_is_undone(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "nerfstudio_models"
    folder.mkdir(parents=True)
    tensors = splat_tensors()
    (folder / "step-000000001.ckpt").write_bytes(saved(nerfstudio(tensors)))
    plain = models.load(folder / "step-000000001.ckpt")
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    shift, scale = torch.tensor([[0.5], [-1.0], [2.0]]), 0.3
    frame = {"transform": torch.cat([turn, shift], 1).tolist(), "scale": scale}
    (tmp_path / "run" / "dataparser_transforms.json").write_text(json.dumps(frame))
    found = models.load(folder / "step-000000001.ckpt")
    linear = scale * turn.double().numpy()
    again = moved(found, linear, scale * shift[:, 0].double().numpy())
    torch.testing.assert_close(again.means, plain.means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.scales, plain.scales, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.shN, plain.shN, rtol=1e-3, atol=1e-4)
    (tmp_path / "run" / "dataparser_transforms.json").write_text('{"transform": [[1]], "scale": 1}')
    with pytest.raises(ValueError, match=r"dataparser_transforms.json: transform, scale: expected"):
        models.load(folder / "step-000000001.ckpt")


def field_tensors() -> dict[str, torch.Tensor]:
    encoding = Encoding(3, "SimplexGrid", 2, 2, 8, 4, 1.5)
    rng = torch.Generator().manual_seed(0)
    cells = torch.zeros(NerfField.side**3, dtype=torch.bool)
    cells[NerfField.side**3 // 2 :][:600] = True
    head = new_weights([NerfField.head_inputs, 16, 3], 1)
    tensors = {
        "table": torch.randn(encoding.rows, 2, generator=rng), "cells": cells,
        "density": torch.zeros(8), "cube": torch.tensor([-1.0, -1, -1, 2]),
        "background": torch.tensor([1.0, 1, 1]), "layout": encoding_numbers(encoding),
    }  # fmt: skip
    tensors |= {f"weights.{i}": w for i, w in enumerate(new_weights([4, 16, GEOMETRY], 0))}
    tensors |= {f"head.{i}": w for i, w in enumerate(head)}
    return tensors


def field_checkpoint(**changed: torch.Tensor) -> bytes:
    tensors = field_tensors() | changed
    pipeline = OrderedDict((f"_model.radiance.{key}", t) for key, t in tensors.items())
    return saved({"step": 1, "pipeline": pipeline})


def test_a_field_is_read_and_compressed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "step-000000001.ckpt", tmp_path / "field.fpz"
    source.write_bytes(field_checkpoint())
    found = models.load(source)
    assert found.background == (1.0, 1.0, 1.0)
    assert torch.equal(found.network.table, field_tensors()["table"])
    given = [str(source), "-o", str(output), "--target-db", "35", "--json"]
    assert main(["compress", *given]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["psnr_self"] > 33
    assert report["output_bytes"] == output.stat().st_size < found.float_bytes
    decoded = models.load(output)
    assert decoded.background == found.background
    given = [str(source), "-o", str(output), "--target-mb", "1", "--overwrite"]
    assert main(["compress", *given]) == 1
    assert "--target-db" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": torch.zeros(3)}, "layout: expected 6"),
        ({"layout": torch.tensor([9.0, 2, 2, 8, 4, 2])}, "layout: expected whole"),
        ({"table": torch.zeros(3, 2)}, "table: expected"),
        ({"table": torch.full((512, 2), torch.nan)}, "table: expected finite"),
        ({"cells": torch.zeros(5, dtype=torch.bool)}, "cells: expected"),
        ({"cube": torch.tensor([0.0, 0, 0, -1])}, "cube, background"),
        ({"weights.0": torch.zeros(16, 3)}, "weights 0: expected"),
    ],
)
def test_a_wrong_field_is_told_in_one_line(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^a.ckpt: .*{message}") as caught:
        models.load_bytes(field_checkpoint(**changed), "a.ckpt")
    assert "\n" not in str(caught.value)


def test_cameras_follow_a_frame() -> None:
    views = orbit([0.0, 0.0, 0.0], 2.0, 3, width=8, height=6)
    frame = [[0.0, -0.5, 0, 1], [0.5, 0, 0, 2], [0, 0, 0.5, 3]]
    there = in_frame(views, frame)
    matrix = torch.tensor(frame)
    wanted = views.positions @ matrix[:, :3].T + matrix[:, 3]
    torch.testing.assert_close(there.positions, wanted, rtol=1e-5, atol=1e-5)
    point = torch.tensor([0.3, 0.2, -0.1])
    old = views.viewmats[:, :3, :3] @ point + views.viewmats[:, :3, 3]
    new = (
        there.viewmats[:, :3, :3] @ (matrix[:, :3] @ point + matrix[:, 3])
        + there.viewmats[:, :3, 3]
    )
    torch.testing.assert_close(new, 0.5 * old, rtol=1e-4, atol=1e-5)
    assert in_frame(views, None) is views
    for wrong in ("x", [[1, 2]], [[0.0] * 4] * 3, [[float("nan")] * 4] * 3):
        with pytest.raises(ValueError, match=r"^frame: expected"):
            in_frame(views, wrong)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = splat_tensors()
    data = saved({"splats": tensors, "more": [Bomb()], "step": Bomb()})
    found = models.load_bytes(data, "a.pt")
    assert len(found) == N
    assert capsys.readouterr().out == ""


def test_structure_and_dtypes_are_kept() -> None:
    kinds = (torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
    root: dict[str, Any] = {f"{kind}": torch.ones(2, 3, dtype=kind) for kind in kinds}
    root |= {"list": [1, 2.5, None, True, "x"], "tuple": (1, (2,)), "part": torch.arange(9)[4:7]}
    archive = TorchArchive(saved(root), name="a.pt")
    for key in (str(kind) for kind in kinds):
        assert np.array_equal(archive.array(archive.root[key], key), root[key].numpy())
    assert archive.array(archive.root["part"], "part").tolist() == [4, 5, 6]
    assert (archive.root["list"], archive.root["tuple"]) == (root["list"], root["tuple"])
    turned = TorchArchive(saved(torch.zeros(3, 2).T), name="a.pt")
    with pytest.raises(ValueError, match=r"^a.pt: x: expected a contiguous"):
        turned.array(turned.root, "x")
    strange = TorchArchive(saved(torch.zeros(2, dtype=torch.complex64)), name="a.pt")
    with pytest.raises(ValueError, match=r"^a.pt: x: expected one of"):
        strange.array(strange.root, "x")


def test_a_claim_is_not_allocated() -> None:
    archive = TorchArchive(saved(torch.zeros(4)), name="a.pt")
    huge = Stored(archive.root.storage, "FloatStorage", 0, (10**6, 10**6), (10**6, 1))
    with pytest.raises(ValueError, match=r"^a.pt: x: "):
        archive.array(huge, "x")
    assert isinstance(archive.root, Stored)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_checkpoint_is_one_line(share: float) -> None:
    data = saved(nerfstudio(splat_tensors()))
    with pytest.raises(ValueError, match=r"^a.ckpt: ") as caught:
        models.load_bytes(data[: int(share * len(data))], "a.ckpt")
    assert "\n" not in str(caught.value)


def rewritten(data: bytes, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def test_what_inflates_is_refused() -> None:
    data = saved(nerfstudio(splat_tensors()))
    assert len(models.load_bytes(rewritten(data, zipfile.ZIP_STORED), "a.ckpt")) == N
    with pytest.raises(ValueError, match=r"^a.ckpt: .*uncompressed"):
        models.load_bytes(rewritten(data, zipfile.ZIP_DEFLATED), "a.ckpt")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ({"pipeline": {"_model.field.x": torch.zeros(2)}}, "expected a checkpoint of"),
        ([1, 2], "expected a checkpoint of"),
        (
            {"splats": {"means": torch.zeros(2, 3), "sh0": torch.zeros(2, 1, 3)}},
            "colours: expected",
        ),
        (
            {"splats": {**splat_tensors(), "quats": torch.zeros(N, 3)}},
            r"gsplat quats: expected \[7, 4\], got \[7, 3\]",
        ),
    ],
)
def test_another_checkpoint_is_told_in_one_line(root: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^a.ckpt: .*{message}"):
        models.load_bytes(saved(root), "a.ckpt")


def test_a_sog_is_still_a_sog(tmp_path: Path) -> None:
    """Both are zip archives: the name decides, and without one a SOG is meant."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(saved({"splats": splat_tensors(3)}))
    model = models.load(path)
    models.save(model, tmp_path / "a.sog")
    assert len(models.load(tmp_path / "a.sog")) == N
    with pytest.raises(ValueError, match=r"other files"):
        models.load_bytes((tmp_path / "a.sog").read_bytes(), "b.ckpt")


def test_a_camera_set_stays_one() -> None:
    assert isinstance(in_frame(orbit([0.0] * 3, 1.0, 1, width=4, height=4), None), Cameras)


def test_a_program_of_millions_of_objects_is_not_run() -> None:
    """A byte of it may become an object of 64."""
    program = b"\x80\x02" + b"}" * (MAX_PROGRAM + 1) + b"."
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a/data.pkl", program)
    with pytest.raises(ValueError, match=f"expected at most {MAX_PROGRAM} bytes"):
        TorchArchive(stored.getvalue(), name="a.ckpt")
