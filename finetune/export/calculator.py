"""An ASE calculator on any potential."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from finetune.core.devices import choose_device, choose_dtype
from finetune.core.errors import DataError, RecipeError
from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import check_geometry, without_labels
from finetune.potentials import domain
from finetune.potentials.committee import CommitteePotential, mean
from finetune.potentials.domain import Domain, FarFromTrainingWarning
from finetune.potentials.loading import load_foundation, locate
from finetune.potentials.potential import Potential
from finetune.potentials.storage import read_config

Forces = Literal["head", "gradient"]
"""Which forces a calculator gives: those that a head predicts, or −dE/dr."""


def load_calculator(
    path: str | Path,
    device: str = "auto",
    dtype: str = "float64",
    warn_far: bool = False,
    head: str | None = None,
    forces: Forces | None = None,
) -> PotentialCalculator:
    """Open a run folder, or anything that `load_foundation` opens, as an ASE calculator.

    Args:
        path: Run folder, its ``model`` or ``adapter`` folder, a bundle, a model file, or a
            foundation's name. The folder of a committee opens as a `CommitteeCalculator`.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        dtype: ``float64`` (geometry optimisation, frequencies) or ``float32`` (fast dynamics).
        warn_far: Whether to warn of structures far from the training set; takes one more evaluation
            without gradients. For run folders and bundles.
        head: Head that predicts; may be left out where there is one, or where what is stored names
            it.
        forces: ``head`` (those that a head predicts, the default where there is one) or
            ``gradient`` (−dE/dr).

    Raises:
        FoundationError: If there is nothing to open, it is damaged, or it has no summary of a
            training set to compare with.
        RecipeError: If the device, the dtype, ``warn_far`` or ``forces`` is none of these, or the
            potential has no head for forces.
    """
    if not isinstance(warn_far, bool):
        raise RecipeError(f"warn_far is {warn_far!r:.40}; set it to True or False.")
    chosen = choose_device(device)
    foundation = load_foundation(path, choose_dtype(dtype), chosen, head=head)
    trained_on = None
    if warn_far:
        folder = foundation.members[0] if foundation.members else locate(str(path))
        single = read_config(folder).fingerprint if foundation.members else foundation.fingerprint
        trained_on = domain.read(folder, single)
    if isinstance(foundation.potential, CommitteePotential):
        return CommitteeCalculator(foundation.potential, trained_on, forces)
    return PotentialCalculator(foundation.potential, trained_on, forces)


def kind_of_forces(potential: Potential, asked: str | None) -> Forces:
    """Return which forces of a potential are asked for, by default those of a head if it has one.

    Raises RecipeError for an unknown kind, and for a head that is not there.
    """
    if asked not in (None, *get_args(Forces)):
        raise RecipeError(f"forces is {asked!r:.40}; choose head or gradient.")
    if asked not in (None, "gradient") and not potential.direct_forces:
        raise RecipeError(
            "forces is 'head', but the potential has no head for forces: its forces are −dE/dr. "
            "Leave it out, or choose gradient."
        )
    return "head" if asked != "gradient" and potential.direct_forces else "gradient"


class PotentialCalculator(Calculator):
    """Energy, forces, stress and atomic energies of a potential for ASE.

    Energies are eV, forces eV/Å, stress eV/Å³ in ASE's sign and Voigt order (periodic structures
    only). ``energies`` are atomic energies that include the reference energies. Potentials with
    inputs for charge and spin read them from ``atoms.info``: ``charge`` (0 if absent) and ``spin``,
    the multiplicity (1 if absent).

    Args:
        potential: The potential, on its device and in its dtype.
        trained_on: Summary of its training set. It adds ``training_distances`` ``[n]`` to the
            results, 1 at the limit, and a `FarFromTrainingWarning` for a structure beyond the limit
            that follows one within.
        forces: ``head`` or ``gradient``, see `load_calculator`. Forces of a head need no
            derivative: of a single structure, stress is then computed only if it is asked for.
    """

    implemented_properties: ClassVar = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        potential: Potential,
        trained_on: Domain | None = None,
        forces: Forces | None = None,
    ) -> None:
        super().__init__()
        self.potential = potential.eval()
        self.trained_on = trained_on
        self._far = False
        self._asked = forces
        kind_of_forces(potential, forces)

    @property
    def forces(self) -> Forces:
        """Which forces are given."""
        return kind_of_forces(self.potential, self._asked)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; called by ASE."""
        changes: list[str] = super().check_state(atoms, tol)
        before = {} if self.atoms is None else self.atoms.info
        if any(before.get(key) != atoms.info.get(key) for key in ("charge", "spin")):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the potential; called by ASE. Errors are those of `calculate_many`."""
        super().calculate(atoms, properties, system_changes)
        where = f"{self.atoms.get_chemical_formula()} given to the calculator"
        stress = self.forces == "gradient" or "stress" in properties
        self.results = self._evaluate([self._graph(self.atoms, where)], stress)[0]

    def calculate_many(
        self, structures: Sequence[Atoms], batch_size: int = 16
    ) -> list[dict[str, Any]]:
        """Evaluate structures of any sizes in batches, which is faster than one by one.

        Args:
            structures: Not changed; may mix molecules and crystals.
            batch_size: Structures evaluated together; memory grows with their atoms.

        Returns:
            For each structure the results of a calculation of it alone, to rounding.

        Raises:
            DataError: For a geometry that cannot be evaluated (naming its index), anything but a
                list, or a batch size below 1.
            FoundationError: For an element that the potential does not know.
        """
        structures = _listed(structures)
        size: Any = batch_size
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise DataError(f"batch_size is {size!r:.40}; give an integer, at least 1.")
        found: list[dict[str, Any]] = []
        for start in range(0, len(structures), batch_size):
            graphs = [
                self._graph(atoms, f"structure {index} given to the calculator")
                for index, atoms in enumerate(structures[start : start + batch_size], start)
            ]
            found += self._evaluate(graphs)
        return found

    def _graph(self, atoms: Atoms, where: str) -> GraphBatch:
        structure = without_labels(atoms, where)
        check_geometry(structure)
        unpaired = (
            structure.spin - 1 if len(structure) > 1 else 0
        )  # atoms: follows from the element
        for name, value in (("charge", structure.charge), ("spin", unpaired)):
            if value and name not in self.potential.further_inputs:
                warnings.warn(
                    f"the potential has no input for the {name} ({getattr(structure, name)}) of "
                    f"{where}: it is ignored.",
                    stacklevel=3,
                )
        return graph(structure, self.potential.cutoff)

    def _evaluate(self, graphs: Sequence[GraphBatch], stress: bool = True) -> list[dict[str, Any]]:
        """Return the results of each structure; stress where it is periodic, if asked for."""
        batch = concatenate(graphs).to(self.potential.device, self.potential.dtype)
        found = self._predicted(batch, stress=stress and bool(batch.pbc.all(dim=1).any()))
        if self.trained_on is not None:
            far = domain.distances(self.trained_on, self.potential, batch)
            own = split(torch.from_numpy(far), batch)
            for results, distances, where in zip(found, own, batch.where, strict=True):
                results["training_distances"] = distances
                self._warn(float(distances.max(initial=0.0)), where)
        return found

    def _predicted(self, batch: GraphBatch, stress: bool) -> list[dict[str, Any]]:
        found = self.potential(batch, stress=stress, create_graph=False, **self._options())
        return separated(self._chosen(found), batch)

    def _options(self) -> dict[str, Any]:
        """Return what `Potential.forward` is asked for besides."""
        other = self.potential.direct_forces and self.forces == "gradient"
        return {"forces": False, "gradient": True} if other else {}

    @staticmethod
    def _chosen(found: Prediction) -> Prediction:
        """Return a prediction whose forces are those that were asked for."""
        return found if found.forces is not None else replace(found, forces=found.gradient_forces)

    def _warn(self, distance: float, where: str) -> None:
        if distance > 1 and not self._far:
            how = f"is {distance:.3g} times as far from the training set as the limit"
            if np.isinf(distance):
                how = "has elements that no training structure has"
            message = f"{where} {how}: energy and forces are extrapolated."
            warnings.warn(message, FarFromTrainingWarning, stacklevel=2)
        self._far = distance > 1


class CommitteeCalculator(PotentialCalculator):
    """The mean of a committee's members for ASE, and their standard deviation.

    The results of `PotentialCalculator`, whose arguments it takes, are means. ``energy_std`` (eV),
    ``forces_std`` ``[n, 3]`` (eV/Å) and, for periodic structures, ``stress_std`` (eV/Å³, Voigt
    order) are population standard deviations over the members, by component. The members'
    predictions are ``energy_comm`` ``[members]`` and ``forces_comm`` ``[members, n, 3]``, names
    that other programs use too.

    Attributes:
        scale: Factors on ``energy_std`` and ``forces_std`` that give them the size of the errors on
            the validation set; None where it had no such labels.
    """

    implemented_properties: ClassVar[list[str]] = [
        *PotentialCalculator.implemented_properties,
        *("energy_std", "forces_std", "stress_std", "energy_comm", "forces_comm"),
    ]
    potential: CommitteePotential

    def __init__(
        self,
        potential: CommitteePotential,
        trained_on: Domain | None = None,
        forces: Forces | None = None,
    ) -> None:
        super().__init__(potential, trained_on, forces)
        self.scale = dict(potential.scale)

    def _predicted(self, batch: GraphBatch, stress: bool) -> list[dict[str, Any]]:
        options = {"stress": stress, "create_graph": False, **self._options()}
        found = [self._chosen(item) for item in self.potential.predictions(batch, **options)]
        members = [separated(item, batch) for item in found]
        results = separated(mean(found), batch)
        for index, own in enumerate(results):
            for name in ("energy", "forces", "stress"):
                if name in own:
                    values = np.stack([member[index][name] for member in members])
                    deviation = values.std(axis=0)
                    own[f"{name}_std"] = float(deviation) if name == "energy" else deviation
                    if name != "stress":
                        own[f"{name}_comm"] = values
        return results


def _listed(structures: Any) -> list[Atoms]:
    """Return a list of structures; refuse anything else."""
    if isinstance(structures, Atoms):
        raise DataError("give a list of structures, not a single one: [atoms].")
    read = "ase.io.read('structures.xyz', ':') reads a list of them."
    if isinstance(structures, str | bytes | Path) or not isinstance(structures, Iterable):
        raise DataError(f"give a list of ase.Atoms, not {structures!r:.60}. {read}")
    found = list(structures)
    for place, item in enumerate(found):
        if not isinstance(item, Atoms):
            raise DataError(f"structure {place} is {item!r:.60}, no ase.Atoms. {read}")
    return found


def split(values: torch.Tensor, batch: GraphBatch) -> list[Any]:
    """Return values of atoms ``[N, …]`` as an array for each structure."""
    rows = values.detach().cpu().double()
    return [item.numpy() for item in torch.split(rows, batch.atoms.tolist())]


def separated(found: Prediction, batch: GraphBatch) -> list[dict[str, Any]]:
    """Return a prediction as the results of each structure, named as ASE names them."""
    assert found.forces is not None
    energies, forces = split(found.node_energy, batch), split(found.forces, batch)
    results: list[dict[str, Any]] = []
    for index, energy in enumerate(found.energy.tolist()):
        own = {"energies": energies[index], "forces": forces[index]}
        results.append({"energy": energy, "free_energy": energy, **own})
        if found.stress is not None and bool(batch.pbc[index].all()):
            full = found.stress[index].detach().cpu().double().numpy()
            results[-1]["stress"] = full_3x3_to_voigt_6_stress(full)
    return results
