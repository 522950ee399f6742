"""The contract of a potential: a graph batch in, a prediction out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from ase.data import chemical_symbols

from finetune.core.errors import FoundationError, HeadError, RecipeError, suggestion
from finetune.core.units import Prediction
from finetune.data.graphs import ENERGY_DTYPE, GraphBatch

if TYPE_CHECKING:
    from finetune.potentials.settings import ElementSettings, FamilySettings

Interaction = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Interaction energies of the atoms ``[N]``, eV, and the positions ``[N, 3]`` and the strain
``[B, 3, 3]`` (or None) that they can be differentiated by."""


class Potential(torch.nn.Module, ABC):
    """An interatomic potential E(r) = Σ reference energies + interaction energy.

    A subclass implements `interaction`; reference energies, forces and stress follow from it. One
    whose forces come from a head of their own sets `direct_forces` and implements
    `interaction_and_forces`, too.

    Args:
        cutoff: Å; edges at least this long may be left out of a batch.
        reference_energies: Atomic number -> energy of that element, eV. Its keys are the elements
            that the potential knows.
    """

    reference_energies: torch.Tensor
    _element_index: torch.Tensor

    def __init__(self, cutoff: float, reference_energies: Mapping[int, float]) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.elements = tuple(reference_energies)
        energies = [reference_energies[number] for number in self.elements]
        self.register_buffer("reference_energies", torch.tensor(energies, dtype=ENERGY_DTYPE))
        index = torch.full((max(self.elements) + 1,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("_element_index", index, persistent=False)

    @abstractmethod
    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """Return the interaction energies of the atoms; the positions may require gradients.

        ``element`` is the index into `elements` of each atom ``[N]``; ``strain`` says whether a
        strain takes part, for the stress.
        """

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return what `interaction` does, and invariant features of atoms ``[N, feature_size]``.

        They do not change under rotations and reflections, and are differentiable by the positions.
        Raises FoundationError if the potential has no node features.
        """
        raise FoundationError(f"a {type(self).__name__} has no features of atoms.")

    @property
    def feature_size(self) -> int:
        """Number of invariant features of an atom; a `FoundationError` if there are none."""
        raise FoundationError(f"a {type(self).__name__} has no features of atoms.")

    @property
    def direct_forces(self) -> bool:
        """Whether forces come from a head of their own, not from the gradient of the energy."""
        return False

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return what `interaction` does, and the forces ``[N, 3]``, eV/Å, of the head.

        Called where `direct_forces` says that there is one.
        """
        raise FoundationError(f"a {type(self).__name__} has no head for forces.")

    def gradient_forces(self, batch: GraphBatch) -> torch.Tensor:
        """Return −dE/dr ``[N, 3]``, eV/Å, whether or not a head predicts the forces."""
        found = self(batch, forces=False, gradient=True).gradient_forces
        assert isinstance(found, torch.Tensor)
        return found

    @torch.no_grad()
    def descriptors(self, batch: GraphBatch) -> torch.Tensor:
        """Return the invariant features of the atoms ``[N, feature_size]``, without gradients."""
        return self.interaction_and_features(batch, self.element_index(batch.numbers), False)[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def further_inputs(self) -> frozenset[str]:
        """Which of ``charge`` and ``spin`` the energy depends on, too; none here."""
        return frozenset()

    def references(self) -> dict[int, float]:
        """Return the reference energies: atomic number -> eV."""
        return dict(zip(self.elements, self.reference_energies.tolist(), strict=True))

    def set_references(self, energies: Mapping[int, float]) -> None:
        """Replace the reference energies (eV) of the elements given."""
        updated = {**self.references(), **energies}
        values = [updated[number] for number in self.elements]
        self.reference_energies.copy_(torch.tensor(values, dtype=ENERGY_DTYPE))

    def add_head(self, name: str) -> tuple[Potential, dict[str, torch.Tensor]]:
        """Return a copy with one more head, and masks of the parameters that are the head's alone.

        Raises RecipeError if the potential cannot have one, or has one of that name.
        """
        raise RecipeError(
            f"a {type(self).__name__} cannot have more heads. Choose another adapter."
        )

    def element_index(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the index into `elements` of each atomic number ``[N]``; refuse unknown ones."""
        known = numbers.clamp(max=len(self._element_index) - 1)
        index: torch.Tensor = self._element_index[known]
        unknown = (index < 0) | (known != numbers)
        if bool(unknown.any()):
            symbols = [chemical_symbols[number] for number in sorted({*numbers[unknown].tolist()})]
            names = " ".join(chemical_symbols[number] for number in sorted(self.elements))
            raise FoundationError(
                f"the potential knows {names} but not {', '.join(symbols)}. Choose a foundation "
                "that covers these elements or drop the structures that contain them."
            )
        return index

    def composition(self, batch: GraphBatch) -> torch.Tensor:
        """Return the number of atoms of each of `elements` ``[B, elements]``, float64."""
        one_hot = torch.nn.functional.one_hot(self.element_index(batch.numbers), len(self.elements))
        return batch.sum_atoms(one_hot.to(ENERGY_DTYPE))

    def forward(
        self,
        batch: GraphBatch,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool | None = None,
        gradient: bool | Literal["held"] = False,
    ) -> Prediction:
        """Predict the energies, and on request forces and stress, of a batch.

        The batch is on the potential's device and in its dtype. What is predicted can be
        differentiated by the weights with ``create_graph``, by default while training.
        ``gradient`` asks for −dE/dr beside the forces; ``held`` for numbers that are not
        differentiated by the weights, which costs no second differentiation. Raises
        FoundationError for an element that the potential does not know.
        """
        if create_graph is None:
            create_graph = self.training and torch.is_grad_enabled()
        element = self.element_index(batch.numbers)
        head = forces and self.direct_forces
        differentiated = stress or bool(gradient) or (forces and not head)
        with torch.set_grad_enabled(torch.is_grad_enabled() or differentiated):
            evaluate = self.interaction_and_forces if head else self.interaction
            node_energy, positions, strain, *direct = evaluate(batch, element, strain=stress)
            by = [positions, *([strain] if strain is not None else [])]
            held = gradient == "held"
            numbers = held and not stress and (head or not forces)
            gradients = (
                self._gradients(node_energy, by, create_graph and not numbers, create_graph)
                if differentiated
                else []
            )
        if (differentiated or head) and not create_graph:
            node_energy = node_energy.detach()
        if not create_graph:
            direct = [item.detach() for item in direct]
        total = node_energy.to(ENERGY_DTYPE) + self.reference_energies[element]
        downhill = -gradients[0] if differentiated else None
        beside = downhill if gradient else None
        return Prediction(
            energy=batch.sum_atoms(total),
            node_energy=total,
            forces=(direct[0] if head else downhill) if forces else None,
            stress=self._stress(gradients[1], batch) if stress else None,
            gradient_forces=beside.detach() if held and beside is not None else beside,
        )

    @staticmethod
    def _gradients(
        node_energy: torch.Tensor, by: list[torch.Tensor], create_graph: bool, retain_graph: bool
    ) -> list[torch.Tensor]:
        if not node_energy.requires_grad:
            return [torch.zeros_like(variable) for variable in by]
        found = torch.autograd.grad(
            node_energy.sum(),
            by,
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=True,
        )
        return [
            torch.zeros_like(variable) if gradient is None else gradient
            for gradient, variable in zip(found, by, strict=True)
        ]

    @staticmethod
    def _stress(by_strain: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        volume = batch.volume[:, None, None]
        filled = torch.where(volume > 0, volume, torch.ones_like(volume))
        return torch.where(volume > 0, by_strain / filled, torch.zeros_like(by_strain))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Keep the reference energies in double precision when the potential changes dtype."""
        exact = self.reference_energies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.reference_energies = exact.to(self.reference_energies.device)
        return self


class FamilyPotential(Potential):
    """A potential of a registered family: a network, ``model``, that ``settings`` describe.

    Stored are the settings and the parameters of ``model``; its buffers follow from the settings.
    Of several heads, named ``heads``, the one of index ``head`` predicts. ``acceleration`` says
    whose layers the network has: ``none`` for the family's own.
    """

    family: ClassVar[str]
    model: torch.nn.Module
    heads: tuple[str, ...] = ("Default",)
    head: int = 0
    acceleration: str = "none"

    @property
    @abstractmethod
    def settings(self) -> FamilySettings:
        """Settings that rebuild ``model``, with the reference energies as they are now."""

    @property
    def head_name(self) -> str | None:
        """Name of the head that predicts; None where there is only one."""
        return self.heads[self.head] if len(self.heads) > 1 else None

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """See `Potential.interaction`; what `interaction_and_features` finds, unless overridden."""
        return self.interaction_and_features(batch, element, strain)[:3]

    def fill(self, network: torch.nn.Module) -> None:
        """Give a network of the same settings these weights.

        Raises FoundationError if an adapter has added parameters that it does not have.
        """
        weights = dict(self.model.named_parameters())
        refuse_further(weights, dict(network.named_parameters()))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])

    def further_weights(self) -> dict[str, torch.Tensor]:
        """Return what is stored beside the parameters of ``model``; its names contain a slash."""
        return {}

    @property
    def node_irreps(self) -> str:
        """Irreps of the node features, as e3nn writes them; empty where they are scalars alone."""
        return ""

    def interaction_and_node_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return what `interaction` does, and equivariant features of atoms, of `node_irreps`.

        They are those of every layer, ``[N, components]``.
        """
        raise FoundationError(f"a {type(self).__name__} has no equivariant features of atoms.")


UNUSED = "unused/"
"""How the stored names of weights begin that nothing predicted depends on."""


class ElementPotential(FamilyPotential):
    """A potential of a family whose settings are `ElementSettings`.

    ``unused`` are weights that nothing predicted depends on, by their names in the family's files.
    They are no parameters, so that nothing trains them, but are stored and exported.
    """

    _settings: Any

    def __init__(
        self,
        settings: ElementSettings,
        cutoff: float,
        model: torch.nn.Module,
        unused: Mapping[str, torch.Tensor],
    ) -> None:
        energies = zip(settings.atomic_numbers, settings.atomic_energies, strict=True)
        super().__init__(cutoff, dict(energies))
        self._settings = settings
        self.model = model
        self.unused = dict(unused)

    @property
    def settings(self) -> Any:
        """See `FamilyPotential.settings`."""
        references = self.references()
        energies = tuple(references[number] for number in self._settings.atomic_numbers)
        return self._settings.model_copy(update={"atomic_energies": energies})

    def further_weights(self) -> dict[str, torch.Tensor]:
        """See `FamilyPotential.further_weights`: those that are not used."""
        return {f"{UNUSED}{name}": tensor for name, tensor in self.unused.items()}


KeptLayers = dict[int, dict[str, torch.Tensor]]
"""Number of heads -> parameters of the layers that see them, by name, while they were so many."""
_KEPT = re.compile(r"heads-(\d+)/(.+)")
"""Names of kept parameters among stored weights."""


class HeadedPotential(FamilyPotential):
    """A potential of a family whose networks may have several heads.

    A layer that sees every head becomes wider with each. It then multiplies in another order, so
    that older heads agree with what they were to rounding only. The layers as they were are
    therefore kept with the weights, and give an older head back to the last bit.

    The settings have ``heads``, names, and fields with an entry for each head, ``per_head``.
    ``kept_heads`` are layers as they were before a head was added, to be stored with the weights;
    ``stored_heads`` are those that were stored with the weights that were opened.
    """

    per_head: ClassVar[tuple[str, ...]]
    _settings: Any

    def __init__(self, cutoff: float, reference_energies: Mapping[int, float]) -> None:
        super().__init__(cutoff, reference_energies)
        self.kept_heads: KeptLayers = {}
        self.stored_heads: KeptLayers = {}

    @abstractmethod
    def with_settings(self, settings: Any, head: str) -> HeadedPotential:
        """Return a potential of other settings with fresh weights, on the same device."""

    @abstractmethod
    def widen(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Fill the layers of a network with one head more that see the heads.

        Returns masks of the new head's own entries by parameter.
        """

    def further_weights(self) -> dict[str, torch.Tensor]:
        """See `FamilyPotential.further_weights`: the kept layers."""
        return {
            f"heads-{count}/{name}": tensor
            for count, kept in self.kept_heads.items()
            for name, tensor in kept.items()
        }

    def add_head(self, name: str) -> tuple[HeadedPotential, dict[str, torch.Tensor]]:
        """See `Potential.add_head`: the new head is chosen, and predicts what this one does.

        It has the potential's reference energies; the old head keeps those that it was opened with.
        """
        before = self._settings
        if name in before.heads:
            raise RecipeError(
                f"the foundation has a head '{name}' already. Choose another adapter.name, or "
                f"adapt that head with head={name}."
            )
        rows = {key: getattr(before, key) for key in self.per_head}
        longer = {key: (*row, row[self.head]) for key, row in rows.items() if len(row) > self.head}
        settings = before.model_copy(update={"heads": (*before.heads, name), **longer})
        extended = self.with_settings(settings, name)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            masks = self.widen(extended.model)
            for key, parameter in extended.model.named_parameters():
                if key not in masks:
                    parameter.copy_(parameters[key])
        kept = {key: parameters[key].detach().clone() for key in masks}
        extended.kept_heads = {**self.stored_heads, len(before.heads): kept}
        extended.set_references(self.references())
        return extended.eval(), {f"model.{key}": mask for key, mask in masks.items()}


def as_trained(
    settings: Any, weights: Mapping[str, torch.Tensor], head: str | None, per_head: tuple[str, ...]
) -> tuple[Any, dict[str, torch.Tensor], KeptLayers]:
    """Return settings, weights and kept layers of the network in which a head was trained."""
    own: dict[str, torch.Tensor] = {}
    kept: KeptLayers = {}
    for name, tensor in weights.items():
        match = _KEPT.fullmatch(name)
        if match:
            kept.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            own[name] = tensor
    place = settings.heads.index(head) if head in settings.heads else len(settings.heads)
    later = [count for count in sorted(kept) if place < count]
    if not later:
        return settings, own, kept
    fewer = later[0]
    rows = {key: getattr(settings, key)[:fewer] for key in ("heads", *per_head)}
    below = {count: tensors for count, tensors in kept.items() if count < fewer}
    return settings.model_copy(update=rows), {**own, **kept[fewer]}, below


def refuse_further(weights: Collection[str], known: Collection[str]) -> None:
    """Refuse names of weights that a family's file does not have; a `FoundationError`."""
    foreign = sorted(set(weights) - set(known))
    if foreign:
        raise FoundationError(
            f"the family's own file has no place for what an adapter added: {foreign[0]}"
            f"{' and others' if len(foreign) > 1 else ''}."
        )


def choose_head(heads: Sequence[str], head: str | None) -> int:
    """Return the index of a head; a `HeadError` if it is unknown, or none of several."""
    if head is None and len(heads) == 1:
        return 0
    if head in heads:
        return heads.index(head)
    wrong = (
        "several heads" if head is None else f"no head '{head}'.{suggestion(head, heads)} It has"
    )
    way = f"Choose one: 'head: {heads[0]}' in the recipe, or --head {heads[0]}."
    if len(heads) == 1:
        way = "It needs no choice: leave the head out."
    raise HeadError(f"the foundation has {wrong}: {', '.join(heads)}. {way}")


@dataclass(frozen=True)
class Edges:
    """The edges of a batch within a cutoff, and what energies can be differentiated by.

    Attributes:
        sender, receiver: Indices of atoms ``[E]``.
        vectors: From sender to receiver ``[E, 3]``, Å.
        lengths: ``[E]``, Å.
        unit_shifts: Lattice translations of the receiver ``[E, 3]``.
        positions: ``[N, 3]``; they require gradients where gradients are enabled.
        strain: ``[B, 3, 3]``, zero, likewise; None unless asked for.
    """

    sender: torch.Tensor
    receiver: torch.Tensor
    vectors: torch.Tensor
    lengths: torch.Tensor
    unit_shifts: torch.Tensor
    positions: torch.Tensor
    strain: torch.Tensor | None


def edges_within(cutoff: float, batch: GraphBatch, strain: bool) -> Edges:
    """Return the edges shorter than ``cutoff`` (Å); those in the skin of the batch are left out."""
    leaf = torch.is_grad_enabled()
    positions = batch.positions.detach().requires_grad_(leaf)
    deformation = torch.zeros_like(batch.cell).requires_grad_(leaf) if strain else None
    sender, receiver = batch.edge_index
    shift = torch.einsum("ei,eij->ej", batch.unit_shifts, batch.cell[batch.structure[sender]])
    found = batch.positions[receiver] - batch.positions[sender] + shift
    kept = (found.norm(dim=1) < cutoff).nonzero()[:, 0]
    sender, receiver, unit_shifts = sender[kept], receiver[kept], batch.unit_shifts[kept]
    structure = batch.structure[sender]
    vectors = positions[receiver] - positions[sender] + shift[kept]
    if deformation is not None:
        symmetric = 0.5 * (deformation + deformation.transpose(1, 2))
        vectors = vectors + torch.einsum("ei,eij->ej", vectors, symmetric[structure])
    lengths = vectors.norm(dim=1)
    return Edges(sender, receiver, vectors, lengths, unit_shifts, positions, deformation)


def balanced(
    forces: torch.Tensor, positions: torch.Tensor, batch: GraphBatch, torque: bool
) -> torch.Tensor:
    """Return forces ``[N, 3]`` without net force and, with ``torque``, net torque of molecules.

    What is taken off is the smallest change, a translation and a rotation with equal masses.
    Structures that are periodic in any direction keep their torque.
    """

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (batch.sum_atoms(values) / batch.atoms[:, None])[batch.structure]

    forces = forces - mean(forces)
    free = ~batch.pbc.any(dim=1)
    if not torque or not bool(free.any()):
        return forces
    arms = positions - mean(positions)
    outer = batch.sum_atoms(arms[:, :, None] * arms[:, None, :])
    trace = outer.diagonal(dim1=1, dim2=2).sum(dim=1)
    inertia = trace[:, None, None] * torch.eye(3, dtype=outer.dtype, device=outer.device) - outer
    torques = batch.sum_atoms(torch.linalg.cross(arms, forces))
    inverse = torch.linalg.pinv(inertia, rtol=1e-6, hermitian=True)
    turning = torch.einsum("bij,bj->bi", inverse, torques) * free[:, None]
    return forces - torch.linalg.cross(turning[batch.structure], arms)


class WrappedPotential(Potential):
    """A potential around another one, its ``base``.

    A subclass registers parameters of its own and overrides `interaction`, where it evaluates
    ``self.base.interaction(…)`` or ``self.base.interaction_and_features(…)`` and changes the
    energies of the atoms; forces and stress follow. Only parameters are stored: everything else
    must follow from ``base`` and from the adapter's options.
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

    @property
    def direct_forces(self) -> bool:
        """See `Potential.direct_forces`; as of the potential inside."""
        return self.base.direct_forces

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_forces`: the forces of the potential inside.

        Override it where forces change, or where one evaluation can give both.
        """
        found = self.base.interaction_and_forces(batch, element, strain)
        if type(self).interaction is WrappedPotential.interaction:
            return found
        return (*self.interaction(batch, element, strain), found[-1])

    def set_references(self, energies: Mapping[int, float]) -> None:
        """Replace the reference energies (eV) of the elements given, inside too."""
        super().set_references(energies)
        self.base.set_references(energies)

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
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
    """Return a parameter's name without what is around it: ``readouts.0.linear.weight``."""
    return re.sub(r"^((base|model)\.)+", "", parameter)


def block(name: str) -> str:
    """Return the block of a parameter or layer: ``products.1`` for ``products.1.linear.weight``."""
    first, _, rest = name.partition(".")
    second, _, inner = rest.partition(".")
    return f"{first}.{second}" if second.isdigit() and inner else first
