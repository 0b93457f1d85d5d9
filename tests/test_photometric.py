"""The photometric loss against its double twin, another formula, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fieldpress.render import _native, _reference_loss
from fieldpress.render.photometric import PhotometricTarget, photometric_loss

SIZES = [(1, 1, 1), (2, 5, 7), (1, 1, 40), (3, 40, 1), (1, 11, 11), (2, 37, 53), (1, 64, 129)]


def make_pair(shape, seed=0, noise=0.2):
    """Smooth photographs with a black and a white patch, and renders that miss them a little."""
    g = torch.Generator().manual_seed(seed)
    c, h, w = shape
    coarse = torch.rand(c, 3, h // 8 + 2, w // 8 + 2, generator=g)
    photo = F.interpolate(coarse, size=(h, w), mode="bilinear").permute(0, 2, 3, 1).contiguous()
    photo[:, : h // 3, : w // 3] = 0
    photo[:, 2 * h // 3 :, 2 * w // 3 :] = 1
    return photo + noise * torch.randn(c, h, w, 3, generator=g), photo


def make_mask(shape, seed=0):
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    mask[mask < 0.3] = 0
    mask[mask > 0.7] = 1
    return mask


def run(loss, image, *arguments):
    """The value and the gradient in double."""
    leaf = image.detach().clone().requires_grad_()
    value = loss(leaf, *arguments)
    value.backward()
    assert leaf.grad is not None
    return value.detach().double(), leaf.grad.double()


def relative(got, want):
    return float((got - want).norm() / want.norm())


def conv_loss(x, y, ssim_weight=0.2, mask=None):
    """The textbook way: one dense window of 11 x 11, conv2d with padding."""
    taps = torch.exp(-((torch.arange(11, dtype=x.dtype) - 5) ** 2) / (2 * 1.5**2))
    window = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 11, 11)
    blur = lambda t: F.conv2d(t, window, padding=5, groups=3)  # noqa: E731
    p, q = x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2).to(x.dtype)
    weights = torch.ones_like(p) if mask is None else mask.to(x.dtype)[:, None].expand_as(p)
    mp, mq = blur(p), blur(q)
    spread = blur(p * p) + blur(q * q) - mp * mp - mq * mq
    ssim = (2 * mp * mq + 1e-4) * (2 * (blur(p * q) - mp * mq) + 9e-4)
    ssim = ssim / ((mp * mp + mq * mq + 1e-4) * (spread + 9e-4))
    each = (1 - ssim_weight) * (p - q).abs() + ssim_weight * (1 - ssim)
    return (weights * each).sum() / weights.sum()


@pytest.fixture(params=_native.available_isas())
def isa(request):
    usual = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(usual)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SIZES)
def test_value_and_gradient_of_the_twin(isa, shape, masked):
    image, photo = make_pair(shape)
    mask = make_mask(shape).clamp_min(0.1) if masked else None
    for ssim_weight in (0.0, 0.2, 1.0):
        got = run(photometric_loss, image, photo, ssim_weight, mask)
        arguments = (photo.double(), ssim_weight, mask)
        want = run(_reference_loss.photometric_loss, image.double(), *arguments)
        assert relative(got[0], want[0]) < 1e-5
        assert relative(got[1], want[1]) < 1e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SIZES)
def test_the_twin_agrees_with_convolutions(shape, masked):
    image, photo = (t.double() for t in make_pair(shape))
    mask = make_mask(shape).double().clamp_min(0.1) if masked else None
    got = run(_reference_loss.photometric_loss, image, photo, 0.2, mask)
    want = run(conv_loss, image, photo, 0.2, mask)
    assert relative(got[0], want[0]) < 1e-9
    assert relative(got[1], want[1]) < 1e-9


def test_the_gradient_is_the_slope():
    image, photo = make_pair((1, 9, 13))
    ways = torch.randn(5, 1, 9, 13, 3, generator=torch.Generator().manual_seed(1)).double()
    _, gradient = run(photometric_loss, image, photo)
    for way in ways:
        step = 1e-6 * way
        ends = [
            _reference_loss.photometric_loss(image.double() + s, photo.double())
            for s in (step, -step)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-4, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 1000),
    st.floats(0, 1),
    st.booleans(),
)
def test_any_size_and_weight(shape, seed, ssim_weight, masked):
    image, photo = make_pair(shape, seed)
    mask = make_mask(shape, seed) if masked else None
    got = run(photometric_loss, image, photo, ssim_weight, mask)
    arguments = (photo.double(), ssim_weight, mask)
    want = run(_reference_loss.photometric_loss, image.double(), *arguments)
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-7)
    assert float((got[1] - want[1]).norm()) <= 1e-5 * float(want[1].norm())


def test_equal_pictures_cost_nothing():
    _, photo = make_pair((2, 30, 41))
    value, gradient = run(photometric_loss, photo, photo)
    assert abs(float(value)) < 1e-6
    assert float(gradient.abs().max()) < 1e-6


def test_a_mask_of_zeros_gives_zeros():
    image, photo = make_pair((2, 20, 23))
    image[0, 3, 3] = math.nan
    value, gradient = run(photometric_loss, image, photo, 0.2, torch.zeros(2, 20, 23))
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_mask_of_ones_is_no_mask():
    image, photo = make_pair((2, 20, 23))
    plain, masked = (
        run(photometric_loss, image, photo, 0.2, m) for m in (None, torch.ones(2, 20, 23))
    )
    assert torch.equal(plain[0], masked[0])
    assert torch.equal(plain[1], masked[1])


def test_what_the_mask_hides_does_not_count():
    image, photo = make_pair((1, 40, 40))
    mask = torch.zeros(1, 40, 40)
    mask[:, :10] = 1
    before = run(photometric_loss, image, photo, 0.2, mask)
    image[:, 20:] += 1  # Further than the windows of the rows that count.
    after = run(photometric_loss, image, photo, 0.2, mask)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.equal(after[1][:, 15:], torch.zeros(1, 25, 40, 3))


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 67, 31), (3, 130, 20), (5, 33, 8)])
def test_the_same_bits_with_any_number_of_threads(isa, shape):
    image, photo = make_pair(shape)
    results = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        for mask in (None, make_mask(shape)):
            target = PhotometricTarget.prepare(photo)
            value, gradient = run(photometric_loss, image, target, 0.2, mask)
            results.append((mask is None, value, gradient, target.mean, target.variance))
    torch.set_num_threads(1)
    for result in results:
        want = results[0] if result[0] else results[1]
        assert all(torch.equal(a, b) for a, b in zip(result[1:], want[1:], strict=True))


def test_instruction_sets_are_close():
    image, photo = make_pair((2, 37, 53))
    usual, results = _native.isa(), []
    for name in _native.available_isas():
        _native.set_isa(name)
        results.append(run(photometric_loss, image, photo))
    _native.set_isa(usual)
    for value, gradient in results[1:]:
        assert relative(value, results[0][0]) < 1e-6
        assert relative(gradient, results[0][1]) < 1e-6


def test_a_prepared_target_changes_no_bit():
    image, photo = make_pair((2, 37, 53))
    plain = run(photometric_loss, image, photo)
    for _ in range(2):
        cached = run(photometric_loss, image, PhotometricTarget.prepare(photo))
        assert torch.equal(plain[0], cached[0])
        assert torch.equal(plain[1], cached[1])


def test_views_are_averaged():
    image, photo = make_pair((3, 17, 19))
    value, gradient = run(photometric_loss, image, photo)
    alone = [run(photometric_loss, image[i : i + 1], photo[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(value, sum(a[0] for a in alone) / 3, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.cat([a[1] for a in alone]) / 3, rtol=1e-5, atol=1e-9)


def test_gradients_flow_on_both_sides():
    image, photo = make_pair((1, 21, 18))
    gain = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    loss = (3 * photometric_loss(image * gain, photo)).exp()
    loss.backward(retain_graph=True)
    assert gain.grad is not None
    got = gain.grad.clone()
    loss.backward()
    assert torch.equal(gain.grad, 2 * got)
    twin = gain.detach().double().requires_grad_()
    (3 * _reference_loss.photometric_loss(image.double() * twin, photo.double())).exp().backward()
    assert twin.grad is not None
    assert relative(got.double(), twin.grad) < 1e-5


def test_a_second_pass_adds_to_the_first():
    image, photo = make_pair((1, 21, 18))
    _, gradient = run(photometric_loss, image, photo)
    leaf = image.clone().requires_grad_()
    loss = photometric_loss(leaf, photo)
    for k in (1, 2, 3):
        loss.backward(retain_graph=True)
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), k * gradient, rtol=1e-6, atol=0)
    both = image.clone().requires_grad_()
    (photometric_loss(both, photo) + photometric_loss(2 * both, photo)).backward()
    other = image.clone().requires_grad_()
    photometric_loss(2 * other, photo).backward()
    assert both.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(both.grad.double(), gradient + other.grad.double())


def test_without_gradients_the_same_value():
    image, photo = make_pair((2, 37, 53))
    want, _ = run(photometric_loss, image, photo)
    value = photometric_loss(image, photo)
    assert not value.requires_grad
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.double() == want
    with torch.no_grad():
        value = photometric_loss(image.requires_grad_(), photo)
    assert not value.requires_grad
    assert value.double() == want


def test_layout_does_not_matter():
    image, photo = make_pair((2, 20, 23))
    want = run(photometric_loss, image, photo)
    turned = [t.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3) for t in (image, photo)]
    got = run(photometric_loss, *turned)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_neither_tensor_is_written_to():
    image, photo = make_pair((2, 20, 23))
    mask = make_mask((2, 20, 23))
    copies = [t.clone() for t in (image, photo, mask)]
    run(photometric_loss, image, photo, 0.2, mask)
    assert all(torch.equal(a, b) for a, b in zip((image, photo, mask), copies, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e38, 1e30])
def test_numbers_that_are_none_do_not_crash(isa, bad):
    image, photo = make_pair((1, 40, 37))
    image[0, 30, 30, 1] = bad
    value, gradient = run(photometric_loss, image, photo)
    assert math.isfinite(bad) or not math.isfinite(value)
    clean, want = run(photometric_loss, make_pair((1, 40, 37))[0], photo)
    assert torch.equal(gradient[:, :19], want[:, :19])  # Two windows off, nothing is felt.
    assert math.isfinite(clean)


def test_no_views_at_all():
    value = photometric_loss(torch.zeros(0, 4, 5, 3), torch.zeros(0, 4, 5, 3))
    assert value == 0
    image = torch.zeros(0, 4, 5, 3, requires_grad=True)
    photometric_loss(image, PhotometricTarget.prepare(torch.zeros(0, 4, 5, 3))).backward()
    assert image.grad is not None


BAD = [
    ("rank", lambda a: a.update(image=a["image"][0]), r"image: expected .* \[7, 6, 3\]"),
    ("list", lambda a: a.update(image=[1.0]), "image: expected a tensor .* got list"),
    ("channels", lambda a: a.update(image=torch.zeros(2, 7, 6, 4)), "image: expected"),
    ("empty side", lambda a: a.update(image=torch.zeros(2, 0, 6, 3)), "image: expected sides"),
    ("dtype", lambda a: a.update(image=a["image"].double()), "image: expected float32"),
    ("meta", lambda a: a.update(image=a["image"].to("meta")), "image: expected a CPU tensor"),
    ("target", lambda a: a.update(target=a["target"][:1]), r"target: expected shape \[2, 7,"),
    ("none", lambda a: a.update(target=None), "target: expected a tensor, got NoneType"),
    ("bytes", lambda a: a.update(target=a["target"].byte()), "target: expected float32, got uint8"),
    (
        "target grad",
        lambda a: a.update(target=a["target"].requires_grad_()),
        "target: expected a tensor without gradients",
    ),
    (
        "prepared",
        lambda a: a.update(target=PhotometricTarget.prepare(a["target"][:1])),
        r"target.image: expected shape \[2, 7, 6, 3\], got \[1, 7, 6, 3\]",
    ),
    ("mask shape", lambda a: a.update(mask=torch.ones(2, 7)), "mask: expected shape"),
    ("mask dtype", lambda a: a.update(mask=torch.ones(2, 7, 6).bool()), "mask: expected float32"),
    ("mask sign", lambda a: a.update(mask=-torch.ones(2, 7, 6)), r"mask: expected .* in \[0, 1\]"),
    ("mask high", lambda a: a.update(mask=2 * torch.ones(2, 7, 6)), r"mask: expected .* in \[0"),
    ("mask nan", lambda a: a.update(mask=torch.full((2, 7, 6), math.nan)), r"mask: expected .* in"),
    (
        "mask grad",
        lambda a: a.update(mask=torch.ones(2, 7, 6, requires_grad=True)),
        "mask: expected a tensor without gradients",
    ),
    ("weight", lambda a: a.update(ssim_weight=1.5), "ssim_weight: expected in"),
    ("nan weight", lambda a: a.update(ssim_weight=math.nan), "ssim_weight: expected in"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "message"), BAD, ids=[case[0] for case in BAD])
def test_bad_arguments_end_in_one_line(name, spoil, message):
    arguments = {"image": torch.zeros(2, 7, 6, 3), "target": torch.zeros(2, 7, 6, 3)}
    spoil(arguments)
    with pytest.raises(ValueError, match=message) as caught:
        photometric_loss(**arguments)
    assert "\n" not in str(caught.value)


def test_the_kernel_trusts_no_shape():
    ok = [torch.zeros(1, 4, 5, 3) for _ in range(5)]
    for i in range(5):
        wrong = [t if j != i else torch.zeros(1, 3, 5, 3) for j, t in enumerate(ok)]
        with pytest.raises(ValueError, match="unexpected shape"):
            _native.photometric_loss(*wrong[:4], None, 0.2, wrong[4], 1)
    with pytest.raises(ValueError, match="mask"):
        _native.photometric_loss(*ok[:4], torch.zeros(4), 0.2, None, 1)
    with pytest.raises(ValueError, match="unexpected shape"):
        _native.photometric_moments(ok[0], ok[1], torch.zeros(3), 1)
    with pytest.raises(TypeError):
        _native.photometric_moments(ok[0].double(), ok[1], ok[2], 1)
