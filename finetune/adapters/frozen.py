"""Train some parameters by name and keep the rest as the foundation has them."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.adapters.adapter import AdaptedPotential, Adapter, matching
from finetune.core.errors import RecipeError
from finetune.potentials.potential import Potential, plain_name
from finetune.recipe.adapter_options import FrozenOptions, FullOptions, ReadoutOptions


class FullAdapter(Adapter):
    """Every parameter of the foundation is trainable."""

    Options = FullOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`."""
        return AdaptedPotential(potential, frozenset(dict(potential.named_parameters())))


class FrozenAdapter(Adapter):
    """Parameters are trained, or frozen, where their names match a pattern."""

    Options = FrozenOptions
    options: FrozenOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`; refuses patterns without a match or that leave nothing to train."""
        everything = frozenset(dict(potential.named_parameters()))
        matched = _selected(potential, self.options.train or self.options.freeze)
        trainable = matched if self.options.train else everything - matched
        if not trainable:
            raise RecipeError("adapter.freeze matches every parameter: nothing is left to train.")
        return AdaptedPotential(potential, trainable)


class ReadoutAdapter(Adapter):
    """The readouts alone are trainable."""

    Options = ReadoutOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`."""
        return AdaptedPotential(potential, _selected(potential, ["readouts.*"]))


def _selected(potential: Potential, patterns: Sequence[str]) -> frozenset[str]:
    """Return the parameters whose names in the model inside match any pattern."""
    names = {plain_name(name): name for name, _ in potential.named_parameters()}
    layers = sorted({f"{name.rpartition('.')[0] or name}.*" for name in names})
    return frozenset(names[name] for name in matching(list(names), patterns, "parameter", layers))
