"""The CUDA kernels, run on the CPU from their own source, against the twin in double precision."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
import torch

from fieldpress.gaussians.train import Trainer, TrainSettings
from fieldpress.render import _reference, _reference_loss, cuda, photometric, splat, statistics
from fieldpress.render.photometric import PhotometricTarget, photometric_loss
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.splat_cuda import Backend
from fieldpress.scenes.cameras import Cameras

WIDTH, HEIGHT = 37, 29
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")
FIELDS = ("hits", "opacity_hits", "weight", "weight_sq", "max_weight")
PLAIN = RasterOptions(sh_degree=1)


def make_scene(n=150, seed=0, bases=4, size=-2.0):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g)
    quats = torch.randn(n, 4, generator=g) * (1 + torch.rand(n, 1, generator=g))
    scales = (0.8 * torch.randn(n, 3, generator=g) + size).exp()
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g)
    return means, quats, scales, opacities, 0.3 * torch.randn(n, bases, 3, generator=g)


def make_cameras(count=1, width=WIDTH, height=HEIGHT):
    views = torch.zeros(count, 4, 4)
    for i in range(count):
        c, s = math.cos(0.7 * i), math.sin(0.7 * i)
        rows = [[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 3.5], [0, 0, 0, 1]]
        views[i] = torch.tensor(rows)
    K = [[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]]
    return views, torch.tensor(K).expand(count, 3, 3).contiguous()


def results(draw, scene, cameras, options, size=(WIDTH, HEIGHT), dtype=torch.float32):
    """Image, alpha and the gradients of a fixed random linear form of both, by name."""
    views, Ks = cameras
    leaves = [part.to(dtype, copy=True).requires_grad_() for part in (*scene, views)]
    back = options.backgrounds
    if back is not None:
        back = back.to(dtype, copy=True).requires_grad_()
        options = replace(options, backgrounds=back)
    image, alpha, _ = draw(*leaves, Ks.to(dtype), *size, options)
    g = torch.Generator().manual_seed(7)
    forms = [torch.randn(t.shape, generator=g).to(dtype) for t in (image, alpha)]
    torch.autograd.backward([image, alpha], forms)
    grads = [leaf.grad for leaf in leaves] + [None if back is None else back.grad]
    return {"image": image.detach(), "alpha": alpha.detach()} | {
        name: grad for name, grad in zip(NAMES, grads, strict=True) if grad is not None
    }


def differences(got, want):
    """The largest error of a picture, and the relative one of each gradient, by name."""
    assert got.keys() == want.keys()
    errors = {}
    for name, truth in want.items():
        assert torch.isfinite(got[name]).all(), name
        error = got[name].double() - truth
        picture = name in ("image", "alpha")
        errors[name] = float(error.abs().mean() if picture else error.norm() / truth.norm())
    return errors


def assert_parity(scene, cameras, options, size=(WIDTH, HEIGHT)):
    got = results(rasterize, scene, cameras, options, size)
    want = results(_reference.rasterize, scene, cameras, options, size, torch.float64)
    for name, error in differences(got, want).items():
        assert error <= (2e-6 if name in ("image", "alpha") else 1e-4), (name, error)


def use(monkeypatch, kernels):
    backend = Backend(kernels)
    for module in (splat, statistics, photometric):
        monkeypatch.setattr(module, "backend_of", lambda device: backend)
    return backend


@pytest.fixture
def emulated(emulate, monkeypatch):
    """`rasterize` and `statistics` run the CUDA kernels in emulation."""
    return use(monkeypatch, emulate())


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED", "D"])
def test_values_and_gradients(emulated, render_mode, rasterize_mode):
    options = RasterOptions(sh_degree=1, render_mode=render_mode, rasterize_mode=rasterize_mode)
    options = replace(options, backgrounds=torch.tensor([0.3, 0.6, 0.1]))
    assert_parity(make_scene(100), make_cameras(2), options)


@pytest.mark.parametrize("degree", [0, 2, 3, 4])
def test_every_sh_degree(emulated, degree):
    assert_parity(make_scene(60, bases=25), make_cameras(), RasterOptions(sh_degree=degree))


@pytest.mark.parametrize(("channels", "per_camera"), [(6, False), (6, True), (32, False)])
def test_many_channels(emulated, channels, per_camera):
    """With 32 and depth a warp holds more sums than it has lanes."""
    g = torch.Generator().manual_seed(3)
    colors = torch.rand(*((2, 60, channels) if per_camera else (60, channels)), generator=g)
    scene = (*make_scene(60)[:4], colors)
    options = RasterOptions(render_mode="RGB+D", backgrounds=torch.rand(channels, generator=g))
    assert_parity(scene, make_cameras(2), options)


@pytest.mark.parametrize("size", [(1, 1), (33, 3), (16, 16)])
def test_odd_image_sizes(emulated, size):
    assert_parity(make_scene(60), make_cameras(1, *size), PLAIN, size)


def test_clamped_opacities_and_rays_that_end(emulated):
    scene = list(make_scene(120, size=-0.7))
    scene[3] = torch.linspace(0.9, 1.0, 120)
    assert_parity(scene, make_cameras(), PLAIN)


def test_splats_larger_than_the_picture_and_beside_it(emulated):
    scene = list(make_scene(60, size=0.3))
    scene[0] = scene[0] * torch.tensor([3.5, 2.5, 1.2])
    options = RasterOptions(sh_degree=1, near_plane=0.3)
    assert_parity(scene, make_cameras(1, 90, 130), options, (90, 130))


def test_thousands_of_splats_with_equal_depths(emulated):
    """Several chunks and parts of the sort; equal depths keep the order of the Gaussians."""
    n = 9000
    means, quats, scales, opacities, colors = make_scene(n, size=-4.5)
    means = means * torch.tensor([1.0, 1.0, 0.0])
    means[: n // 2, 2] = torch.linspace(1, -1, n // 2)
    scene = (means, quats, scales, opacities, colors)
    image, alpha, _ = rasterize(*scene, *make_cameras(), WIDTH, HEIGHT, PLAIN)
    doubles = [part.double() for part in (*scene, *make_cameras())]
    truth, truth_alpha, _ = _reference.rasterize(*doubles, WIDTH, HEIGHT, PLAIN)  # pyright: ignore
    assert (image - truth).abs().mean() <= 2e-6
    assert (alpha - truth_alpha).abs().max() <= 1e-4


def test_nothing_one_and_nobody(emulated):
    scene, back = make_scene(5), torch.tensor([0.25, 0.5, 1.0])
    options = replace(PLAIN, backgrounds=back, details=True)
    empty = tuple(part[:0] for part in scene)
    image, alpha, meta = rasterize(*empty, *make_cameras(2), WIDTH, HEIGHT, options)
    assert torch.equal(image, back.expand(2, HEIGHT, WIDTH, 3))
    assert not alpha.any()
    assert meta["radii"].shape == (2, 0, 2)
    image, _, _ = rasterize(*scene, *make_cameras(0), WIDTH, HEIGHT, options)
    assert image.shape == (0, HEIGHT, WIDTH, 3)
    assert_parity(make_scene(1, size=-1.0), make_cameras(), PLAIN)
    leaves = [part.requires_grad_() for part in empty]
    rasterize(*leaves, *make_cameras(), WIDTH, HEIGHT, PLAIN)[0].sum().backward()


def test_details_are_those_of_the_cpu(emulate, monkeypatch):
    scene, options = make_scene(), replace(PLAIN, details=True)
    _, _, want = rasterize(*scene, *make_cameras(2), WIDTH, HEIGHT, options)
    use(monkeypatch, emulate())
    _, _, got = rasterize(*scene, *make_cameras(2), WIDTH, HEIGHT, options)
    assert got["seconds"] == {}
    for name in ("means2d", "depths", "conics", "opacities"):
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(got["radii"], want["radii"])
    # The CPU takes a root that is a little too large: a tile more now and then.
    assert (got["tiles_per_gauss"] - want["tiles_per_gauss"]).abs().max() <= 1
    assert got["tiles_per_gauss"].sum() > 200


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_statistics(emulated, mode):
    scene, cameras = make_scene(100)[:4], make_cameras(2)
    options = RasterOptions(rasterize_mode=mode)
    got = statistics.statistics(*scene, *cameras, WIDTH, HEIGHT, options)
    doubles = [part.double() for part in (*scene, *cameras)]
    want = _reference.statistics(*doubles, WIDTH, HEIGHT, options)  # pyright: ignore
    assert (got.hits - want.hits).abs().max() <= 1
    assert got.hits.sum() > 1000
    for name in FIELDS[1:]:
        torch.testing.assert_close(
            getattr(got, name), getattr(want, name), rtol=1e-4, atol=5e-3, msg=name
        )


def test_too_little_room_is_found_out_and_made(emulated):
    scene, cameras = make_scene(), make_cameras(2)
    want = results(rasterize, scene, cameras, PLAIN)
    sums = statistics.statistics(*scene[:4], *cameras, WIDTH, HEIGHT)
    for splats, pairs in ((20, 1 << 14), (1 << 12, 30), (7, 11)):
        emulated.splats, emulated.pairs = splats, pairs
        got = results(rasterize, scene, cameras, PLAIN)
        assert max(differences(got, want).values()) < 1e-6
        emulated.splats, emulated.pairs = splats, pairs
        again = statistics.statistics(*scene[:4], *cameras, WIDTH, HEIGHT)
        assert torch.equal(again.hits, sums.hits)
        assert emulated.splats > 100
        assert emulated.pairs > 300


def test_a_second_backward_pass_makes_the_frames_again(emulated):
    leaves = [part.requires_grad_() for part in make_scene(60)]
    image, _, _ = rasterize(*leaves, *make_cameras(2), WIDTH, HEIGHT, PLAIN)
    once = torch.autograd.grad(image.square().sum(), leaves, retain_graph=True)
    twice = torch.autograd.grad(image.square().sum(), leaves)
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def deterministic():
    """Sums in a fixed order, as torch is asked for them."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("channels", [0, 6])
