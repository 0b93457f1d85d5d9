"""Versions of groups of latent grids: their networks, and the parameters that come with them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from . import latent_guess
from .latent_defaults import shipped
from .latent_model import Design


@dataclass(frozen=True)
class Version:
    """What stays the same in all groups of a version.

    Attributes:
        number: that groups begin with.
        still, moving: of pictures that stand alone, and of those that lean on others.
        files: of shipped parameters: of pictures that stand alone, of anchors that lean on others,
            and of those between two.
        guess: of an encoder's weights for first guesses of latents, of pictures that stand alone.
        parts: whether motion is by parts, or by blocks of one size.
        anchors: on how many of the last ones before it an anchor leans.
    """

    number: int
    still: Design
    moving: Design
    files: tuple[str, str, str]
    guess: str | None = None
    parts: bool = False
    anchors: int = 1

    def prior(self, kind: int) -> Tensor:
        """[P] parameters that those of a picture are coded against where no others came before."""
        return shipped(self.files[kind], self.moving if kind else self.still)

    def weights(self) -> Tensor | None:
        """[levels, LEVEL] for `latent_guess`, or None."""
        return latent_guess.shipped(self.guess) if self.guess else None


VERSIONS = {
    2: Version(
        2,
        Design(near=12, above=5, context=16),
        Design(near=10, above=5, before=5, context=16, guides=3),
        ("latent_image_2", "latent_inter_2", "latent_inter_2"),
    ),
    3: Version(
        3,
        Design(near=12, above=5, context=16, layers=2),
        Design(near=10, above=5, before=5, context=16, guides=3, layers=2),
        ("latent_image_3", "latent_inter_3", "latent_between_3"),
    ),
}
VERSIONS[4] = replace(
    VERSIONS[3],
    number=4,
    files=("latent_image_3", "latent_inter_4", "latent_between_4"),
    guess="latent_guess_3",
    parts=True,
    anchors=2,
)
