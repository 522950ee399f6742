"""What a test of a custom adapter, loss or potential can start from."""

from finetune.testing.adapters import AdapterSuite
from finetune.testing.analytic import (
    HarmonicPotential,
    LennardJonesPotential,
    MorsePotential,
    PairPotential,
    small_potential,
)
from finetune.testing.families import FamilySuite
from finetune.testing.losses import LossSuite
from finetune.testing.potentials import PotentialSuite

__all__ = [
    "AdapterSuite",
    "FamilySuite",
    "HarmonicPotential",
    "LennardJonesPotential",
    "LossSuite",
    "MorsePotential",
    "PairPotential",
    "PotentialSuite",
    "small_potential",
]