def test_gradients_in_a_fixed_order(emulate, monkeypatch, deterministic, channels):
    options = replace(PLAIN, backgrounds=torch.tensor([0.3, 0.6, 0.1]), render_mode="RGB+ED")
    scene = make_scene(100)
    if channels:
        colors = torch.rand(100, channels, generator=torch.Generator().manual_seed(3))
        scene, options = (*scene[:4], colors), RasterOptions()
    found = []
    for order in (0, 1, 2):
        use(monkeypatch, emulate(order=order))
        assert_parity(scene, make_cameras(2), options)
        found.append(results(rasterize, scene, make_cameras(2), options))
    for name, value in found[0].items():
        assert all(torch.equal(other[name], value) for other in found[1:]), name


def test_a_fixed_order_of_nothing(emulated, deterministic):
    leaves = [part[:0].requires_grad_() for part in make_scene(5)]
    rasterize(*leaves, *make_cameras(2), WIDTH, HEIGHT, PLAIN)[0].sum().backward()
    far = [part.requires_grad_() for part in make_scene(5)]
    far[0] = (far[0].detach() + 100).requires_grad_()
    rasterize(*far, *make_cameras(2), WIDTH, HEIGHT, PLAIN)[0].sum().backward()
    assert not far[0].grad.any()


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_threads_changes_nothing(emulate, monkeypatch, order):
    scene, cameras = make_scene(), make_cameras()
    use(monkeypatch, emulate())
    want = results(rasterize, scene, cameras, PLAIN)
    sums = statistics.statistics(*scene[:4], *cameras, WIDTH, HEIGHT)
    pictures = (*torch.rand(2, 1, 20, 30, 3, generator=torch.Generator().manual_seed(1)), None)
    slopes = loss_and_gradient(photometric_loss, *pictures)[1]
    use(monkeypatch, emulate(order=order))
    got = results(rasterize, scene, cameras, PLAIN)
    assert torch.equal(got["image"], want["image"])
    assert max(differences(got, want).values()) < 1e-6
    again = statistics.statistics(*scene[:4], *cameras, WIDTH, HEIGHT)
    assert torch.equal(again.hits, sums.hits)
    torch.testing.assert_close(again.weight_sq, sums.weight_sq, rtol=1e-9, atol=1e-12)
    assert torch.equal(loss_and_gradient(photometric_loss, *pictures)[1], slopes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda views, Ks: views.fill_(math.nan), "viewmats, Ks: expected finite"),
        (lambda views, Ks: Ks.mul_(-1), "Ks: expected positive focal"),
        (lambda views, Ks: views[0].zero_(), "viewmats: expected invertible"),
    ],
)
def test_bad_cameras_end_in_one_line(emulated, monkeypatch, spoil, message):
    monkeypatch.setattr(splat, "_check_cameras", lambda viewmats, Ks: None)  # The CPU's check.
    views, Ks = (part.clone() for part in make_cameras(2))
    spoil(views, Ks)
    with pytest.raises(ValueError, match=message):
        rasterize(*make_scene(5), views, Ks, WIDTH, HEIGHT, PLAIN)


