"""What every adapter must hold, as tests to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch_ema import ExponentialMovingAverage

import finetune
from finetune.adapters.adapter import AdaptedPotential, Adapter
from finetune.core.errors import FinetuneError, RunFolderError
from finetune.data.graphs import GraphBatch
from finetune.potentials.family import UNNAMED
from finetune.potentials.potential import Potential
from finetune.recipe.plugins import adapters
from finetune.testing.comparing import (
    difference,
    distorted_batch,
    forces_of,
    largest,
    plain_potential,
    predict,
    random_rotation,
    rotated,
)
from finetune.testing.runs import Workspace, train_in_two_processes

ROUNDING = 1e-10
"""eV and eV/Å, in float64, on energies of a few eV."""
SLOPE = 1e-6
"""eV/Å, and the unit of a loss: central differences."""


class AdapterSuite:
    """Tests of an adapter: subclass it in a file of your tests and say how the adapter is made.

    ```python
    class TestMine(finetune.testing.AdapterSuite):
        def adapter(self):
            return MyAdapter(MyAdapter.Options(size=8))
    ```

    The adapter's class must be registered, and, for the test with two processes, defined in a
    module that another process can import. The foundation is a small untrained potential.
    """

    family = UNNAMED
    """Family of the foundation."""
    conservative = True
    """Set to False if the adapter adds a head for forces: the energies alone start as they were."""
    rotations = True
    """Set to False if the foundation learns how energies and forces turn."""

    def adapter(self) -> Adapter:
        """Return the adapter to test."""
        raise NotImplementedError

    def potential(self) -> Potential:
        """Return the foundation, for H, C, N and O, in float64; a new one for each call."""
        return deepcopy(plain_potential(kind=self.family))

    def attached(self, change: float = 0.0) -> AdaptedPotential:
        """Return the foundation with the adapter, its weights changed at random by ``change``."""
        adapted = self.adapter().attach(self.potential())
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for item in adapted.trainable_parameters().values():
                item.add_(change * torch.randn(item.shape, generator=random, dtype=torch.float64))
        adapted.potential.eval()
        return adapted

    def batch(self) -> GraphBatch:
        """Return distorted structures."""
        return distorted_batch(plain_potential(kind=self.family).cutoff)

    def kind(self) -> str:
        """Return the name by which recipes call the adapter."""
        cls = type(self.adapter())
        found = [name for name in adapters.names() if adapters.get(name) is cls]
        assert found, f"{cls.__name__} is not registered: finetune.register_adapter"
        return found[0]

    def recipe(self) -> dict[str, Any]:
        """Return the adapter as a recipe names it."""
        return {"kind": self.kind(), **self.adapter().options.model_dump(mode="json")}

    def test_options_survive_a_recipe(self) -> None:
        given = self.recipe()
        parsed = _recipe(adapter=given).adapter
        assert parsed == given
        options = {name: value for name, value in parsed.items() if name != "kind"}
        assert type(self.adapter()).Options.model_validate(options) == self.adapter().options
        with pytest.raises(FinetuneError, match="no_such_option"):
            _recipe(adapter={**given, "no_such_option": 1})

    def test_it_starts_as_the_foundation(self) -> None:
        found, expected = predict(self.attached().potential), predict(self.potential())
        if self.conservative:
            assert difference(found, expected) < ROUNDING
        else:
            assert largest(found.energy - expected.energy) < ROUNDING

    def test_it_starts_the_same_each_time(self) -> None:
        """Several processes, and a stored potential that is opened, rely on this."""
        first, again = (self.attached().potential.state_dict() for _ in range(2))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_it_names_what_it_trains(self) -> None:
        adapted = self.attached()
        named = dict(adapted.potential.named_parameters())
        trained = adapted.trainable_parameters()
        assert trained, "nothing is trained"
        assert {name for name, item in named.items() if item.requires_grad} == set(trained)
        assert all(named[name] is item for name, item in trained.items())
        grouped = [name for group in adapted.parameter_groups().values() for name in group]
        assert sorted(grouped) == sorted(trained)
        shares = adapted.shares().values()
        assert 0 < sum(count for count, _ in shares) <= sum(p.numel() for p in trained.values())
        assert sum(size for _, size in shares) == sum(p.numel() for p in named.values())

    def test_it_learns_and_changes_what_it_names_alone(self) -> None:
        adapted, batch = self.attached(), self.batch()
        before = {name: item.clone() for name, item in adapted.potential.named_parameters()}
        trained = adapted.trainable_parameters()
        labels = predict(self.potential())
        optimiser = torch.optim.AdamW(trained.values(), lr=0.01, weight_decay=0.1)
        adapted.potential.train()
        losses = []
        for _ in range(6):
            optimiser.zero_grad()
            found = adapted.potential(batch, forces=not self.conservative)
            if self.conservative:
                missed = found.energy - labels.energy - 0.5 * batch.atoms
            else:
                missed = forces_of(found) - forces_of(labels)
            loss = missed.square().mean()
            torch.autograd.backward(loss, inputs=list(trained.values()))
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        for name, item in adapted.potential.named_parameters():
            if name not in trained:
                assert torch.equal(item, before[name]), name
        assert any(not torch.equal(item, before[name]) for name, item in trained.items())

    def test_saving_and_loading_are_exact(self) -> None:
        adapted, fresh = self.attached(change=0.05), self.attached()
        with TemporaryDirectory() as folder:
            adapted.save(Path(folder))
            fresh.load(Path(folder))
        stored = adapted.trainable_parameters()
        for name, item in fresh.trainable_parameters().items():
            assert torch.equal(item, stored[name]), name
        expected = predict(adapted.potential)
        assert difference(predict(fresh.potential), expected) == 0.0
        assert difference(predict(fresh.merge()), predict(adapted.merge())) == 0.0

    def test_missing_files_are_told(self) -> None:
        with pytest.raises(RunFolderError):
            self.attached().load(Path("/nowhere"))

    def test_merging_changes_no_prediction(self) -> None:
        adapted = self.attached(change=0.05)
        expected = predict(adapted.potential)
        assert difference(expected, predict(self.potential())) > 1e-4
        assert difference(predict(adapted.merge().eval()), expected) < ROUNDING
        assert difference(predict(adapted.potential), expected) == 0.0
        if type(adapted.merge()) is type(self.potential()):
            found, plain = (dict(p.named_parameters()) for p in (adapted.merge(), self.potential()))
            assert found.keys() == plain.keys(), "it is merged, yet has other parameters"

    def test_rotation_and_reflection(self) -> None:
        if not self.rotations:
            pytest.skip("the foundation learns how energies and forces turn")
        potential = self.attached(change=0.05).potential
        here = self.batch()
        for matrix in (random_rotation(), -random_rotation()):
            expected, found = predict(potential, here), predict(potential, rotated(here, matrix))
            assert largest(found.energy - expected.energy) < ROUNDING
            assert largest(forces_of(found) - forces_of(expected) @ matrix.T) < ROUNDING

    def test_forces_are_the_gradient_of_the_energy(self) -> None:
        """Minus central differences of the energy."""
        potential, batch, step = self.attached(change=0.05).potential, self.batch(), 1e-4
        forces = potential.gradient_forces(batch)
        if not potential.direct_forces:
            assert torch.equal(forces, forces_of(predict(potential, batch)))
        for atom, axis in ((0, 0), (3, 2), (10, 1)):
            shift = torch.zeros_like(batch.positions)
            shift[atom, axis] = step
            ahead, behind = (
                predict(potential, batch.displaced(sign * shift)).energy.sum() for sign in (1, -1)
            )
            slope = (ahead - behind).item() / (2 * step)
            assert forces[atom, axis].item() == pytest.approx(-slope, abs=SLOPE)

    def test_gradients_of_forces_by_the_weights(self) -> None:
        """Second derivatives, as losses on forces need them, against central differences."""
        adapted, batch, step = self.attached(change=0.05), self.batch(), 1e-5
        adapted.potential.train()
        trained = list(adapted.trainable_parameters().values())
        random = torch.Generator().manual_seed(1)
        way = [torch.randn(p.shape, generator=random, dtype=torch.float64) for p in trained]

        def loss() -> torch.Tensor:
            found = adapted.potential(batch, create_graph=True)
            return forces_of(found).square().mean() + 1e-3 * found.energy.square().mean()

        gradients = torch.autograd.grad(loss(), trained, materialize_grads=True)
        slope = sum(float((one * along).sum()) for one, along in zip(gradients, way, strict=True))
        values = []
        for sign in (1, -2):  # one step ahead, then two back
            with torch.no_grad():
                for item, along in zip(trained, way, strict=True):
                    item.add_(along, alpha=sign * step)
            values.append(loss().item())
        expected = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(expected, rel=1e-5, abs=SLOPE)

    def test_averaged_weights_take_effect(self) -> None:
        """Nothing of the weights is cached: an average that is swapped in predicts its own."""
        adapted = self.attached()
        trained = adapted.trainable_parameters()
        average = ExponentialMovingAverage(trained.values(), decay=0.5)
        with torch.no_grad():
            for item in trained.values():
                item.add_(0.05)
        average.update()
        expected = self.attached()
        average.copy_to(expected.trainable_parameters().values())
        before = predict(adapted.potential)
        with average.average_parameters():
            assert difference(predict(adapted.potential), predict(expected.potential)) == 0.0
            assert difference(predict(adapted.merge()), predict(expected.merge())) == 0.0
        assert difference(predict(adapted.potential), before) == 0.0

    def test_single_precision(self) -> None:
        """It takes the dtype of the potential that it is attached to."""
        exact = predict(self.attached().potential)
        potential = self.adapter().attach(self.potential().float()).potential.eval()
        batch = self.batch().to(torch.device("cpu"), torch.float32)
        found = potential(batch, create_graph=False)
        assert forces_of(found).dtype == torch.float32
        assert largest(found.energy - exact.energy) < 1e-4
        assert largest(forces_of(found).double() - forces_of(exact)) < 1e-3

    def test_a_run_is_resumed_opened_and_exported(self) -> None:
        """The same to the last bit after a stop; the run folder gives what the run tested."""
        with TemporaryDirectory() as temporary:
            work = Workspace(Path(temporary), self.potential())
            whole = finetune.run(work.recipe("whole", self.recipe()))
            work.stop_and_resume("stopped", self.recipe())
            assert work.weights("whole") == work.weights("stopped")
            tested = finetune.evaluate(whole.folder, work.test).finetuned
            assert whole.test is not None
            assert tested.energy_mae == pytest.approx(whole.test.finetuned.energy_mae, rel=1e-9)
            assert tested.forces_mae == pytest.approx(whole.test.finetuned.forces_mae, rel=1e-9)
            work.check_export("whole")

    def test_two_processes_train_as_one(self) -> None:
        """Two that share each step end with the weights of one with batches twice as large."""
        with TemporaryDirectory() as temporary:
            work = Workspace(Path(temporary), self.potential())
            recipe = work.recipe("two", self.recipe(), {"batch_size": 2})
            train_in_two_processes(recipe, type(self.adapter()).__module__)
            once = {"batch_size": 2, "accumulate": 2}
            finetune.run(work.recipe("one", self.recipe(), once))
            one, two = (
                dict(finetune.load_foundation(work.folder / name).potential.named_parameters())
                for name in ("one", "two")
            )
            assert max(largest(one[name] - two[name]) for name in one) < 1e-8


def _recipe(**changes: Any) -> finetune.Recipe:
    given: Mapping[str, Any] = {"foundation": "any", "data": {"train": "any"}, "output": "any"}
    return finetune.Recipe.parse({**given, **changes})
