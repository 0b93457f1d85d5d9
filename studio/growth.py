"""Densification of Gaussians that another program's optimisers move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..gaussians.densify import DensifyingTrainer, DensifySettings
from ..gaussians.model import SplatModel
from ..gaussians.train import TrainSettings

THEIRS = {
    "means": "means", "quats": "quats", "scales": "scales", "opacities": "opacities",
    "sh0": "features_dc", "shN": "features_rest",
}  # fmt: skip


def to_splatfacto(model: SplatModel) -> dict[str, Tensor]:
    """Tensors in the names and shapes of nerfstudio's splatfacto: features_dc [N, 3] and so on."""
    return {theirs: _theirs(ours, model.tensors()[ours]) for ours, theirs in THEIRS.items()}


def _ours(name: str, value: Tensor) -> Tensor:
    """A view of a tensor of splatfacto in the shape that it has here."""
    if name == "sh0":
        return value[:, None, :]
    return value[:, 0] if name == "opacities" else value


def _theirs(name: str, value: Tensor) -> Tensor:
    if name == "sh0":
        return value[:, 0, :]
    return value[:, None] if name == "opacities" else value


class Growth(DensifyingTrainer):
    """Moves and adds Gaussians as `fit gaussians` does (Kheradmand et al. 2024), and no more.

    Not initialised as a trainer is: it shows nothing and owns no optimiser.

    Args:
        parameters: splatfacto's, by its names; replaced there when Gaussians are added.
        optimizers: of torch's Adam, one for each of these names.
        steps: of the whole training.
        settings: budget and schedule.
    """

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        parameters: torch.nn.ParameterDict,
        optimizers: Mapping[str, torch.optim.Optimizer],
        steps: int,
        settings: DensifySettings,
    ) -> None:
        self._parameters, self._optimizers = parameters, optimizers
        self.settings, self.densify = TrainSettings(steps=steps), settings
        self.extent = 1.0  # nerfstudio scales captures to about this.
        self.device = parameters["means"].device
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.number = 0

    @property
    def params(self) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Views of the values, without gradients."""
        return {ours: _ours(ours, self._parameters[t].detach()) for ours, t in THEIRS.items()}

    def after_step(self, number: int) -> None:
        """What is to be done once `number` steps are."""
        self.number = number
        self.after_update()

    def moments(self) -> dict[str, list[Tensor]]:
        """Views of Adam's two moments by name, of those tensors that have any yet."""
        found = {}
        for ours, theirs in THEIRS.items():
            state = self._optimizers[theirs].state.get(self._parameters[theirs])
            if state:
                found[ours] = [_ours(ours, state[key]) for key in ("exp_avg", "exp_avg_sq")]
        return found

    def replace(self, values: dict[str, Tensor], moments: dict[str, list[Tensor]]) -> None:
        """Go on with other tensors and moments, in the place of the old ones."""
        for ours, theirs in THEIRS.items():
            optimizer, old = self._optimizers[theirs], self._parameters[theirs]
            new = torch.nn.Parameter(_theirs(ours, values[ours]).contiguous())
            state = optimizer.state.pop(old, None)
            if state:
                pair = (_theirs(ours, m).contiguous() for m in moments[ours])
                state["exp_avg"], state["exp_avg_sq"] = pair
                optimizer.state[new] = state
            optimizer.param_groups[0]["params"] = [new]
            self._parameters[theirs] = new