LOOK_BACK = """
#include "sort.cu"
extern "C" __global__ void probe(uint64_t* states, int64_t chunk, uint64_t* found) {
  const uint64_t before = look_back(states, chunk, 5);
  if (lane() == 0) *found = before;
}
extern "C" __global__ void probe_digits(uint32_t* states, int64_t part, uint32_t* found) {
  found[threadIdx.x] = digits_before(states, part, threadIdx.x);
}
"""


@pytest.mark.parametrize("chunk", [0, 1, 5, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("finished", [0, 3, 40, 99])
def test_looking_back_over_chunks_that_are_under_way(probes, chunk, finished):
    """On a GPU earlier chunks have often told their own sum and not yet that of all before them;
    here blocks run one after another, so that state is made by hand."""
    own = torch.arange(1, 102, dtype=torch.int64) * 3
    states = torch.where(torch.arange(101) <= finished, (2 << 62) - (1 << 64), 1 << 62)
    states += torch.where(torch.arange(101) <= finished, own.cumsum(0), own)
    found = torch.zeros(1, dtype=torch.int64)
    probes.launch("probe", 1, 32, states.data_ptr(), chunk, found.data_ptr())
    before = int(own[:chunk].sum())
    assert int(found) == before
    assert int(states[chunk]) & ((1 << 62) - 1) == before + 5


@pytest.mark.parametrize("part", [0, 1, 7, 30])
@pytest.mark.parametrize("finished", [0, 3, 29])
def test_looking_back_over_parts_of_a_sort(probes, part, finished):
    own = torch.randint(0, 1000, (31, 256), generator=torch.Generator().manual_seed(1))
    done = (torch.arange(31) <= finished)[:, None]
    states = torch.where(done, (2 << 30) - (1 << 32) + own.cumsum(0), (1 << 30) + own)
    states = states.to(torch.int32)
    found = torch.zeros(256, dtype=torch.int32)
    probes.launch("probe_digits", 1, 256, states.data_ptr(), part, found.data_ptr())
    before = own[:part].sum(0)
    assert torch.equal(found.long(), before)
    assert torch.equal(states[part].long() & ((1 << 30) - 1), before + torch.arange(256))


@pytest.fixture(scope="module")
def probes(emulate, tmp_path_factory):
    """Kernels that call one function each."""
    native = tmp_path_factory.mktemp("probes") / "native"
    shutil.copytree(cuda.NATIVE, native)
    for name in ("probe", "probe_digits"):
        (native / f"{name}.cu").write_text(LOOK_BACK)
    return emulate(replace(cuda.LIBRARY, folder=native))


def loss_and_gradient(loss, image, target, mask, weight=0.2):
    image = image.clone().requires_grad_()
    value = loss(image, target, weight, mask)
    value.backward()
    return value.detach().double(), image.grad


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 17)])
@pytest.mark.parametrize("masked", [False, True])
def test_photometric_loss(emulated, size, masked):
    g = torch.Generator().manual_seed(3)
    image, target = torch.rand(2, 2, *size, 3, generator=g)
    target[0, :, :3] = image[0, :, :3]  # Where they are equal |x - y| has slope 0.
    mask = torch.rand(2, *size, generator=g) if masked else None
    value, gradient = loss_and_gradient(photometric_loss, image, target, mask)
    doubles = [None if t is None else t.double() for t in (image, target, mask)]
    truth, wanted = loss_and_gradient(_reference_loss.photometric_loss, *doubles)
    assert abs(value - truth) < 1e-6
    assert (gradient - wanted).norm() < 2e-5 * wanted.norm()
    prepared = PhotometricTarget.prepare(target)
    again, _ = loss_and_gradient(photometric_loss, image, prepared, mask)
    assert again == pytest.approx(float(value), abs=1e-7)
    with torch.no_grad():
        assert photometric_loss(image, prepared, mask=mask) == pytest.approx(float(value), abs=1e-7)


