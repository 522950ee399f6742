"""Models built by MACE's own training command with the published settings open as what they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.data.graphs import GraphBatch, concatenate
from finetune.export.formats import write_file
from finetune.potentials.equivariant import default_dtype, quiet_import
from finetune.potentials.loading import load_foundation
from tests.potentials.architectures import CHARGE_AND_SPIN, ENERGIES
from tests.potentials.plain_mace import assert_as_mace

ELEMENTS = [1, 6, 7, 8]
MATERIALS = (
    "--num_interactions=2 --correlation=3 --max_ell=3 --r_max=6.0 --num_channels=4 "
    "--MLP_irreps=4x0e"
)
RESIDUAL = (
    "--model=ScaleShiftMACE --interaction_first=RealAgnosticResidualInteractionBlock "
    "--interaction=RealAgnosticResidualInteractionBlock --num_radial_basis=10"
)
AGNESI = "--model=MACE --pair_repulsion --distance_transform=Agnesi"
DENSITY = (
    "--interaction_first=RealAgnosticDensityInteractionBlock "
    "--interaction=RealAgnosticDensityResidualInteractionBlock"
)
NONLINEAR = (
    "--interaction_first=RealAgnosticResidualNonLinearInteractionBlock "
    "--interaction=RealAgnosticResidualNonLinearInteractionBlock --apply_cutoff=False"
)
SCRIPTS = {
    "MACE-MP-0 small": f"{RESIDUAL} {MATERIALS} --max_L=0",
    "MACE-MP-0 medium": f"{RESIDUAL} {MATERIALS} --max_L=1",
    "MACE-MP-0 large": f"{RESIDUAL} {MATERIALS} --max_L=2",
    "MACE-MP-0b small": f"{AGNESI} {MATERIALS} --max_L=0 --num_radial_basis=8",
    "MACE-MP-0b3": f"{AGNESI} {DENSITY} {MATERIALS} --max_L=1 --num_radial_basis=10",
    "MACE-OMAT-0": (
        f"{AGNESI} {DENSITY} --hidden_irreps=4x0e+4x1o --num_interactions=2 --r_max=6.0 "
        "--MLP_irreps=4x0e"
    ),
    "MACE-OFF23": (
        "--model=MACE --num_interactions=2 --num_channels=4 --max_L=1 --correlation=3 --r_max=5.0 "
        "--MLP_irreps=4x0e"
    ),
    "MACE-OMOL-0": (
        f"--model=ScaleShiftMACE {NONLINEAR} --num_interactions=3 --correlation=2 --max_ell=3 "
        "--r_max=6.0 --num_cutoff_basis=5 --hidden_irreps=4x0e+4x1o+4x2e "
        "--edge_irreps=2x0e+2x1o+2x2e --num_radial_basis=8 --MLP_irreps=4x0e"
    ),
    "two heads with an agnostic product": (
        f"--model=ScaleShiftMACE {NONLINEAR} --num_interactions=2 --correlation=3 --max_ell=3 "
        "--r_max=6.0 --hidden_irreps=4x0e+4x1o --edge_irreps=2x0e+2x1o --MLP_irreps=4x0e "
        "--use_agnostic_product=True --use_last_readout_only=True"
    ),
}
"""Architecture options of the published training scripts, with few channels; that of MH-1 is not
published, and the last entry is a model of two heads with the same kind of blocks."""
FAST: set[str] = set()


def built(name: str) -> torch.nn.Module:
    """Build a model as ``mace_run_train`` does with these options."""
    parser = quiet_import("mace.tools.arg_parser").build_default_arg_parser()
    checks = quiet_import("mace.tools.arg_parser_tools")
    arguments = [f"--name={name}", *SCRIPTS[name].split()]
    if "OMOL" in name:
        arguments.append(f"--embedding_specs={CHARGE_AND_SPIN}")
    options, _ = checks.check_args(parser.parse_args(arguments))
    heads = ["dft", "cc"] if name.startswith("two heads") else ["Default"]
    options.compute_energy = options.compute_forces = True
    options.compute_dipole = options.compute_polarizability = False
    options.avg_num_neighbors = 61.9
    options.mean, options.std = [0.16] * len(heads), [0.8] * len(heads)
    elements = quiet_import("mace.tools.utils").AtomicNumberTable(ELEMENTS)
    energies = np.array(ENERGIES[: len(heads)])
    with torch.random.fork_rng(devices=[]), default_dtype(torch.float64):
        torch.manual_seed(0)
        configure = quiet_import("mace.tools.model_script_utils").configure_model
        model, _ = configure(options, None, energies, heads=heads, z_table=elements)
    return model.double().eval()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SCRIPTS],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_of_mace_s_own_training_opens(
    name: str, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    model = built(name)
    torch.save(model, tmp_path / "trained.model")
    head = model.heads[-1] if len(model.heads) > 1 else None
    opened = load_foundation(tmp_path / "trained.model", head=head).potential
    batch = concatenate(mixed_graphs)
    assert_as_mace(opened(batch, stress=True), model, batch, len(model.heads) - 1)
    write_file(opened, tmp_path / "again.model")
    again = torch.load(tmp_path / "again.model", weights_only=False).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value.squeeze(), again[key].squeeze()), key  # shift 0.0 becomes [0.0]
