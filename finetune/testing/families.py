"""What every family of potentials must hold, as tests to inherit."""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from finetune.adapters.adapter import matches
from finetune.core.errors import FoundationError
from finetune.potentials import storage
from finetune.potentials.archive import read_archive
from finetune.potentials.family import Family, families, family
from finetune.potentials.opening import recognised
from finetune.potentials.potential import FamilyPotential, plain_name
from finetune.recipe.plugins import adapters
from finetune.testing.analytic import small_potential
from finetune.testing.comparing import difference, largest, predict, random_rotation, rotated
from finetune.testing.potentials import PotentialSuite

ADAPTERS: dict[str, dict[str, Any]] = {
    **{"full": {}, "lora": {}, "readout": {}, "shift": {}},
    "frozen": {"freeze": ["readout"]},
}
"""Adapters that every family supports, and options."""
SINGLE = 1e-5
"""eV and eV/Å: a small potential of which weights were stored in single precision."""


class FamilySuite(PotentialSuite):
    """Tests of a family: subclass it in a file of your tests and name the family.

    ```python
    class TestMine(finetune.testing.FamilySuite):
        kind = "mine"
    ```

    The class must be registered. The potential that is tested is built from the family's `example`;
    the tests of `PotentialSuite`, which this includes, are about it, too.
    """

    kind: str
    """Name by which the family is registered."""

    def potential(self) -> FamilyPotential:
        """Return a potential of the family, its weights drawn at random."""
        return small_potential(self.kind)

    def family(self) -> Family:
        """Return the family."""
        return family(self.kind)

    def test_settings_are_plain_values(self) -> None:
        """JSON and back gives the same settings, which say what the potential is."""
        settings, potential = self.family().example(), self.potential()
        text = settings.model_dump_json()
        again = type(settings).model_validate_json(text)
        assert again == settings and again.identity() == settings.identity()
        assert set(settings.elements_known()) == set(potential.elements)
        assert all(label and value for label, value in settings.description())
        assert type(potential.settings) is self.family().Settings
        assert potential.family == self.kind

    def test_settings_follow_the_reference_energies(self) -> None:
        potential = self.potential()
        before = potential.settings
        potential.set_references({8: potential.references()[8] - 1.0})
        assert potential.settings != before
        potential.set_references({8: potential.references()[8] + 1.0})
        assert potential.settings == before

    def test_it_is_stored_and_opened(self) -> None:
        """Settings and parameters are all that it is; a changed weight is another fingerprint."""
        potential = self.potential()
        with TemporaryDirectory() as folder:
            stored = storage.save(potential, Path(folder), {"name": "mine"})
            opened, config = storage.load(Path(folder))
            assert difference(predict(opened), predict(potential)) == 0.0
            assert config.fingerprint == stored.fingerprint and config.family == self.kind
            single, _ = storage.load(Path(folder), torch.float32)
            assert single.dtype == torch.float32
            with torch.no_grad():
                parameter = next(item for item in potential.model.parameters() if item.numel())
                parameter.add_(0.1)
            assert storage.save(potential, Path(folder), {}).fingerprint != stored.fingerprint

    def test_copies_share_nothing(self) -> None:
        potential = self.potential()
        expected, copy = predict(potential), deepcopy(potential)
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.add_(0.1)
        assert difference(predict(potential), expected) == 0.0

    def test_groups_name_weights(self) -> None:
        """Each group has parameters; the adapter ``readout`` trains not all that there are."""
        potential = self.potential()
        parameters = potential.model.named_parameters()
        names = [plain_name(name) for name, item in parameters if item.numel()]
        groups = self.family().groups_of(potential.settings)
        found = {
            group: {name for name in names for pattern in patterns if matches(name, pattern)}
            for group, patterns in groups.items()
        }
        assert all(found.values()), found
        assert found["readout"] < set(names)

    @pytest.mark.parametrize("kind", ADAPTERS)
    def test_adapters_can_be_attached(self, kind: str) -> None:
        """They start as the foundation, and something in them can be trained."""
        potential, adapter, options = self.potential(), adapters.get(kind), ADAPTERS[kind]
        expected = predict(potential)
        adapted = adapter(adapter.Options.model_validate(options)).attach(potential)
        assert difference(predict(adapted.potential), expected) < SINGLE
        trained = adapted.trainable_parameters()
        found = adapted.potential.train()(self.batch(adapted.potential))
        loss = found.energy.sum() + found.forces.square().sum()
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        assert any(item is not None and bool(item.any()) for item in gradients)

    def test_features_are_invariant(self) -> None:
        """One row for each atom, the same however the structure is turned."""
        potential = self.potential()
        batch = self.batch(potential)
        features = potential.descriptors(batch)
        assert features.shape == (len(batch.numbers), potential.feature_size)
        if not self.rotations:
            return
        turn = random_rotation() * (-1.0 if self.inversion else 1.0)
        assert largest(potential.descriptors(rotated(batch, turn)) - features) < 1e-8

    def test_files_are_recognised_and_read(self) -> None:
        """The family's own file opens as what was written, and is no other family's."""
        potential, formats = self.potential(), self.family().formats()
        if not formats:
            pytest.skip("the family writes no files")
        own = next(iter(formats.values()))
        content = read_archive(io.BytesIO(own.write(potential, torch.float64, {"name": "mine"})))
        kinds = [kind for kind in families.names() if family(kind).recognises(content.root)]
        assert kinds == [self.kind] == [recognised(content.root)[0]]
        settings, weights = self.family().read(content)
        config = storage.StoredConfig(
            family=self.kind,
            fingerprint=storage.fingerprint(self.kind, settings, weights),
            settings=settings,
        )
        opened = storage.assemble(config, weights, torch.float64, None, Path("written"))
        assert difference(predict(opened), predict(potential)) < SINGLE

    def test_unknown_heads_are_refused(self) -> None:
        with pytest.raises(FoundationError, match="no head 'nowhere'"):
            self.family().build(self.family().example(), torch.float64, "nowhere")