def test_photometric_loss_of_nothing(emulated):
    image, target = torch.rand(2, 1, 20, 20, 3)
    value, gradient = loss_and_gradient(photometric_loss, image, target, torch.zeros(1, 20, 20))
    assert value == 0
    assert not gradient.any()
    with pytest.raises(ValueError, match="mask: expected weights"):
        photometric_loss(image, target, mask=torch.full((1, 20, 20), 2.0))


def test_training_takes_the_same_steps(emulate, monkeypatch, tiny_model):
    views, Ks = make_cameras(2, 24, 20)
    cameras = Cameras(views, Ks, 24, 20)
    photos = torch.rand(2, 20, 24, 3, generator=torch.Generator().manual_seed(1))
    losses, models = [], []
    for kernels in (None, emulate()):
        if kernels is not None:
            use(monkeypatch, kernels)
        trainer = Trainer(tiny_model(40, 1), cameras, photos, TrainSettings(steps=4, exposure=True))
        losses.append([trainer.step() for _ in range(4)])
        models.append(trainer.model())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, value in models[0].tensors().items():
        torch.testing.assert_close(models[1].tensors()[name], value, rtol=1e-3, atol=1e-4)


MUTATIONS = [
    ("loss.cu", "t < SSIM_WINDOW; ++t) sums", "t < SSIM_WINDOW - 1; ++t) sums"),
    ("project.cu", "place < f.splat_room", "place + 1 < end"),
    ("project.cu", "k = 0; k < BASES; ++k)", "k = 0; k < BASES - 1; ++k)"),
    ("warp.h", "if (lane() >= step) value", "if (lane() > step) value"),
    ("sort.cu", "key >> (RADIX_BITS * pass)", "key >> (RADIX_BITS * pass + 1)"),
    ("tiles.cu", "static_cast<int>(end + 1.0f)", "static_cast<int>(end)"),
    ("tiles.cu", "least(bottom, MANY), -1.0f) + 1.0f)", "least(bottom, MANY), -1.0f))"),
    ("tiles.cu", "static_cast<uint32_t>(i + 1)", "static_cast<uint32_t>(i)"),
    ("blend.cu", "k < CHANNELS; ++k) sums[k]", "k < CHANNELS - 1; ++k) sums[k]"),
    ("rays.h", "static_cast<float>(DOWN - 1)", "static_cast<float>(DOWN - 2)"),
    ("fold.h", "i + half < n ?", "i + half + 1 < n ?"),
    ("unblend.cu", "w < WARPS; ++w)\n    if (desk", "w < WARPS - 1; ++w)\n    if (desk"),
    ("unproject.cu", "j < GROUP; ++j)", "j < GROUP - 1; ++j)"),
    ("gather.cu", "k < starts[splat + 1]", "k + 1 < starts[splat + 1]"),
    ("unblend.cu", "first + static_cast<uint32_t>(i)", "first + static_cast<uint32_t>(i + 1)"),
]


@pytest.mark.parametrize(("file", "old", "new"), MUTATIONS, ids=lambda text: text[:24])
def test_an_off_by_one_is_seen(emulate, monkeypatch, mutated, outcome, tmp_path, file, old, new):
    """Every family of kernels: one number wrong, and values or gradients are."""
    use(monkeypatch, emulate(mutated(cuda.LIBRARY, tmp_path, file, old, new)))
    torch.use_deterministic_algorithms(file == "gather.cu" or "first +" in old)
    if file == "loss.cu":
        assert outcome(lambda: test_photometric_loss(None, (33, 17), False)) != 0
    else:
        assert outcome(lambda: assert_parity(make_scene(100), make_cameras(), PLAIN)) != 0
    torch.use_deterministic_algorithms(False)


def test_without_a_mutation_nothing_is_seen(emulated, outcome):
    assert outcome(lambda: assert_parity(make_scene(100), make_cameras(), PLAIN)) == 0
