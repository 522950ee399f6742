"""The MACE implementation: settings, heads, plain models, and no side effects."""

import subprocess
import sys

import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.mace.potential import MacePotential
from tests.tiny import tiny_settings


def test_each_head_has_its_own_reference_energies(mixed_graphs: list[GraphBatch]) -> None:
    energies = ((-13.0, -1030.0, -1480.0, -2040.0), (-14.0, -1031.0, -1481.0, -2041.0))
    settings = tiny_settings(
        heads=("dft", "cc"),
        atomic_energies=energies,
        atomic_inter_scale=(1.0, 1.0),
        atomic_inter_shift=(0.0, 0.0),
    )
    cc = MacePotential.build(settings, head="cc")
    assert cc.references()[1] == -14.0
    cc.set_references({1: -14.5})
    assert cc.settings.atomic_energies == (energies[0], (-14.5, *energies[1][1:]))
    assert torch.isfinite(cc(concatenate(mixed_graphs)).energy).all()
    with pytest.raises(FoundationError, match="several heads: dft, cc. Choose one"):
        MacePotential.build(settings)
    with pytest.raises(FoundationError, match="no head 'ccc'. Did you mean 'cc'"):
        MacePotential.build(settings, head="ccc")


def test_settings_that_mace_refuses_give_a_clear_error() -> None:
    with pytest.raises(FoundationError, match="MACE cannot build"):
        MacePotential.build(tiny_settings(interaction_cls="NoSuchBlock"))


@pytest.mark.slow
def test_importing_and_building_leave_the_process_as_it_was() -> None:
    code = (
        "import os, torch; from finetune.testing import small_potential;"
        "small_potential();"
        "assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ;"
        "assert torch.get_default_dtype() == torch.float32"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
