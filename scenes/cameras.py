"""Cameras and the scene they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A set of C pinhole cameras of one image size.

    Attributes:
        viewmats: [C, 4, 4] float32, world to camera, OpenCV axes (x right, y down, z forward).
        Ks: [C, 3, 3] float32, intrinsics in pixels; pixel centres lie at +0.5.
        width: image columns.
        height: image rows.
        times: [C] seconds, or None for a static set.
    """

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int
    times: Tensor | None = None

    def __post_init__(self) -> None:
        if self.viewmats.ndim != 3 or self.viewmats.shape[1:] != (4, 4):
            raise ValueError(f"viewmats: expected [C, 4, 4], got {list(self.viewmats.shape)}")
        if self.Ks.shape != (len(self.viewmats), 3, 3):
            raise ValueError(
                f"Ks: expected [{len(self.viewmats)}, 3, 3], got {list(self.Ks.shape)}"
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size: expected at least 1x1, got {self.width}x{self.height}")

    def __len__(self) -> int:
        return len(self.viewmats)

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        """The cameras that a slice, mask or list of indices selects."""
        times = None if self.times is None else self.times[index]
        return Cameras(self.viewmats[index], self.Ks[index], self.width, self.height, times)

    @property
    def positions(self) -> Tensor:
        """[C, 3] camera centres in world units."""
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotation.transpose(1, 2) @ translation[:, :, None])[:, :, 0]

    def resized(self, width: int, height: int) -> Cameras:
        """The same views at another image size; intrinsics scale per axis."""
        scale = torch.tensor(
            [[width / self.width], [height / self.height], [1.0]], dtype=self.Ks.dtype
        )
        return Cameras(self.viewmats, self.Ks * scale, width, height, self.times)


@dataclass(frozen=True)
class Scene:
    """Posed photographs of one place, split into training and test views.

    Attributes:
        name: what reports call it.
        train, test: cameras of each split.
        train_images, test_images: [C, H, W, 3] float32 in [0, 1], sRGB, or None without photos.
        points: [P, 3] world positions for initialisation, or None.
        colors: [P, 3] in [0, 1], or None.
        train_masks, test_masks: [C, H, W] float32 in [0, 1], 0 where a pixel is not to be looked
            at, or None if every pixel counts.
        train_names, test_names: the C file names of each split, or empty.
    """

    name: str
    train: Cameras
    test: Cameras
    train_images: Tensor | None = None
    test_images: Tensor | None = None
    points: Tensor | None = None
    colors: Tensor | None = None
    train_masks: Tensor | None = None
    test_masks: Tensor | None = None
    train_names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()
