"""The family of potentials with a head for forces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune.potentials.direct.settings import Base, DirectSettings
from finetune.potentials.family import UNNAMED, Family, MatrixStack, family

if TYPE_CHECKING:
    import torch

    from finetune.potentials.direct.potential import DirectPotential
    from finetune.potentials.family import Weights

_BASE, _HEAD = "base.model.", "force_head."


class DirectFamily(Family):
    """Another family's network whose features give forces, too, without differentiation.

    Forces of a head are no gradient of the energy. They cost a fraction of it.
    """

    Settings = DirectSettings
    wraps = True
    groups = {"force_head": (f"{_HEAD}*",)}
    title = "direct-force"
    citation = "that of the network inside"

    def build(
        self, settings: DirectSettings, dtype: torch.dtype, head: str | None = None
    ) -> DirectPotential:
        """See `Family.build`."""
        from finetune.potentials.direct.potential import DirectPotential

        base = family(settings.base.family).build(settings.base.settings, dtype, head)
        return DirectPotential(base, settings.channels, settings.removed)

    def assemble(
        self, settings: DirectSettings, weights: Weights, dtype: torch.dtype, head: str | None
    ) -> tuple[DirectPotential, Weights]:
        """See `Family.assemble`: the base as it was when ``head`` was trained."""
        import torch

        from finetune.potentials.direct.potential import DirectPotential

        own = {name: tensor for name, tensor in weights.items() if name.startswith(_HEAD)}
        below = {name.removeprefix(_BASE): weights[name] for name in weights.keys() - own.keys()}
        base, rest = family(settings.base.family).assemble(
            settings.base.settings, below, dtype, head
        )
        with torch.random.fork_rng(devices=[]):
            potential = DirectPotential(base, settings.channels, settings.removed)
        return potential, {**{f"{_BASE}{name}": item for name, item in rest.items()}, **own}

    def example(self) -> DirectSettings:
        """See `Family.example`: the first family's, with a head."""
        base = Base(family=UNNAMED, settings=family(UNNAMED).example())
        return DirectSettings(base=base, channels=4)

    def groups_of(self, potential: DirectPotential) -> Mapping[str, tuple[str, ...]]:
        """See `Family.groups_of`: those of the base, and the head."""
        groups = family(potential.base.family).groups_of(potential.base)
        readout = (*groups.get("readout", ()), *self.groups["force_head"])
        return {**groups, **self.groups, "readout": readout}

    def matrix_stacks_of(self, potential: DirectPotential) -> Mapping[type, MatrixStack]:
        """See `Family.matrix_stacks_of`."""
        return family(potential.base.family).matrix_stacks_of(potential.base)

    def accelerate(self, potential: DirectPotential, kind: str) -> DirectPotential:
        """See `Family.accelerate`: as the base's family does."""
        base = family(potential.base.family).accelerate(potential.base, kind)
        return potential if base is potential.base else potential.around(base)

    def plain(self, potential: DirectPotential) -> DirectPotential:
        """See `Family.plain`."""
        base = family(potential.base.family).plain(potential.base)
        return potential if base is potential.base else potential.around(base)
