"""Errors against hand calculations."""

import numpy as np
import pytest

from finetune.potentials.errors import LabelledPredictions, errors

NOTHING = np.zeros((2, 0))


def test_errors_by_hand() -> None:
    found = errors(
        LabelledPredictions(
            energy=np.array([[1.0, 5.0], [0.0, 2.0]]),
            atoms=np.array([2.0, 3.0]),
            forces=np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]),
            stress=np.stack([np.full(18, 0.2), np.zeros(18)]),
        ),
        structures=4,
    )
    assert found.structures == 4
    assert found.labelled_energies == 2
    assert found.labelled_forces == 1
    assert found.energy_mae == pytest.approx(2.0)
    assert found.energy_rmse == pytest.approx(5.0**0.5)
    assert found.energy_shifted_mae == pytest.approx(1.0)
    assert found.energy_per_atom_mae == pytest.approx(0.75)
    assert found.energy_per_atom_rmse == pytest.approx((0.625) ** 0.5)
    assert found.forces_mae == pytest.approx(2 / 3)
    assert found.forces_rmse == pytest.approx((2 / 3) ** 0.5)
    assert found.labelled_stresses == 2
    assert found.stress_mae == pytest.approx(0.2)
    assert found.stress_rmse == pytest.approx(0.2)


def test_no_labels_give_no_errors() -> None:
    found = errors(LabelledPredictions(NOTHING, np.zeros(0), NOTHING, NOTHING), 3)
    assert found.energy_mae is None
    assert found.forces_rmse is None
    assert found.stress_mae is None
