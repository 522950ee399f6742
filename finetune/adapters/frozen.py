"""Train some parameters by name and keep the rest as the foundation has them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from finetune.adapters.base import AdaptedPotential, Adapter
from finetune.adapters.options import FrozenOptions, ReadoutOptions
from finetune.errors import RecipeError, suggestion
from finetune.foundation.potential import Potential


class FrozenAdapter(Adapter):
    """Parameters are trained, or frozen, where their names match a pattern."""

    Options = FrozenOptions
    options: FrozenOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`.

        Raises:
            RecipeError: If a pattern matches no parameter, or nothing is left to train.
        """
        everything = frozenset(dict(potential.named_parameters()))
        matched = matching(potential, self.options.train or self.options.freeze)
        trainable = matched if self.options.train else everything - matched
        if not trainable:
            raise RecipeError("adapter.freeze matches every parameter: nothing is left to train.")
        return AdaptedPotential(potential, trainable)


class ReadoutAdapter(Adapter):
    """The readouts alone are trainable."""

    Options = ReadoutOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`."""
        return AdaptedPotential(potential, matching(potential, ["readouts.*"]))


def matching(potential: Potential, patterns: Sequence[str]) -> frozenset[str]:
    """Return the names of the parameters that match any shell-style pattern.

    Patterns see the names of the wrapped model: ``readouts.1.linear_2.weight``.

    Raises:
        RecipeError: If a pattern matches nothing, naming the nearest parameter.
    """
    names = {name.removeprefix("model."): name for name, _ in potential.named_parameters()}
    found = set()
    for pattern in patterns:
        hits = {full for name, full in names.items() if fnmatchcase(name, pattern)}
        if not hits:
            blocks = sorted({name.rpartition(".")[0] for name in names})
            raise RecipeError(
                f"the pattern '{pattern}' matches no parameter."
                f"{suggestion(pattern, [*names, *(f'{block}.*' for block in blocks)])} "
                f"Blocks: {', '.join(blocks)}."
            )
        found |= hits
    return frozenset(found)
