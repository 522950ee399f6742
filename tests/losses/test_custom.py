"""A loss of one's own takes part in recipes without touching the package."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from ase import Atoms

import finetune
from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch, graph
from finetune.losses.loss import BASE, Loss, LossContext, Request, Site, TotalLoss
from finetune.potentials.mace.potential import MacePotential
from finetune.recipe.loss_options import DisplacementOptions, LossOptions
from finetune.recipe.plugins import losses
from tests.conftest import recipe_for, structure


class NetForceOptions(LossOptions):
    power: int = 2


@finetune.register_loss("force_size")
class ForceSize(Loss):
    """Mean squared force, of all structures."""

    Options = NetForceOptions

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        return [Request(BASE, forces=True)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        forces = context.prediction(BASE).forces
        assert forces is not None
        return forces.square().mean()


def test_a_registered_loss_trains(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        workspace,
        tmp_path / "run",
        losses={"energy": {}, "small": {"kind": "force_size", "weight": 0.1}},
        train={"epochs": 1},
    )
    result = finetune.run(recipe)
    assert result.history[1]["loss/small"] > 0


class FarOptions(LossOptions):
    displacement: float = 0.3


@finetune.register_loss("far_copies")
class FarCopies(Loss):
    """Mean squared energy of copies displaced by 0.3 Å; it declares nothing of its reach."""

    Options = FarOptions
    options: FarOptions

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        size = self.options.displacement
        return [Request(Site(DisplacementOptions(kind="sphere", size=size)))]

    def __call__(self, context: LossContext) -> torch.Tensor:
        (request,) = self.requests(context.batch)
        return context.prediction(request.site).energy.square().mean()


def test_neighbour_lists_reach_as_far_as_its_displacements(potential: MacePotential) -> None:
    """Two atoms just beyond the cutoff are brought within it, and their interaction counts."""
    total = TotalLoss({"far_copies": FarOptions(kind="far_copies")})
    cutoff = potential.cutoff
    assert total.skin(cutoff) == pytest.approx(0.6)
    apart = structure(Atoms("C2", [[0, 0, 0], [cutoff + 0.5, 0, 0]]))
    sites = [request.site for request in total.losses["far_copies"].requests(graph(apart, cutoff))]
    nearer = torch.tensor([[0.28, 0, 0], [-0.28, 0, 0]], dtype=torch.float64)
    energies = []
    for skin in (0.0, total.skin(cutoff)):
        batch = graph(apart, cutoff, skin)
        requests = [Request(site) for site in sites]
        generator = torch.Generator().manual_seed(0)
        context = LossContext(batch, potential, requests, generator, drawn={sites[0]: nearer})
        energies.append(float(context.prediction(sites[0]).energy.detach()))
    near = Atoms("C2", [[0.28, 0, 0], [cutoff + 0.22, 0, 0]])
    expected = float(potential(graph(structure(near), cutoff), forces=False).energy.detach())
    assert energies[1] == pytest.approx(expected, abs=1e-12)
    assert energies[0] != pytest.approx(expected, abs=1e-9)


def test_displacements_beyond_the_neighbour_lists_are_refused(potential: MacePotential) -> None:
    total = TotalLoss({"far_copies": FarOptions(kind="far_copies")})
    bare = graph(structure(Atoms("C2", [[0, 0, 0], [1.3, 0, 0]])), potential.cutoff)
    with pytest.raises(RecipeError, match="'far_copies' displaces .* reach 0.6 Å .* from `skin`"):
        total(bare, potential, torch.Generator().manual_seed(0))


def test_its_options_are_checked(workspace: Path) -> None:
    with pytest.raises(RecipeError, match="powr: unknown key. Did you mean 'power'"):
        recipe_for(workspace, "x", losses={"force_size": {"powr": 3}})


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match="already taken"):
        losses.register("pitc")(ForceSize)
    with pytest.raises(ValueError, match="needs `Options`, a pydantic class"):
        losses.register("bare")(type("Bare", (), {}))
