"""A potential that changes what another one predicts: the base of adapters that add parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from finetune.data.graphs import GraphBatch
from finetune.foundation.potential import Potential


class WrappedPotential(Potential):
    """A potential around another one, which it holds as ``base``.

    A subclass registers parameters of its own and overrides `interaction`, where it evaluates
    ``self.base.interaction(…)`` or ``self.base.interaction_and_features(…)`` and changes the
    energies of the atoms; forces and stress follow. Only parameters are stored with it: everything
    else must follow from ``base`` and from the adapter's options.

    Args:
        base: The potential inside.
    """

    def __init__(self, base: Potential) -> None:
        super().__init__(base.cutoff, base.references())
        self.base = base
        self.to(base.device)
        self.train(base.training)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the potential inside."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Device of the potential inside."""
        return self.base.device

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return self.base.feature_size

    def set_references(self, energies: Mapping[int, float]) -> None:
        """Replace the reference energies (eV) of the elements given, inside too."""
        super().set_references(energies)
        self.base.set_references(energies)

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `Potential.interaction`; that of the potential inside, unless overridden."""
        return self.base.interaction(batch, element, strain)

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`; those of the potential inside."""
        return self.base.interaction_and_features(batch, element, strain)


def innermost(potential: Potential) -> Potential:
    """Return the potential inside all wrappers."""
    while isinstance(potential, WrappedPotential):
        potential = potential.base
    return potential


def plain_name(parameter: str) -> str:
    """Return a parameter's name as the model inside calls it: ``readouts.0.linear.weight``."""
    while parameter.startswith("base."):
        parameter = parameter.removeprefix("base.")
    return parameter.removeprefix("model.")
