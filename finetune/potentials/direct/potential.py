"""A potential that predicts forces directly: a base of another family and a head for forces."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.potentials.direct.settings import Base, DirectSettings, Removed
from finetune.potentials.equivariant import default_dtype, quiet_import
from finetune.potentials.potential import FamilyPotential, balanced


class ForceHead(torch.nn.Module):
    """Forces of atoms as a gated sum of the vectors among their features.

    F_i = Σ_c a_c g_c(scalars of i) v_ic, where v_ic are learnt mixtures of the vectors of all
    layers and the gates g_c come from a perceptron on the scalars of all layers. Forces turn with
    the structure whatever the weights are.
    """

    def __init__(self, irreps: str, channels: int) -> None:
        super().__init__()
        o3, nn = quiet_import("e3nn.o3"), quiet_import("e3nn.nn")
        features = o3.Irreps(irreps)
        self.scalar, self.vector = _scalars(features), vectors(irreps)
        if not self.vector or not self.scalar:
            raise RecipeError(
                "a head for forces needs features of atoms that are vectors; this foundation has "
                f"only {irreps or 'scalars'}. Choose another foundation."
            )
        self.mix = o3.Linear(features, f"{channels}x{self.vector}")
        width = sum(part.stop - part.start for part in self.scalar)
        silu = torch.nn.functional.silu
        self.gate = nn.FullyConnectedNet([width, channels, channels], silu)
        self.read = o3.Linear(f"{channels}x{self.vector}", f"1x{self.vector}")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return forces ``[N, 3]``, eV/Å, from the features of `FamilyPotential.node_irreps`."""
        gates = self.gate(torch.cat([features[:, part] for part in self.scalar], dim=1))
        mixed = self.mix(features).reshape(len(features), -1, 3) * gates[:, :, None]
        forces: torch.Tensor = self.read(mixed.flatten(1))
        return forces


def vectors(irreps: str) -> str:
    """Return the irrep of the vectors among irreps, ``1o`` where there are any; else empty.

    Networks that do not know parity call every irrep even; their vectors are ``1e``.
    """
    known = {str(item.ir) for item in quiet_import("e3nn.o3").Irreps(irreps)}
    even_alone = all(name.endswith("e") for name in known)
    return "1o" if "1o" in known else "1e" if "1e" in known and even_alone else ""


def _scalars(irreps: Any) -> list[slice]:
    places = zip(irreps.slices(), irreps, strict=True)
    return [place for place, item in places if item.ir.l == 0 and item.ir.p == 1]


class DirectNetwork(torch.nn.Module):
    """The base and the head."""

    def __init__(self, base: FamilyPotential, channels: int) -> None:
        super().__init__()
        self.base = base
        with default_dtype(torch.float64), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e3nn's TorchScript notices are not for the user
            head = ForceHead(base.node_irreps, channels)  # the same numbers in every precision
        self.force_head = head.to(base.device, base.dtype)


class DirectPotential(FamilyPotential):
    """A potential of another family, ``base``, whose forces come from a head of its own.

    Energies and stress are the base's, and so are −dE/dr. A fresh head is drawn from torch's global
    generator. Raises RecipeError if the base has no features that are vectors, or direct forces
    already.
    """

    family = "direct"
    model: DirectNetwork

    def __init__(
        self, base: FamilyPotential, channels: int = 64, removed: Removed = "force_and_torque"
    ) -> None:
        super().__init__(base.cutoff, base.references())
        if base.direct_forces:
            raise RecipeError(
                "the foundation has a head for forces already. Train it with `adapter: {kind: "
                "frozen, train: [force_head]}`, or choose another adapter."
            )
        self.channels, self.removed = channels, removed
        self.heads, self.head, self.acceleration = base.heads, base.head, base.acceleration
        self.model = DirectNetwork(base, channels)
        self.train(base.training)

    @property
    def base(self) -> FamilyPotential:
        """The potential that predicts the energies."""
        return self.model.base

    @property
    def settings(self) -> DirectSettings:
        """See `FamilyPotential.settings`."""
        base = Base(family=self.base.family, settings=self.base.settings)
        return DirectSettings(base=base, channels=self.channels, removed=self.removed)

    @property
    def direct_forces(self) -> bool:
        """See `Potential.direct_forces`."""
        return True

    @property
    def further_inputs(self) -> frozenset[str]:
        """See `Potential.further_inputs`."""
        return self.base.further_inputs

    def set_references(self, energies: Mapping[int, float]) -> None:
        """See `Potential.set_references`; of the base, too."""
        super().set_references(energies)
        self.base.set_references(energies)

    def further_weights(self) -> dict[str, torch.Tensor]:
        """See `FamilyPotential.further_weights`."""
        return self.base.further_weights()

    def around(self, base: FamilyPotential) -> DirectPotential:
        """Return a potential around another base, with a copy of this head."""
        with torch.random.fork_rng(devices=[]):
            other = DirectPotential(base, self.channels, self.removed)
        other.model.force_head.load_state_dict(self.model.force_head.state_dict())
        return other

    def add_head(self, name: str) -> tuple[DirectPotential, dict[str, torch.Tensor]]:
        """See `Potential.add_head`: a head for energies; there is one head for forces."""
        base, masks = self.base.add_head(name)
        assert isinstance(base, FamilyPotential)
        return self.around(base), {f"model.base.{key}": mask for key, mask in masks.items()}

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`."""
        return self.base.interaction_and_features(batch, element, strain)

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return self.base.feature_size

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_forces`."""
        energy, positions, deformation, features = self.base.interaction_and_node_features(
            batch, element, strain
        )
        forces = self.model.force_head(features)
        if self.removed != "nothing":
            forces = balanced(forces, positions, batch, self.removed == "force_and_torque")
        return energy, positions, deformation, forces
