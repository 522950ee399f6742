"""The weakly supervised losses against hand calculations on harmonic wells, and on MACE."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from ase import Atoms

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import Loss, LossContext, Site, TotalLoss
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import DisplacementOptions
from finetune.recipe.plugins import losses
from finetune.recipe.recipe import Recipe
from finetune.testing import HarmonicPotential
from tests.conftest import rattled, structure
from tests.tolerances import CLOSED_FORM

K = 3.0
NEAR = Site(DisplacementOptions(size=0.1))
OTHER = Site(DisplacementOptions(size=0.1), copy=1)
NAMES = ("CH3CH2OH", "H2O", "CH4")
EVERY: dict[str, dict[str, object]] = {
    "pitc": {},
    "pitc symmetric": {"form": "symmetric"},
    "pitc anchored": {"anchored": True},
    "pisc": {},
    "pisc anchored": {"anchored": True},
    "second_difference": {},
    "second_difference anchored": {"anchored": True},
    "replay": {"energy": 0.5},
}


class Tilted(HarmonicPotential):
    """A harmonic well with a constant force on every atom besides, E += g·r."""

    slope = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        energy, positions, none = super().interaction(batch, element, strain)
        return energy + positions @ self.slope, positions, none


def single(index: int) -> GraphBatch:
    return graph(structure(rattled(NAMES[index], 1)), 1.0)


@pytest.fixture
def batch() -> GraphBatch:
    return concatenate([single(index) for index in range(3)])


def built(name: str, **options: object) -> Loss:
    kind = name.split()[0]
    given = {"displacement": 0.1, **EVERY.get(name, {}), **options}
    return losses.get(kind)(losses.options(kind).model_validate(given))  # type: ignore[arg-type]


def context(
    loss: Loss,
    batch: GraphBatch,
    potential: Potential,
    foundation: Potential | None = None,
    drawn: Mapping[Site, torch.Tensor] | None = None,
) -> LossContext:
    generator = torch.Generator().manual_seed(0)
    teacher = None if foundation is None else FrozenFoundation(foundation)
    asked = loss.requests(batch)
    return LossContext(batch, potential, asked, generator, teacher, drawn=drawn)


def curvature(seen: LossContext, displacement: torch.Tensor) -> torch.Tensor:
    """½ δᵀHδ of each structure in the harmonic wells, eV."""
    return 0.5 * K * seen.batch.sum_atoms(displacement.square().sum(dim=1))


@pytest.mark.parametrize("normalise", ["per_atom", "per_structure"])
@pytest.mark.parametrize("name", ["pitc", "second_difference"])
def test_the_one_sided_residual_is_half_the_curvature(
    name: str, normalise: str, batch: GraphBatch
) -> None:
    loss = built(name, normalise=normalise)
    seen = context(loss, batch, HarmonicPotential(K))
    remainder = curvature(seen, seen.displacement(NEAR))
    if normalise == "per_atom":
        remainder = remainder / batch.atoms
    assert loss(seen).item() == pytest.approx(remainder.square().mean().item(), rel=CLOSED_FORM)


def test_pisc_is_half_the_curvature_along_the_difference(batch: GraphBatch) -> None:
    loss = built("pisc", normalise="per_structure")
    seen = context(loss, batch, HarmonicPotential(K))
    step = seen.displacement(NEAR) - seen.displacement(OTHER)
    expected = curvature(seen, step).square().mean().item()
    assert loss(seen).item() == pytest.approx(expected, rel=CLOSED_FORM)


def test_the_copies_of_pisc_have_displacements_of_their_own(batch: GraphBatch) -> None:
    loss = built("pisc", normalise="per_structure", copies=2)
    seen = context(loss, batch, HarmonicPotential(K))
    assert len(seen.drawn) == 4
    moved = [seen.displacement(Site(DisplacementOptions(size=0.1), copy=copy)) for copy in range(4)]
    residuals = [curvature(seen, moved[copy] - moved[copy + 2]) for copy in range(2)]
    expected = torch.stack(residuals).square().mean().item()
    assert loss(seen).item() == pytest.approx(expected, rel=CLOSED_FORM)


def test_the_symmetric_form_has_no_curvature_in_it(batch: GraphBatch) -> None:
    loss = built("pitc symmetric")
    assert loss(context(loss, batch, HarmonicPotential(K))).item() < 1e-25


@pytest.mark.parametrize("name", [name for name in EVERY if "anchored" in name])
def test_anchored_losses_vanish_for_a_linear_correction(name: str, batch: GraphBatch) -> None:
    loss = built(name)
    assert loss(context(loss, batch, Tilted(K), HarmonicPotential(K))).item() < 1e-25
    stiffer = loss(context(loss, batch, HarmonicPotential(K + 1), HarmonicPotential(K)))
    assert stiffer.item() > 1e-8


def test_replay_is_the_distance_to_the_foundation(batch: GraphBatch) -> None:
    forces_only = built("replay", energy=0.0)
    seen = context(forces_only, batch, Tilted(K), HarmonicPotential(K))
    expected = Tilted.slope.square().mean().item()
    assert forces_only(seen).item() == pytest.approx(expected, rel=1e-9)
    both = built("replay", energy=2.0, forces=0.0, displacement=None)
    tilt = batch.sum_atoms(batch.positions @ Tilted.slope) / batch.atoms
    found = both(context(both, batch, Tilted(K), HarmonicPotential(K))).item()
    assert found == pytest.approx(2.0 * tilt.square().mean().item(), rel=1e-9)


def test_replay_is_on_displaced_copies(batch: GraphBatch) -> None:
    loss = built("replay", energy=0.0, copies=2)
    seen = context(loss, batch, HarmonicPotential(K + 1), HarmonicPotential(K))
    moved = [batch.positions + seen.displacement(site) for site in (NEAR, OTHER)]
    expected = torch.stack(moved).square().mean().item()  # forces differ by −r
    assert loss(seen).item() == pytest.approx(expected, rel=CLOSED_FORM)


def test_the_label_can_be_the_base_energy(batch: GraphBatch) -> None:
    from dataclasses import replace

    labelled = replace(
        batch,
        energy=torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64),
        has_energy=torch.tensor([True, False, True]),
    )
    loss, potential = built("pitc", base="label", normalise="per_structure"), HarmonicPotential(K)
    seen = context(loss, labelled, potential)
    predicted = potential(batch, forces=False).energy
    offset = torch.where(labelled.has_energy, predicted - labelled.energy, 0.0)
    remainder = curvature(seen, seen.displacement(NEAR)) + offset
    assert loss(seen).item() == pytest.approx(remainder.square().mean().item(), rel=1e-9)


@pytest.mark.parametrize("name", ["pitc", "pisc"])
def test_a_held_extrapolation_is_not_differentiated(name: str, batch: GraphBatch) -> None:
    slopes = []
    for held in (False, True):
        loss, potential = built(name, hold_extrapolation=held), HarmonicPotential(K).train()
        value = loss(context(loss, batch, potential))
        slopes.append(torch.autograd.grad(value, [potential.stiffness])[0].item())
    assert slopes[0] != pytest.approx(slopes[1], rel=1e-3)


@pytest.mark.parametrize("form", ["one_sided", "symmetric"])
def test_a_held_stress_is_not_differentiated(
    form: str, potential: MacePotential, diamond: Atoms
) -> None:
    trained = deepcopy(potential).train()
    crystal = graph(structure(diamond), trained.cutoff, 0.5)
    slopes = []
    for held in (False, True):
        loss = losses.get("strain")(
            losses.options("strain").model_validate({"form": form, "hold_extrapolation": held})
        )
        value = loss(context(loss, crystal, trained))
        slopes.append(torch.autograd.grad(value, [trained.model.node_embedding.linear.weight])[0])
    assert (slopes[0] - slopes[1]).norm() > 1e-3 * slopes[0].norm()


def test_distance_measures(batch: GraphBatch) -> None:
    loss = built("pitc")
    seen = context(loss, batch, HarmonicPotential(K))
    per_atom = curvature(seen, seen.displacement(NEAR)) / batch.atoms
    for distance, expected in (
        ("absolute", per_atom.mean()),
        ("huber", (1e-4 * (per_atom - 0.5e-4)).mean()),  # every residual is beyond the threshold
    ):
        measured = built("pitc", distance=distance, huber_delta=1e-4)
        found = measured(context(measured, batch, HarmonicPotential(K))).item()
        assert found == pytest.approx(expected.item(), rel=CLOSED_FORM)


@pytest.mark.parametrize(
    ("name", "order"), [("pitc", 2), ("pisc", 2), ("second_difference", 2), ("pitc symmetric", 3)]
)
def test_remainders_shrink_with_the_power_of_the_size(
    name: str, order: int, potential: MacePotential, mixed_graphs: list[GraphBatch]
) -> None:
    batch, values = concatenate(mixed_graphs), []
    for size in (0.004, 0.002):
        loss = built(name, distance="absolute", displacement=size)
        values.append(loss(context(loss, batch, potential)).item())
    assert values[0] / values[1] == pytest.approx(2.0**order, rel=0.06)


@pytest.mark.parametrize("name", EVERY)
def test_mixed_sizes_give_the_mean_of_the_single_structures(name: str, batch: GraphBatch) -> None:
    """Per-structure sums are scatters: nothing couples structures of a batch."""
    loss = built(name) if name != "replay" else built(name, forces=0.0, energy=1.0)
    trained, foundation = HarmonicPotential(K + 1), HarmonicPotential(K)
    together = context(loss, batch, trained, foundation)
    singles = []
    for index in range(3):
        alone = _displaced_alike(loss, together, index, trained, foundation)
        singles.append(loss(alone).item())
    assert loss(together).item() == pytest.approx(sum(singles) / 3, rel=1e-9)


def _displaced_alike(
    loss: Loss, together: LossContext, index: int, *potentials: Potential
) -> LossContext:
    """The context of one structure of a batch, with the displacements that it had there."""
    atoms = together.batch.structure == index
    drawn = {site: values[atoms] for site, values in together.drawn.items()}
    trained, foundation = potentials
    return context(loss, single(index), trained, foundation, drawn)


@pytest.mark.parametrize("name", ["pitc", "pisc", "second_difference"])
def test_the_gradient_by_the_stiffness_is_exact(name: str, batch: GraphBatch) -> None:
    """The loss is quadratic in k, so its derivative is 2 L / k: double backward works."""
    loss, potential = built(name), HarmonicPotential(K).train()
    value = loss(context(loss, batch, potential))
    (slope,) = torch.autograd.grad(value, [potential.stiffness])
    assert slope.item() == pytest.approx(2 * value.item() / K, rel=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_the_foundation_is_never_trained(name: str, batch: GraphBatch) -> None:
    loss, trained, foundation = built(name), Tilted(K + 1).train(), HarmonicPotential(K)
    value = loss(context(loss, batch, trained, foundation))
    gradients = torch.autograd.grad(
        value, [trained.stiffness, foundation.stiffness], allow_unused=True
    )
    assert gradients[0] is not None
    assert gradients[1] is None


def test_evaluations_are_shared_and_forces_only_where_needed(
    batch: GraphBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse(
        {
            "foundation": "x",
            "data": {"train": "x"},
            "output": "x",
            "losses": {
                "pitc": {"displacement": 0.05},
                "pisc": {"displacement": 0.05},
                "second_difference": {"displacement": 0.05, "anchored": True},
            },
        }
    )
    trained, foundation, calls = HarmonicPotential(K), HarmonicPotential(K), []
    forward = HarmonicPotential.forward

    def spy(self: Potential, batch: GraphBatch, **options: bool) -> object:
        calls.append((self is trained, len(batch), options["forces"]))
        return forward(self, batch, **options)

    monkeypatch.setattr(HarmonicPotential, "forward", spy)
    total, teacher = TotalLoss(recipe.losses), FrozenFoundation(foundation)
    batch = replace(batch, skin=1.0)  # springs have no neighbour lists
    total(batch, trained, torch.Generator().manual_seed(0), teacher)
    # r+δ and r−δ by energies; r and r+δ′ by forces
    of_the_trained = [(True, 6, False), (True, 6, True)]
    # the foundation by energies: at r of one structure after the other, then at r+δ and r−δ
    assert calls == [*of_the_trained, *[(False, 1, False)] * 3, (False, 6, False)]
    calls.clear()
    total(batch, trained, torch.Generator().manual_seed(1), teacher)
    assert calls == [*of_the_trained, (False, 6, False)]  # what it says at r is remembered


def test_an_anchored_loss_without_a_foundation_is_an_error(batch: GraphBatch) -> None:
    with pytest.raises(ValueError, match="asks for the foundation"):
        context(built("pitc anchored"), batch, HarmonicPotential(K))
