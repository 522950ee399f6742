"""What every loss must hold, as tests to inherit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import without_labels
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import Loss, LossContext, Site
from finetune.potentials.potential import Potential
from finetune.testing.comparing import plain_potential, random_rotation, rotated

SKIN = 1.0
_SHIFT = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
NOTHING = 1e-18
"""A loss that is as small as this is rounding."""
ENERGIES, FORCES = 1e-9, 1e-8
"""Relative tolerances in float64: of values of order one, and after a change of order of sums."""


class LossSuite:
    """Tests of a loss: subclass it in a file of your tests and say how the loss is made.

    ```python
    class TestNetTorque(finetune.testing.LossSuite):
        def loss(self):
            return NetTorque(NetTorque.Options(weight=1.0))
    ```

    The structures are three molecules of different sizes and a crystal, with energies, forces and
    (for the crystal) a stress; the potentials are two small untrained ones. Override `trained` for
    a loss that needs direct forces.
    """

    mean_over_structures = True
    """Set to False for a mean over something else, such as the forces of all atoms; the test that
    compares a batch with its structures is then left out."""

    def loss(self) -> Loss:
        """Return the loss to test."""
        raise NotImplementedError

    def structures(self) -> list[GraphBatch]:
        """Return the structures to test on, each a labelled batch of one with a skin of 1 Å."""
        return list(_structures())

    def trained(self) -> Potential:
        """Return the potential in training; it is not changed."""
        return plain_potential().train()

    def frozen_foundation(self) -> FrozenFoundation:
        """Return the frozen foundation; it is not changed."""
        return _frozen_foundation()

    def context(
        self,
        batch: GraphBatch,
        drawn: Mapping[Site, torch.Tensor] | None = None,
        potential: Callable[..., Prediction] | None = None,
    ) -> LossContext:
        """Evaluate what the loss asks for on a batch."""
        asked = self.loss().requests(batch)
        assert asked, "the loss asks for nothing on these structures"
        generator = torch.Generator().manual_seed(0)
        potential = self.trained() if potential is None else potential
        frozen = self.frozen_foundation()
        return LossContext(batch, potential, asked, generator, frozen, drawn=drawn)

    def test_it_is_a_finite_scalar_in_double_precision(self) -> None:
        value = self.loss()(self.context(concatenate(self.structures())))
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert bool(torch.isfinite(value))

    def test_its_parts_add_up(self) -> None:
        context = self.context(concatenate(self.structures()))
        parts = [part.factor * part(context).item() for part in self.loss().parts().values()]
        assert sum(parts) == pytest.approx(self.loss()(context).item(), rel=ENERGIES)

    def test_it_repeats_with_the_generator(self) -> None:
        batch = concatenate(self.structures())
        first, again = (self.loss()(self.context(batch)).item() for _ in range(2))
        assert first == again

    def test_a_batch_gives_the_mean_of_its_structures(self) -> None:
        if not self.mean_over_structures:
            pytest.skip("the loss is not a mean over structures")
        together = self.context(concatenate(self.structures()))
        singles = []
        for index, single in enumerate(self.structures()):
            if self.loss().requests(single):
                alone = self.context(single, _of_one(together, index))
                singles.append(self.loss()(alone).item())
        expected = sum(singles) / len(singles)
        assert self.loss()(together).item() == pytest.approx(expected, rel=ENERGIES, abs=NOTHING)

    def test_the_order_of_structures_does_not_matter(self) -> None:
        structures = self.structures()
        together = self.context(concatenate(structures))
        order = list(reversed(range(len(structures))))
        drawn = _reordered(together, order)
        swapped = self.context(concatenate([structures[index] for index in order]), drawn)
        expected = self.loss()(together).item()
        assert self.loss()(swapped).item() == pytest.approx(expected, rel=ENERGIES, abs=NOTHING)

    def test_permutation_of_atoms(self) -> None:
        for single in self._applicable():
            here = self.context(single)
            order = torch.randperm(int(single.atoms), generator=torch.Generator().manual_seed(1))
            drawn = {
                site: values if site.strain is not None else values[order]
                for site, values in here.drawn.items()
            }
            there = self.context(_permuted(single, order), drawn)
            expected = self.loss()(here).item()
            assert self.loss()(there).item() == pytest.approx(expected, rel=FORCES, abs=NOTHING)

    def test_rotation(self) -> None:
        rotation = random_rotation()
        for single in self._applicable():
            here = self.context(single)
            drawn = {
                site: rotation @ values @ rotation.T
                if site.strain is not None
                else values @ rotation.T
                for site, values in here.drawn.items()
            }
            there = self.context(rotated(single, rotation), drawn)
            expected = self.loss()(here).item()
            assert self.loss()(there).item() == pytest.approx(expected, rel=FORCES, abs=NOTHING)

    def test_translation(self) -> None:
        for single in self._applicable():
            here = self.context(single)
            positions = single.positions + _SHIFT
            moved = replace(single, positions=positions, identity=single.identity + 3)
            there = self.context(moved, here.drawn)
            expected = self.loss()(here).item()
            assert self.loss()(there).item() == pytest.approx(expected, rel=FORCES, abs=NOTHING)

    def test_gradients_by_the_weights(self) -> None:
        batch = concatenate(self.structures()[:2] + self.structures()[-1:])
        potential = self.trained()
        drawn = self.context(batch, potential=potential).drawn
        directions = _directions(potential)

        def along(steps: torch.Tensor) -> torch.Tensor:
            moved = {
                name: parameter + steps[0] * directions[0][name] + steps[1] * directions[1][name]
                for name, parameter in potential.named_parameters()
            }

            def call(batch: GraphBatch, **options: bool) -> Prediction:
                return torch.func.functional_call(potential, moved, (batch,), options)

            return self.loss()(self.context(batch, drawn, call))

        at = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(along, [at], eps=1e-6, atol=1e-6, rtol=1e-4)

    def test_the_foundation_is_not_trained(self) -> None:
        batch, trained = concatenate(self.structures()), self.trained()
        frozen, generator = self.frozen_foundation(), torch.Generator().manual_seed(0)
        asked = self.loss().requests(batch)
        value = self.loss()(LossContext(batch, trained, asked, generator, frozen))
        mine, theirs = (list(potential.parameters()) for potential in (trained, frozen.potential))
        found = torch.autograd.grad(value, [*mine, *theirs], allow_unused=True)
        assert any(gradient is not None for gradient in found[: len(mine)])
        assert all(gradient is None for gradient in found[len(mine) :])

    def _applicable(self) -> list[GraphBatch]:
        found = [single for single in self.structures() if self.loss().requests(single)]
        assert found, "the loss asks for nothing on any of these structures"
        return found


@cache
def _frozen_foundation() -> FrozenFoundation:
    return FrozenFoundation(plain_potential(1))


@cache
def _structures() -> tuple[GraphBatch, ...]:
    """Three molecules and a crystal, distorted, with labels that no potential here reproduces."""
    random = np.random.default_rng(0)
    atoms = [molecule(name) for name in ("CH3CH2OH", "NH3", "CH4")]
    atoms.append(bulk("C", "diamond", 3.5, cubic=False))
    graphs = []
    for item in atoms:
        positions = item.positions + random.normal(0.0, 0.08, item.positions.shape)
        stress = random.normal(0.0, 0.01, (3, 3))
        structure = replace(
            without_labels(item, "structure"),
            positions=positions,
            energy=float(random.normal()),
            forces=random.normal(0.0, 0.5, positions.shape),
            stress=stress + stress.T if item.pbc.all() else None,
        )
        graphs.append(graph(structure, plain_potential().cutoff, SKIN))
    return tuple(graphs)


def _of_one(context: LossContext, index: int) -> dict[Site, torch.Tensor]:
    """What was drawn for one structure of a batch."""
    atoms = context.batch.structure == index
    return {
        site: values[index : index + 1] if site.strain is not None else values[atoms]
        for site, values in context.drawn.items()
    }


def _reordered(context: LossContext, order: Sequence[int]) -> dict[Site, torch.Tensor]:
    parts = [_of_one(context, index) for index in order]
    return {site: torch.cat([part[site] for part in parts]) for site in context.drawn}


def _permuted(single: GraphBatch, order: torch.Tensor) -> GraphBatch:
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return replace(
        single,
        numbers=single.numbers[order],
        positions=single.positions[order],
        forces=single.forces[order],
        has_forces=single.has_forces[order],
        edge_index=place[single.edge_index],
        identity=single.identity + 1,
    )


def _directions(potential: Potential) -> list[dict[str, torch.Tensor]]:
    """Two random directions among the weights, of the weights' own size."""
    generator = torch.Generator().manual_seed(3)
    return [
        {
            name: p.detach().std(unbiased=False).clamp(min=0.1)
            * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for name, p in potential.named_parameters()
        }
        for _ in range(2)
    ]
