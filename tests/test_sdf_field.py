"""Signed distance fields: fitting to a mesh, the file, the mesh that comes out, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress.__main__ import main
from fieldpress.fields import _reference, codec
from fieldpress.fields.fit_sdf import (
    SdfSettings,
    Solid,
    chamfer,
    compare,
    eikonal,
    fit_sdf,
    samples,
)
from fieldpress.fields.levels import Encoding
from fieldpress.fields.mesh_ply import mesh_ply
from fieldpress.fields.network import Network, new_weights
from fieldpress.fields.sdf import SdfField
from fieldpress.quant import container
from fieldpress.scenes.orbit import orbit

ENCODING = Encoding(3, "SimplexGrid", 3, 2, 10, 4, 1.8)
CENTER, RADIUS = (1.0, -2.0, 0.5), 0.7


def ball(rings: int = 24) -> Solid:
    """A closed mesh of a sphere, by latitude and longitude."""
    theta = np.linspace(0, np.pi, rings)[1:-1]
    phi = np.arange(2 * rings) * np.pi / rings
    t, p = np.meshgrid(theta, phi, indexing="ij")
    body = np.stack([np.sin(t) * np.cos(p), np.cos(t), np.sin(t) * np.sin(p)], -1).reshape(-1, 3)
    points = np.concatenate([body, [[0, 1, 0], [0, -1, 0]]])
    faces, n = [], 2 * rings
    top, bottom = len(body), len(body) + 1
    for j in range(n):
        k = (j + 1) % n
        faces += [(top, k, j), (bottom, (rings - 3) * n + j, (rings - 3) * n + k)]
        for i in range(rings - 3):
            a, b, c, d = i * n + j, i * n + k, (i + 1) * n + j, (i + 1) * n + k
            faces += [(a, b, c), (b, d, c)]
    return Solid((RADIUS * points + CENTER).astype(np.float32), np.array(faces, np.uint32))


@pytest.fixture(scope="module")
def solid() -> Solid:
    pytest.importorskip("open3d", reason="distances to meshes need Open3D")
    return ball()


@pytest.fixture(scope="module")
def fitted(solid: Solid) -> tuple[SdfField, bytes]:
    settings = SdfSettings(ENCODING, neurons=16, steps=150, batch=2048, pool=1 << 14, rate=0.02)
    found = fit_sdf(solid, settings)
    return found.model, codec.encode(found.model, found.steps, found.used)


def analytic(points: torch.Tensor) -> torch.Tensor:
    return (points - torch.tensor(CENTER)).norm(dim=1) - RADIUS


def test_samples_hold_the_distance_to_the_ball(solid: Solid) -> None:
    points, distance = samples(solid, 4000, seed=0)
    low, edge = solid.cube()
    wanted = analytic(points * edge + torch.tensor(low)) / edge
    inside = ((points > 0) & (points < 1)).all(1)
    torch.testing.assert_close(distance[inside], wanted[inside], rtol=0, atol=0.01)
    assert distance.abs().median() < 0.02  # Most lie near the surface.


def test_points_of_the_surface_lie_on_it_evenly(solid: Solid) -> None:
    points = solid.surface(8000, torch.Generator().manual_seed(0))
    assert analytic(points).abs().max() < 0.02
    upper = points[:, 1] > CENTER[1] + RADIUS / 2  # A cap: a quarter of the area.
    assert float(upper.float().mean()) == pytest.approx(0.25, abs=0.02)


def test_a_decoded_ball_is_a_ball(solid: Solid, fitted: tuple[SdfField, bytes]) -> None:
    decoded = codec.decode(fitted[1])
    assert isinstance(decoded, SdfField)
    assert (decoded.low, decoded.edge) == (fitted[0].low, fitted[0].edge)
    found = compare(decoded, solid, 1 << 13)
    assert found["iou"] > 0.93
    assert found["distance_error"] < 0.01
    assert len(fitted[1]) < fitted[0].float_bytes / 3


def test_the_eikonal_term_is_the_twins_down_to_the_table() -> None:
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(90, 3, generator=rng)
    table = torch.randn(ENCODING.rows, 2, generator=rng) / 50
    weights = new_weights([ENCODING.width, 16, 1], 0)
    found = []
    for dtype in (torch.float32, torch.float64):
        parts = [part.to(dtype).requires_grad_() for part in (table, *weights)]
        if dtype == torch.float32:
            loss = eikonal(ENCODING, parts[0], parts[1:], points)
        else:
            at = points.double().requires_grad_()
            out = parts[2] @ (parts[1] @ _reference.encode(ENCODING, at, parts[0])).relu()
            (slope,) = torch.autograd.grad(out.sum(), at, create_graph=True)
            loss = (slope.norm(dim=1) - 1).square().mean()
        found.append((loss, *torch.autograd.grad(loss, parts)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-5)
    assert found[0][1].abs().max() > 1e-3


def test_distances_grow_by_one_an_edge_where_that_is_asked_for(solid: Solid) -> None:
    points = samples(solid, 2000, seed=3)[0]
    errors = []
    for weight in (0.0, 1.0):
        settings = SdfSettings(
            ENCODING, neurons=16, steps=60, batch=1024, pool=1 << 13, rate=0.02, eikonal=weight
        )
        network = fit_sdf(solid, settings).model.network
        errors.append(float(eikonal(ENCODING, network.table, network.weights, points).detach()))
    assert errors[1] < 0.8 * errors[0]


def test_the_mesh_of_a_ball_lies_on_the_ball(solid: Solid, fitted: tuple[SdfField, bytes]) -> None:
    pytest.importorskip("skimage", reason="marching cubes need scikit-image")
    vertices, faces = fitted[0].mesh(48)
    assert analytic(torch.from_numpy(vertices)).abs().median() < 0.03
    mesh = Solid(vertices, faces.astype(np.uint32))
    assert chamfer(solid, mesh, fitted[0].edge, 2000) < 0.02
    data = mesh_ply(vertices, faces)
    head, _, body = data.partition(b"end_header\n")
    assert f"element vertex {len(vertices)}".encode() in head
    assert len(body) == 12 * len(vertices) + 13 * len(faces)


def test_a_picture_shows_a_disc(fitted: tuple[SdfField, bytes]) -> None:
    edge = fitted[0].edge
    views = orbit(list(CENTER), 2 * edge, 2, width=32, height=32, up=[0.0, 1.0, 0.0])
    seen = fitted[0].render(views)[..., 0] > 0
    assert seen.shape == (2, 32, 32)
    for view in seen:
        assert view[16, 16]
        assert not view[0, 0]
        assert not view[16, 1]


def test_beyond_the_cube_distances_grow() -> None:
    table = torch.zeros(ENCODING.rows, 2)
    model = SdfField(
        Network(ENCODING, table, new_weights([ENCODING.width, 1], 0)), (0.0, 0.0, 0.0), 2.0
    )
    points = torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0], [-3.0, 1.0, 6.0]])
    assert model.distance(points).tolist() == pytest.approx([0, 1, 5])
    pytest.importorskip("skimage", reason="marching cubes need scikit-image")
    with pytest.raises(ValueError, match="surface"):
        model.mesh(8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("low", [0, 1]),
        ("low", [0, 1, "2"]),
        ("low", None),
        ("edge", 0),
        ("edge", 1e30),
        ("edge", "x"),
    ],
)
def test_a_forged_place_is_refused(fitted: tuple[SdfField, bytes], key: str, value: object) -> None:
    found = container.read(fitted[1])
    layout = found.header["layout"] | {key: value}
    forged = container.write(found.header | {"layout": layout}, found.sections)
    with pytest.raises(ValueError, match=rf"^f\.fpz: header: {key}: "):
        codec.decode(forged, name="f.fpz")


@pytest.mark.parametrize(
    ("vertices", "faces"),
    [
        (np.zeros((3, 2)), np.zeros((1, 3))),
        (np.zeros((3, 3)), np.zeros((1, 3))),
        (np.eye(3), np.array([[0, 1, 3]])),
        (np.eye(3), np.zeros((0, 3))),
        (np.full((3, 3), np.nan), np.zeros((1, 3))),
    ],
)
def test_what_is_no_mesh_is_refused(vertices: np.ndarray, faces: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mesh: expected"):
        Solid(vertices.astype(np.float32), faces.astype(np.uint32))


def test_the_command_from_mesh_to_mesh(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, solid: Solid
) -> None:
    mesh, file = tmp_path / "ball.ply", tmp_path / "ball.fpz"
    mesh.write_bytes(mesh_ply(solid.vertices, solid.faces.astype(np.int32)))
    settings = SdfSettings(ENCODING, neurons=16, steps=30, batch=512, pool=1 << 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fieldpress.field_jobs.SdfJob.settings", lambda self: settings)
        assert main(["fit", "sdf", str(mesh), "-o", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_bytes"] == file.stat().st_size
    assert 0 < report["iou"] <= 1
    assert main(["eval", str(file), "--reference", str(mesh), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iou"] == pytest.approx(report["iou"])
    assert main(["fit", "sdf", str(file), "-o", str(tmp_path / "x.fpz")]) == 1
    assert "not a mesh" in capsys.readouterr().err
    assert not (tmp_path / "x.fpz").exists()
