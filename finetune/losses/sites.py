"""Where the losses need the potentials, and what of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from finetune.displacements import DisplacementOptions
from finetune.schedules import Schedule


@dataclass(frozen=True)
class Site:
    """A geometry at which the potential is evaluated.

    Attributes:
        displacement: How the atoms are displaced; None for where they are.
        strain: Largest component of the strain of atoms and cells; None for cells as they are.
        copy: Number of the draw, so that one loss can ask for several.
        sign: −1 for the mirrored displacement or strain of the same draw.
    """

    displacement: DisplacementOptions | None = None
    strain: float | Schedule | None = None
    copy: int = 0
    sign: Literal[1, -1] = 1

    @property
    def drawn(self) -> Site | None:
        """The site whose draw this one uses, mirrored or not; None where nothing is drawn."""
        return None if self == BASE else replace(self, sign=1)


BASE = Site()
"""The structures as they are."""


@dataclass(frozen=True)
class Request:
    """What a loss needs at a site. Requests of several losses at one site are shared.

    Attributes:
        site: Where.
        forces: Whether forces are needed beside energies.
        stress: Whether stresses are needed.
        of: Which potential: the one in training, or the frozen foundation.
    """

    site: Site
    forces: bool = False
    stress: bool = False
    of: Literal["trained", "foundation"] = "trained"
