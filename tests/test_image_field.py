"""Image fields: fitting, the codec, its refusals, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress import batch, models
from fieldpress.__main__ import main
from fieldpress.contenders import Stage
from fieldpress.fields import _reference, codec
from fieldpress.fields.fit_image import ImageSettings, encoding_for, fit_image, search_steps
from fieldpress.fields.image import ImageField, places
from fieldpress.fields.levels import Encoding
from fieldpress.fields.network import Network, Trainer, new_weights
from fieldpress.manifest import SceneEntry
from fieldpress.quant import container
from fieldpress.scenes.metrics import psnr
from fieldpress.viewer.png import encode_png

WIDTH, HEIGHT = 40, 24
ENCODING = Encoding(2, "SimplexGrid", 3, 2, 8, 4, 2.0)


HUGE = {"otype": "PermutoGrid", "n_levels": 3, "log2_hashmap_size": 26}


def picture() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    waves = torch.stack([(x / 5).sin(), (y / 4).cos(), ((x + y) / 7).sin()], -1)
    return ((0.5 + 0.4 * waves) * 255).round().byte()


def settings(steps: int = 80, **other: float) -> ImageSettings:
    return ImageSettings(ENCODING, neurons=16, steps=steps, batch=512, rate=0.04, **other)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> tuple[ImageField, list[np.ndarray], codec.Steps]:
    found = fit_image(picture(), settings())
    steps = search_steps(found.model.network, found.used, picture(), 0.1)
    return found.model, list(found.used), steps


@pytest.fixture(scope="module")
def data(fitted: tuple) -> bytes:
    model, used, steps = fitted
    return codec.encode(model, steps, used, {"seed": 0})


def test_a_fit_learns_and_is_the_same_again(fitted: tuple) -> None:
    again = fit_image(picture(), settings())
    for name, value in fitted[0].tensors().items():
        assert torch.equal(value, again.model.tensors()[name])
    assert float(psnr(fitted[0].picture(), picture().float() / 255)) > 25


def test_the_trainers_gradients_are_autograds() -> None:
    trainer = Trainer(ENCODING, [8, 3], seed=1)
    with torch.no_grad():
        trainer.table.mul_(1e4)
    points = torch.rand(70, 2, generator=torch.Generator().manual_seed(0))
    table = trainer.table.clone().requires_grad_()
    weights = [w.detach().clone().requires_grad_() for w in trainer.weights]
    hidden = (weights[0] @ _reference.encode(ENCODING, points, table)).relu()
    (weights[1] @ hidden).square().sum().backward()
    trainer.step(points, lambda out, part: 2 * out, rate=0.0)
    for ours, theirs in zip(trainer.weights, weights, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)


def test_decoding_gives_what_requantise_foretold(fitted: tuple, data: bytes) -> None:
    model, used, steps = fitted
    wanted, found = codec.requantise(model.network, steps, used), codec.decode(data)
    for name, value in wanted.tensors().items():
        assert torch.equal(value, found.tensors()[name])
    assert (found.width, found.height, found.extra) == (WIDTH, HEIGHT, {"seed": 0})
    truth = picture().float() / 255
    assert psnr(found.picture(), truth) > psnr(model.picture(), truth) - 0.3


def test_rows_in_use_are_all_that_decoding_needs(fitted: tuple) -> None:
    model, used, _ = fitted
    table = model.network.table.clone()
    table[~torch.from_numpy(np.concatenate(used))] = float("nan")
    kept = ImageField(Network(ENCODING, table, model.network.weights), WIDTH, HEIGHT)
    assert torch.equal(kept.picture(), model.picture())


def test_training_through_rounding_beats_rounding_afterwards(fitted: tuple) -> None:
    """At steps that cost 3 dB at first."""
    truth = picture().float() / 255
    trained = fit_image(picture(), settings(80, quantise_db=3.0))
    assert trained.steps is not None
    plain = fit_image(picture(), settings(80))
    rounded = codec.requantise(plain.model.network, trained.steps, plain.used)
    found = codec.requantise(trained.model.network, trained.steps, trained.used)
    after, through = (ImageField(n, WIDTH, HEIGHT).picture() for n in (rounded, found))
    assert psnr(through, truth) > psnr(after, truth)


def test_every_prefix_of_levels_decodes_to_something_nearer(data: bytes) -> None:
    truth = picture().float() / 255
    sizes, scores = container.sizes(data), []
    cut = sizes["header"] + sum(size for name, size in sizes.items() if name.startswith("mlp"))
    for level in range(ENCODING.levels):
        cut += sizes[f"runs/{level}"] + sizes[f"tab/{level}"]
        found = codec.decode(data[:cut], partial=True)
        first = ENCODING.first_rows[level + 1]
        assert not found.network.table[first:].any()
        scores.append(float(psnr(found.picture(), truth)))
    assert torch.equal(found.network.table, codec.decode(data).network.table)
    assert scores[-1] == max(scores)


def test_another_size_shows_the_same_picture(fitted: tuple) -> None:
    large = fitted[0].picture(2 * WIDTH, 2 * HEIGHT).reshape(HEIGHT, 2, WIDTH, 2, 3).mean((1, 3))
    assert psnr(large, fitted[0].picture()) > 25
    second_row = places(torch.tensor([WIDTH]), WIDTH, HEIGHT)[0]
    assert second_row.tolist() == pytest.approx([0.5 / WIDTH, 1.5 / WIDTH])


def test_damaged_files_end_in_one_line(data: bytes) -> None:
    rng = np.random.default_rng(0)
    cuts = [data[:n] for n in rng.integers(0, len(data), 40)]
    flips = []
    for _ in range(150):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        flips.append(bytes(changed))
    for bad in cuts + flips:
        with pytest.raises(ValueError, match=r"^f\.fpz: ") as caught:
            codec.decode(bad, name="f.fpz")
        assert "\n" not in str(caught.value)


def rewrite(data: bytes, layout: dict, sections: dict | None = None) -> bytes:
    """The file with other layout keys and sections, all checksums right."""
    found = container.read(data)
    header = found.header | {"layout": found.header["layout"] | layout}
    parts = [s for s in found.sections if s.name not in (sections or {})]
    parts += [s for s in (sections or {}).values() if s is not None]
    return container.write(header, parts)


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        ({"encoding": {"otype": "HashGrid", "shape": 3}}, "shape"),
        ({"encoding": None}, "layout"),
        ({"encoding": HUGE, "steps": [0.1, 0.1, 0.1]}, "tables of at most"),
        ({"layers": [16, 16, 4]}, "mlp/2|colours"),
        ({"layers": []}, "layers|network"),
        ({"layers": [16, 10**9, 3]}, "network"),
        ({"layers": [16.5, 16, 3]}, "layers"),
        ({"steps": [0.1, 0.1]}, "steps"),
        ({"steps": [0.1, 0.1, -1]}, "steps"),
        ({"weight_steps": "abc"}, "weight_steps"),
        ({"size": [0, 5]}, "sides"),
        ({"size": [5]}, "size"),
    ],
)
def test_a_forged_header_is_refused_by_its_key(data: bytes, layout: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        codec.decode(rewrite(data, layout), name="f.fpz")
    assert str(caught.value).startswith("f.fpz: ")


def test_forged_sections_are_refused_by_name(data: bytes) -> None:
    Section = container.Section
    for name, other in {
        "tab/1": None,
        "runs/0": Section("runs/0", "ints", b"", 1 << 40),
        "mlp/0": Section("mlp/0", "raw", b"1234", 4),
        "tab/2": Section("tab/2", "ints", b"\x01" * 30, 8),
        "more": Section("more", "raw", b"", 0),
    }.items():
        with pytest.raises(ValueError, match=name) as caught:
            codec.decode(rewrite(data, {}, {name: other}), name="f.fpz")
        assert str(caught.value).startswith("f.fpz: section ")


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        ImageSettings(steps=0)
    with pytest.raises(ValueError, match="rate"):
        ImageSettings(rate=0)
    with pytest.raises(ValueError, match="picture"):
        fit_image(torch.zeros(4, 4, 3), settings())
    with pytest.raises(ValueError, match="network"):
        new_weights([4, 1000], 0)
    assert encoding_for(8192, 4096).log2_hashmap_size == 20


# The command


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    path = tmp_path / "photo.png"
    image.fromarray(picture().numpy()).save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    assert main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_from_picture_to_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photo: Path
) -> None:
    file, png = tmp_path / "photo.fpz", tmp_path / "again.png"
    quick = ("--steps", 150, "--batch", 512, "--neurons", 16)
    report = run(capsys, "fit", "image", photo, "-o", file, *quick)
    assert report["output_bytes"] == file.stat().st_size
    assert report["psnr"] > 18
    assert run(capsys, "info", file)["kind"] == "image"
    evaluated = run(capsys, "eval", file, "--reference", photo)
    assert evaluated["psnr"] == pytest.approx(report["psnr"], abs=1e-3)
    run(capsys, "decompress", file, "-o", png)
    assert png.read_bytes() == encode_png(models.load(file).picture())


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("decompress", "F", "-o", "x.ply"), ".png"),
        (("render", "F", "--orbit", "2", "-o", "frames"), "Gaussians"),
        (("compress", "F", "-o", "y.fpz"), "Gaussians"),
        (("view", "F"), "decompress"),
        (("decompress", "F", "-o", "x.html"), "Gaussians"),
        (("eval", "F"), "--reference"),
        (("fit", "image", "F", "-o", "y.fpz"), "picture"),
        (("fit", "image", "F", "-o", "y.png"), ".fpz"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: bytes, args: tuple, named: str
) -> None:
    file = tmp_path / "f.fpz"
    file.write_bytes(data)
    paths = [str(file) if a == "F" else str(tmp_path / a) if "." in a else a for a in args]
    paths = [str(tmp_path / a) if a == "frames" else a for a in paths]
    assert main(paths) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in line
    assert [p.name for p in tmp_path.iterdir()] == ["f.fpz"]


def test_sweeps_and_batches_take_no_fields(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "f.fpz"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"f\.fpz: expected Gaussians"):
        Stage.read(SceneEntry("f", file), 0)
    assert batch._sh_degree(file) == batch.MOST_DEGREE
