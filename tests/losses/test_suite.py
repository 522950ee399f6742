"""Every registered loss, in each of its forms, holds what the suite for custom losses asks."""

import pytest
import torch

from finetune.losses.loss import Loss
from finetune.potentials.direct.potential import DirectPotential
from finetune.potentials.potential import FamilyPotential, Potential
from finetune.recipe.plugins import losses
from finetune.testing import LossSuite

FORMS: dict[str, list[dict[str, object]]] = {
    "energy": [{}, {"normalise": "per_structure", "distance": "huber"}],
    "forces": [{}],
    "stress": [{}],
    "pitc": [
        {},
        {"form": "symmetric", "displacement": 0.1},
        {"base": "label", "copies": 2},
        {"anchored": True, "displacement": {"kind": "sphere", "size": 0.1}},
        {"displacement": {"kind": "adversarial", "size": 0.05}},
        {"displacement": {"kind": "soft_modes"}, "anchored": True},
        {"displacement": {"kind": "thermal"}, "normalise": "per_structure"},
    ],
    "pisc": [{"displacement": 0.05}, {"anchored": True, "copies": 2, "displacement": 0.05}],
    "second_difference": [{"displacement": 0.05}, {"anchored": True, "displacement": 0.1}],
    "strain": [{}, {"form": "symmetric", "strain": 0.02}, {"anchored": True, "copies": 2}],
    "gradient_match": [
        {"hold": "nothing", "displacement": None},
        {"hold": "nothing", "copies": 2, "displacement": 0.05},
    ],
    "replay": [
        *({"energy": 1.0, "forces": 0.0}, {"displacement": None}),
        {"copies": 2, "energy": 2.0, "forces": 0.5},
    ],
}
SLOW: dict[str, set[int]] = {"pitc": {3, 6}, "pisc": {0}, "second_difference": {1}, "strain": {1}}
"""Forms, by place, that the slow tests alone try."""
CASES = [
    pytest.param(name, form, marks=[pytest.mark.slow] * (place in SLOW.get(name, ())))
    for name, forms in FORMS.items()
    for place, form in enumerate(forms)
]


def test_no_registered_loss_is_left_out() -> None:
    assert set(losses.builtin) == set(FORMS)


@pytest.mark.parametrize(("name", "form"), CASES, scope="class")
class TestRegisteredLosses(LossSuite):
    @pytest.fixture(autouse=True)
    def _case(self, name: str, form: dict[str, object]) -> None:
        self.name, self.form = name, form
        by_atoms = name in {"forces", "gradient_match", "replay"} and form.get("forces") != 0.0
        self.mean_over_structures = not by_atoms

    def loss(self) -> Loss:
        options = losses.options(self.name).model_validate(self.form)
        return losses.get(self.name)(options)  # type: ignore[arg-type]

    def trained(self) -> Potential:
        plain = super().trained()
        if not losses.options(self.name).needs_direct_forces:  # type: ignore[attr-defined]
            return plain
        assert isinstance(plain, FamilyPotential)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return DirectPotential(plain, channels=4)
