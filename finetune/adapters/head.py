"""Train a new head for a new level of theory; the others stay exactly as they were."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from finetune.adapters.base import AdaptedPotential, Adapter
from finetune.adapters.options import HeadOptions
from finetune.foundation.potential import Potential


class HeadPotential(AdaptedPotential):
    """A potential with a new head, of which the new head's own parameters are trained.

    Args:
        potential: The potential with the new head.
        own: Masks by parameter name, True where entries are the new head's alone.
    """

    def __init__(self, potential: Potential, own: Mapping[str, torch.Tensor]) -> None:
        super().__init__(potential, frozenset(own))
        self._own = dict(own)
        self._before = {
            name: parameter.detach().clone()
            for name, parameter in self.trainable_parameters().items()
        }

    def merge(self) -> Potential:
        """Return the potential; entries of other heads are put back, lest weight decay moved them.

        What is put back takes no part in the new head's energies.
        """
        with torch.no_grad():
            for name, parameter in self.trainable_parameters().items():
                own = self._own[name].to(parameter.device)
                parameter.copy_(torch.where(own, parameter, self._before[name]))
        return self.potential


class HeadAdapter(Adapter):
    """A new head that starts as a copy of the foundation's."""

    Options = HeadOptions
    options: HeadOptions

    def attach(self, potential: Potential) -> HeadPotential:
        """Return an adapted copy; the potential itself is left as it is.

        Raises:
            RecipeError: If the potential cannot have one more head, or has one of that name.
        """
        return HeadPotential(*potential.add_head(self.options.name))
