"""Train every weight."""

from __future__ import annotations

from finetune.adapters.base import AdaptedPotential, Adapter
from finetune.adapters.options import FullOptions
from finetune.foundation.potential import Potential


class FullAdapter(Adapter):
    """Every parameter of the foundation is trainable."""

    Options = FullOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`."""
        return AdaptedPotential(potential, frozenset(dict(potential.named_parameters())))
