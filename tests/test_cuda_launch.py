"""Launches, with stand-ins for the driver's side: threads, streams, devices, shapes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fieldpress.render import cuda


class Driver:
    """What cuda-core and torch are asked for, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.current, self.stream, self.contexts = 0, 0, threading.local()
        self.Stream = SimpleNamespace(from_handle=lambda handle: f"stream {handle}")
        self.ObjectCode = SimpleNamespace(from_cubin=lambda code: self)

    def Device(self, index: int) -> Any:
        def set_current() -> None:
            self.contexts.index = index
            self.said.append(("context", index))

        return SimpleNamespace(set_current=set_current)

    def LaunchConfig(self, grid: int, block: int) -> tuple[int, int]:
        return grid, block

    def get_kernel(self, name: str) -> str:
        return f"kernel {name}"

    def launch(self, stream: str, shape: tuple[int, int], kernel: str, *arguments: int) -> None:
        if getattr(self.contexts, "index", None) != self.current:
            raise RuntimeError("CUDA_ERROR_INVALID_CONTEXT")
        self.said.append((stream, shape, kernel, *arguments))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()

    @contextlib.contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        before, found.current = found.current, wanted.index
        yield
        found.current = before

    properties = SimpleNamespace(multi_processor_count=3, major=9, minor=0)
    for name, value in {
        "init": lambda: None, "current_device": lambda: found.current, "device": device,
        "current_stream": lambda device: SimpleNamespace(cuda_stream=found.stream),
        "get_device_properties": lambda device: properties,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda, "_cuda_core", lambda: found)
    monkeypatch.setattr(cuda, "cached_unit", lambda unit, arch, macros, library: b"code")
    return found


def test_a_launch_takes_torchs_stream_and_arguments(driver: Driver) -> None:
    kernels = cuda.DeviceKernels(torch.device("cuda", 0))
    kernels.launch("gather", 2, 64, 5, 6)
    driver.stream = 77
    kernels.launch("gather", 2, 64, 7)
    assert driver.said == [
        ("context", 0),
        ("stream 0", (2, 64), "kernel gather", 5, 6),
        ("stream 77", (2, 64), "kernel gather", 7),
    ]


def test_every_thread_gets_a_context(driver: Driver) -> None:
    """Autograd's threads, and a viewer's, launch what another thread has loaded."""
    kernels = cuda.DeviceKernels(torch.device("cuda", 0))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            kernels.launch("blend", 1, 32)
            kernels.launch("blend", 1, 32)
        except BaseException as error:
            failed.append(error)

    work()
    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not failed
    assert [said for said in driver.said if said[0] == "context"] == [("context", 0)] * 3


def test_another_device_is_left_as_it_was_found(driver: Driver) -> None:
    kernels = cuda.DeviceKernels(torch.device("cuda", 1))
    assert driver.said == []
    kernels.launch("blend", 1, 32)
    assert driver.current == 0
    assert driver.said[0] == ("context", 1)


def test_shapes_that_never_come_again_are_not_kept_for_ever(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "MOST_SHAPES", 3)
    kernels = cuda.DeviceKernels(torch.device("cuda", 0))
    for blocks in range(1, 9):
        kernels.launch("blend", blocks, 32)
        assert len(kernels._shapes) <= 3
    assert [said[1] for said in driver.said[1:]] == [(blocks, 32) for blocks in range(1, 9)]
