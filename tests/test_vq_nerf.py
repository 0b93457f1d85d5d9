"""Latent fields: the quantiser against a search, the decoder's shapes, a fit, the file, flicker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.fields import codec, fit_vq_nerf, vq
from fieldpress.fields.fit_nerf import NerfSettings
from fieldpress.fields.fit_vq import Codebook, Crops
from fieldpress.fields.flicker import flicker
from fieldpress.fields.levels import Encoding
from fieldpress.fields.sdf import pixel_rays
from fieldpress.fields.semantic import random_features, semantic_loss
from fieldpress.fields.vq_nerf import STAGES, VqNerfField
from fieldpress.quant import container
from fieldpress.scenes.cameras import Cameras, Scene
from fieldpress.scenes.metrics import psnr

RATIO = 2


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_latent_gets_the_nearest_codes() -> None:
    latents, codes = normal(2, 6, 3, 5), normal(3, 7, 2, seed=1)
    found = vq.quantised(latents, codes)
    for b, y, x in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        for g in range(3):
            part = latents[b, 2 * g : 2 * g + 2, y, x]
            best = min(codes[g], key=lambda code: float((code - part).square().sum()))
            assert torch.equal(found[b, 2 * g : 2 * g + 2, y, x], best)


def test_gradients_go_straight_through_and_codes_follow() -> None:
    rng = torch.Generator().manual_seed(0)
    book = Codebook(1, 12, 2, rng)
    centers = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    for seed in range(60):
        latents = centers.repeat(8, 1) + 0.05 * normal(32, 2, seed=seed)
        maps = latents.T.reshape(1, 2, 4, 8).requires_grad_()
        found, commitment = book.quantise(maps)
        found.sum().backward()
        assert torch.equal(maps.grad, torch.ones_like(maps))
    distances = torch.cdist(centers, book.codes[0]).amin(1)
    assert (distances < 0.1).all()
    assert not book.codes[:, 0].any()
    assert float(commitment.detach()) < 0.02


def test_black_stays_black_and_sizes_fit() -> None:
    for ratio in (2, 4, 8):
        encoder = vq.new_convolutions([3 * ratio**2, 8, 4], 0)
        decoder = vq.new_convolutions([7, 8, 3 * ratio**2], 1)
        black = torch.zeros(1, 3, 2 * ratio, 3 * ratio)
        latents, centers = vq.latents_of(black, encoder, ratio), vq.centers_of(black, ratio)
        assert latents.shape == (1, 4, 2, 3)
        found = vq.pixels_of(latents, centers, decoder, ratio)
        assert found.shape == black.shape
        assert not found.any()
        rows = torch.arange(2.0 * ratio)[:, None].expand(2 * ratio, 3 * ratio)
        middle = vq.centers_of(rows.expand(1, 3, -1, -1), ratio)[0, 0, :, 0]
        torch.testing.assert_close(middle, (torch.arange(2) + 0.5) * ratio - 0.5)


def test_rays_of_a_piece_are_those_through_its_blocks(ball: Callable[..., Scene]) -> None:
    given = ball(12)
    crops = Crops.of(given.train_images, given.train, 50, 3)
    assert (crops.rows, crops.columns) == (4, 4)  # The whole picture, so that pixels are known.
    crop = crops.draw(1, torch.Generator().manual_seed(0))
    view = next(
        i for i, image in enumerate(given.train_images)
        if (image.movedim(2, 0) - crop.pictures[0]).abs().max() < 0.01
    )  # fmt: skip
    rays_o, rays_d = pixel_rays(given.train[view : view + 1])
    pick = torch.arange(144).reshape(12, 12)[1::3, 1::3].flatten()
    torch.testing.assert_close(crop.rays_d, rays_d[pick])
    torch.testing.assert_close(crop.origins, rays_o[pick])


def test_the_semantic_loss_is_of_patterns() -> None:
    features = random_features()
    pictures = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(semantic_loss(pictures, pictures, features)) == pytest.approx(0, abs=1e-5)
    assert float(semantic_loss(pictures + 0.1, pictures, features)) < 0.05
    assert float(semantic_loss(pictures.flip(3), pictures, features)) > 0.1


@pytest.fixture(scope="module")
def fitted(ball: Callable[..., Scene]) -> tuple[Scene, fit_vq_nerf.FittedVqNerf]:
    given = ball(30)
    nerf = NerfSettings(
        Encoding(3, "SimplexGrid", 3, 2, 9, 8, 1.6), neurons=16, steps=150, rays=128, rate=0.02,
        loss_db=0.3,
    )  # fmt: skip
    settings = fit_vq_nerf.VqSettings(
        nerf, RATIO, width=12, groups=2, codes=16, size=2, autoencoder_steps=40, blocks=10, crops=1
    )
    return given, fit_vq_nerf.fit_vq_nerf(given, settings)


def test_a_fit_shows_views_that_it_never_saw(fitted: tuple) -> None:
    given, found = fitted
    pictures = found.model.render(given.test)
    assert pictures.shape == given.test_images.shape
    black = psnr(torch.zeros_like(pictures), given.test_images).mean()
    assert float(psnr(pictures, given.test_images).mean() - black) > 8
    picture, seconds = found.model.staged(given.test[:1])
    assert torch.equal(picture, pictures[0])
    assert tuple(seconds) == STAGES


def test_odd_sizes_are_pieces_of_even_ones(fitted: tuple) -> None:
    given, found = fitted
    camera = given.test[:1]
    odd = Cameras(camera.viewmats, camera.Ks, 29, 27)
    whole, piece = found.model.render(camera)[0], found.model.render(odd)[0]
    far = 3 * RATIO + 1  # Where the decoder sees no border.
    torch.testing.assert_close(piece[: 27 - far, : 29 - far], whole[: 27 - far, : 29 - far])


def test_a_file_decodes_to_what_was_promised(fitted: tuple, tmp_path: Path) -> None:
    given, found = fitted
    data = codec.encode(found.model, found.steps, found.used)
    wanted = codec.rounded(found.model, found.steps, found.used)
    file = tmp_path / "ball.fpz"
    file.write_bytes(data)
    decoded = models.load(file)
    assert isinstance(decoded, VqNerfField)
    assert decoded.ratio == RATIO
    for name, value in wanted.tensors().items():
        assert torch.equal(value, decoded.tensors()[name])
    loss = psnr(found.model.render(given.test), given.test_images) - psnr(
        decoded.render(given.test), given.test_images
    )
    assert float(loss.mean()) < 1
    assert len(data) < found.model.float_bytes / 2


def test_forged_files_are_refused(fitted: tuple) -> None:
    _, found = fitted
    data = codec.encode(found.model, found.steps, found.used)
    read = container.read(data)
    for change, named in [
        ({"codes": [2, 16]}, "codes"),
        ({"codes": [2, 1 << 20, 2]}, "codes"),
        ({"codes": [1, 16, 4]}, "head|decoder|codes"),
        ({"decoder": [12, 12, 13]}, "decoder"),
        ({"decoder": []}, "decoder"),
        ({"decoder": [768] * 8, "decoder_steps": [1] * 8}, "tables of at most"),
        ({"decoder_steps": [1]}, "decoder_steps"),
        ({"code_steps": [0]}, "code_steps"),
        ({"ratio": 3}, "decoder"),
        ({"ratio": "2"}, "ratio"),
    ]:
        layout = read.header["layout"] | change
        forged = container.write(read.header | {"layout": layout}, read.sections)
        with pytest.raises(ValueError, match=rf"^f\.fpz: .*({named})"):
            codec.decode(forged, name="f.fpz")
    for lost in ("codes", "decoder/1"):
        without = [s for s in read.sections if s.name != lost]
        with pytest.raises(ValueError, match=f"section '{lost}'"):
            codec.decode(container.write(read.header, without), name="f.fpz")
    for size in range(0, len(data), 307):
        with pytest.raises(ValueError, match=r"^f\.fpz: "):
            codec.decode(data[:size], name="f.fpz")


def test_flicker_is_of_colours_that_change(fitted: tuple) -> None:
    given, found = fitted
    near = given.test.viewmats[:1].repeat(3, 1, 1)
    near[:, 0, 3] += torch.tensor([0.0, 0.01, 0.02])
    path = replace(given.test, viewmats=near, Ks=given.test.Ks[:1].repeat(3, 1, 1))

    def steady(cameras: Cameras) -> torch.Tensor:
        return torch.full((len(cameras), 30, 30, 3), 0.5)

    def flashing(cameras: Cameras) -> torch.Tensor:
        return steady(cameras) * torch.tensor([1.0, 0.8, 1.0])[:, None, None, None]

    assert flicker(steady, path, found.model) == pytest.approx(0, abs=1e-3)
    assert flicker(flashing, path, found.model) == pytest.approx(25.5, abs=0.01)
    assert 0 < flicker(found.model.render, path, found.model) < 10


def test_the_command_refuses_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = ["fit", "nerf", str(tmp_path), "-o", str(tmp_path / "x.fpz"), "--method", "vqnerf"]
    assert main([*line, "--upscale", "3"]) == 2
    assert main([*line, "--steps", "0"]) == 2
    assert main(line) == 1
    assert "transforms" in capsys.readouterr().err
