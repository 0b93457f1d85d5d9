"""The thread pool: its size, its company and a fork change no bit."""

from __future__ import annotations

import hashlib
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.statistics import statistics

WIDTH, HEIGHT = 200, 150
OPTIONS = RasterOptions(sh_degree=1)


def make_scene(n=4_000):
    g = torch.Generator().manual_seed(3)
    means = torch.randn(n, 3, generator=g) + torch.tensor([0.0, 0.0, 4.0])
    return (
        means, torch.randn(n, 4, generator=g), (torch.randn(n, 3, generator=g) - 3.5).exp(),
        torch.rand(n, generator=g), torch.randn(n, 4, 3, generator=g),
    )  # fmt: skip


def draw(scene):
    K = torch.tensor([[[150.0, 0, 100.0], [0, 150.0, 75.0], [0, 0, 1]]])
    return rasterize(*scene, torch.eye(4)[None], K, WIDTH, HEIGHT, OPTIONS)[0]


def draw_with(threads, n=4_000):
    torch.set_num_threads(threads)
    return draw(make_scene(n))


def digest(image):
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def draw_into(queue, scene):
    # Nothing here may reach torch's own pool: OpenMP does not survive a fork.
    queue.put(digest(draw(scene)))


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    torch.set_num_threads(1)


def test_more_threads_than_cores_or_work():
    want = draw_with(1)
    for threads in (2, 3, 16):
        assert torch.equal(draw_with(threads), want)
    assert torch.equal(draw_with(16, 1), draw_with(1, 1))


def test_callers_side_by_side():
    want, scene = draw_with(1), make_scene()
    torch.set_num_threads(2)
    K = torch.tensor([[[150.0, 0, 100.0], [0, 150.0, 75.0], [0, 0, 1]]])
    view = torch.eye(4)[None]
    hits = statistics(*scene[:4], view, K, WIDTH, HEIGHT).hits
    with ThreadPoolExecutor(4) as pool:
        images = [
            pool.submit(rasterize, *scene, view, K, WIDTH, HEIGHT, OPTIONS) for _ in range(12)
        ]
        sums = [pool.submit(statistics, *scene[:4], view, K, WIDTH, HEIGHT) for _ in range(12)]
        assert all(torch.equal(image.result()[0], want) for image in images)
        assert all(torch.equal(each.result().hits, hits) for each in sums)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
def test_a_forked_child_draws_too():
    scene = make_scene()
    torch.set_num_threads(2)
    want = digest(draw(scene))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=draw_into, args=(queue, scene))
    child.start()
    try:
        assert queue.get(timeout=60) == want
    finally:
        child.join(10)
        if child.is_alive():
            child.kill()
    assert digest(draw(scene)) == want
