"""Radiance fields: marching and compositing against plain loops, a fit, the file, the command."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fieldpress import viewing
from fieldpress.__main__ import main
from fieldpress.fields import codec, fit_nerf, tables
from fieldpress.fields.fit_nerf import NerfSettings, NerfTrainer, cube_around
from fieldpress.fields.levels import Encoding
from fieldpress.fields.nerf import (
    CELL_SIDE,
    GEOMETRY,
    STEP,
    NerfField,
    Samples,
    composite,
    march,
)
from fieldpress.fields.network import Network, new_weights
from fieldpress.fields.rounding import Rounding
from fieldpress.quant import container
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.metrics import psnr

ENCODING = Encoding(3, "SimplexGrid", 3, 2, 9, 8, 1.6)
SETTINGS = NerfSettings(ENCODING, neurons=16, steps=160, rays=256, rate=0.02, loss_db=0.3)


def test_marching_keeps_to_the_cube_and_the_cells() -> None:
    cells = torch.zeros(CELL_SIDE, CELL_SIDE, CELL_SIDE, dtype=torch.bool)
    cells[:, :, : CELL_SIDE // 2] = True  # The half of small x.
    origins = torch.tensor([[-1.0, 0.5, 0.5], [0.5, 0.5, -2.0], [5.0, 5.0, 5.0], [0.25, 0.5, 0.5]])
    rays_d = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])
    found = march(origins, rays_d, cells.flatten(), torch.full((4,), 0.5))
    assert (found.points[:, 0] < 0.5 + 1e-6).all()
    counts = torch.bincount(found.ray, minlength=4).tolist()
    assert counts[1] == counts[2] == 0
    assert counts[0] == pytest.approx(0.5 / STEP, abs=1)
    assert counts[3] == pytest.approx(0.5 / STEP, abs=1)


def test_compositing_is_the_loop_over_samples() -> None:
    rng = torch.Generator().manual_seed(0)
    ray = torch.tensor([0, 0, 0, 2, 2, 3])
    sigmas = 200 * torch.rand(6, generator=rng, dtype=torch.float64)
    rgb = torch.rand(3, 6, generator=rng, dtype=torch.float64)
    inputs = sigmas.float().requires_grad_(), rgb.float().requires_grad_()
    got = composite(*inputs, Samples(torch.zeros(6, 3), ray), 5)
    want = torch.zeros(5, 3, dtype=torch.float64)
    double = sigmas.clone().requires_grad_(), rgb.clone().requires_grad_()
    rows = []
    for r in range(5):
        trans, color = torch.ones((), dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for i in (ray == r).nonzero()[:, 0]:
            alpha = 1 - torch.exp(-double[0][i] * STEP)
            color = color + trans * alpha * double[1][:, i]
            trans = trans * (1 - alpha)
        rows.append(color)
    want = torch.stack(rows)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    got.square().sum().backward()
    want.square().sum().backward()
    for ours, theirs in zip(inputs, double, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


def test_the_cube_is_where_the_cameras_look(ball: Callable[..., Scene]) -> None:
    low, edge = cube_around(ball())
    assert [x + edge / 2 for x in low] == pytest.approx([0, 0, 0], abs=1e-4)
    assert edge == pytest.approx(0.75 * 3, rel=1e-4)


@pytest.fixture(scope="module")
def fitted(ball: Callable[..., Scene]) -> tuple[Scene, fit_nerf.FittedNerf]:
    given = ball()
    return given, fit_nerf.fit_nerf(given, SETTINGS)


def test_a_fit_shows_views_that_it_never_saw(fitted: tuple) -> None:
    given, found = fitted
    pictures = found.model.render(given.test)
    black = psnr(torch.zeros_like(pictures), given.test_images).mean()
    assert float(psnr(pictures, given.test_images).mean() - black) > 8
    assert float(found.model.cells.float().mean()) < 0.7  # Empty space was found.


def test_a_file_decodes_to_what_was_promised(fitted: tuple) -> None:
    given, found = fitted
    data = codec.encode(found.model, found.steps, found.used)
    decoded, wanted = codec.decode(data), codec.rounded(found.model, found.steps, found.used)
    assert isinstance(decoded, NerfField)
    for name, value in wanted.tensors().items():
        assert torch.equal(value, decoded.tensors()[name])
    loss = psnr(found.model.render(given.test), given.test_images) - psnr(
        decoded.render(given.test), given.test_images
    )
    assert float(loss.mean()) < 1
    assert len(data) < found.model.float_bytes / 2


def test_flags_are_written_the_shorter_way() -> None:
    rng = torch.Generator().manual_seed(0)
    few = torch.zeros(16**3, dtype=torch.bool)
    few[1000:1010] = True
    blob = torch.zeros(16, 16, 16, dtype=torch.bool)
    blob[3:9, 4:12, 2:11] = True
    scattered = torch.rand(16**3, generator=rng) < 0.5
    back = (1, 16, 256)
    for flags in (few, blob.flatten(), scattered, ~few, torch.arange(16**3) % 2 == 0):
        section = tables.write_flags("x", flags.numpy(), back)
        read = tables.read_flags({"x": section}, "x", len(flags), back, "f")
        assert torch.equal(torch.from_numpy(read), flags)
        assert len(section.payload) < len(flags) / 8 + 40
    forged = tables.write_matrix("x", torch.tensor([[0], [2], [1]]).int().numpy())
    with pytest.raises(ValueError, match=r"f: section 'x': .*0 or 1"):
        tables.read_flags({"x": forged}, "x", 3, back, "f")


def test_the_rate_has_the_slope_of_its_bits() -> None:
    used = [torch.ones(level.rows, dtype=torch.bool).numpy() for level in ENCODING.level]
    used[1][::2] = False
    steps = codec.Steps((0.5, 0.25, 0.1), (1.0,))
    rounding = Rounding(ENCODING, used, steps, rate_db=0.1)
    table = torch.randn(ENCODING.rows, 2, generator=torch.Generator().manual_seed(0))
    slope = rounding.slope(table, 0.02)
    worth = 0.02 * 0.1 * math.log(10) / 10 / 8000
    for level, step in enumerate(steps.table):
        rows = slice(*ENCODING.first_rows[level : level + 2])
        kept = torch.from_numpy(used[level])
        q = (table[rows].double() / step).requires_grad_()
        spread = float(q.detach()[kept].abs().round().mean())
        (worth * 3 * torch.log2(1 + q.abs().sum(1) / spread)).sum().backward()
        assert q.grad is not None
        torch.testing.assert_close(
            slope[rows][kept].double(), q.grad[kept] / step, rtol=1e-4, atol=0
        )
        assert not slope[rows][~kept].any()


def test_training_with_the_rate_gives_a_smaller_file(fitted: tuple) -> None:
    given, before = fitted
    settings = replace(SETTINGS, rate_db=1.0)
    found = fit_nerf.fit_nerf(given, settings)
    small, large = (codec.encode(f.model, f.steps, f.used) for f in (found, before))
    tab = [container.by_attribute(container.sizes(data))["tab"] for data in (small, large)]
    assert tab[0] < 0.9 * tab[1], tab
    loss = psnr(codec.decode(large).render(given.test), given.test_images) - psnr(
        codec.decode(small).render(given.test), given.test_images
    )
    assert float(loss.mean()) < 0.5


def test_the_viewer_shows_a_file_as_it_is(fitted: tuple, tmp_path: Path) -> None:
    _, found = fitted
    file = tmp_path / "bowl.fpz"
    file.write_bytes(codec.encode(found.model, found.steps, found.used))
    show = viewing.gather([str(file)])
    shown = show.exhibits[0].show({}, (0.0, 0.0, 0.0))
    camera = show.home.resized(16, 12)
    assert torch.equal(shown.render(camera), codec.decode(file.read_bytes()).render(camera))
    assert shown.facts == {"bytes": file.stat().st_size}
    center = [x + found.model.edge / 2 for x in found.model.low]
    assert show.target == pytest.approx(center, abs=1e-3)


def test_forged_files_are_refused(fitted: tuple) -> None:
    _, found = fitted
    data = codec.encode(found.model, found.steps, found.used)
    read = container.read(data)
    for change, named in [
        ({"head": [16, 16, 4]}, "head/2|colours"),
        ({"head_steps": [1]}, "head_steps"),
        ({"edge": -1}, "edge"),
        ({"prior": "all"}, "prior"),
    ]:
        layout = read.header["layout"] | change
        forged = container.write(read.header | {"layout": layout}, read.sections)
        with pytest.raises(ValueError, match=named):
            codec.decode(forged, name="f.fpz")
    without = [s for s in read.sections if s.name != "cells"]
    with pytest.raises(ValueError, match="section 'cells'"):
        codec.decode(container.write(read.header, without), name="f.fpz")
    for size in range(0, len(data), 211):
        with pytest.raises(ValueError, match=r"^f\.fpz: "):
            codec.decode(data[:size], name="f.fpz")


def test_an_empty_scene_is_refused_and_empty_cells_are_black(ball: Callable[..., Scene]) -> None:
    given = ball(8)
    with pytest.raises(ValueError, match="photographs"):
        NerfTrainer(Scene("none", given.train, given.test), NerfSettings(ENCODING))
    table = torch.zeros(ENCODING.rows, 2)
    network = Network(ENCODING, table, new_weights([ENCODING.width, GEOMETRY], 0))
    head = new_weights([NerfField.head_inputs, 3], 0)
    cells = torch.zeros(CELL_SIDE**3, dtype=torch.bool)
    model = NerfField(network, head, cells, (-1.0, -1.0, -1.0), 2.0)
    assert not model.render(given.test).any()
    assert math.isclose(model.float_bytes, 4 * (table.numel() + 6 * GEOMETRY + 3 * 32))


def test_the_command_names_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main(["fit", "nerf", str(tmp_path), "-o", f"{tmp_path}/x.fpz"]) == 1
    assert "transforms" in capsys.readouterr().err
    assert main(["fit", "nerf", str(tmp_path), "-o", f"{tmp_path}/x.fpz", "--steps", "0"]) == 2
