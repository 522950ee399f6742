"""Exported potentials give the run's own energies and forces through their real consumers."""

import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import finetune
from finetune.core.errors import DataError, FoundationError, RecipeError, RunFolderError
from finetune.export.formats import export, write_file
from finetune.potentials.loading import load_foundation
from tests.conftest import rattled
from tests.tolerances import EXPORT_ENERGY, EXPORT_FORCES, FINITE_DIFFERENCE


def test_mace_calculator_gives_the_run_s_energies_and_forces(
    run_folder: Path, workspace: Path, tmp_path: Path
) -> None:
    path, frames = tmp_path / "tuned.model", tmp_path / "frames.traj"
    export(run_folder, path)
    calculator = finetune.load_calculator(run_folder)
    structures = ase.io.read(workspace / "test.xyz", ":")
    energies, forces = [], []
    for atoms in structures:
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        atoms.calc = None
    ase.io.write(frames, structures)
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import ase.io, numpy as np\n"
        "from mace.calculators import MACECalculator\n"
        "calculator = MACECalculator(sys.argv[1], device='cpu', default_dtype='float64')\n"
        "energies, forces = [], []\n"
        "for atoms in ase.io.read(sys.argv[2], ':'):\n"
        "    atoms.calc = calculator\n"
        "    energies.append(atoms.get_potential_energy()); forces.append(atoms.get_forces())\n"
        "np.savez(sys.argv[3], energies=energies, forces=np.concatenate(forces))\n"
    )
    found = tmp_path / "found.npz"
    subprocess.run([sys.executable, "-c", code, path, frames, found], check=True)
    theirs = np.load(found)
    np.testing.assert_allclose(theirs["energies"], energies, atol=EXPORT_ENERGY, rtol=0)
    np.testing.assert_allclose(theirs["forces"], np.concatenate(forces), atol=EXPORT_FORCES, rtol=0)


def test_the_calculator_is_consistent_in_ase(run_folder: Path, diamond: Atoms) -> None:
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    calculator = finetune.load_calculator(run_folder)
    atoms = rattled("CH3OH", 8)
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 3])
    np.testing.assert_allclose(atoms.get_forces()[[0, 3]], numerical, atol=FINITE_DIFFERENCE)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    crystal = diamond.copy()
    crystal.calc = calculator
    stress = calculate_numerical_stress(crystal, eps=1e-5)
    np.testing.assert_allclose(crystal.get_stress(), stress, atol=1e-6)


def test_single_precision_is_close(run_folder: Path) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.calc = finetune.load_calculator(run_folder)
    exact = atoms.get_forces()
    atoms.calc = finetune.load_calculator(run_folder, dtype="float32")
    np.testing.assert_allclose(atoms.get_forces(), exact, atol=1e-4)


def test_what_the_calculator_refuses(run_folder: Path) -> None:
    calculator = finetune.load_calculator(run_folder)
    for atoms, error, message in (
        (molecule("CH3Cl"), FoundationError, "not Cl"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.05]]), DataError, "closer than"),
        (Atoms("H", [[np.nan, 0, 0]]), DataError, "NaN"),
    ):
        atoms.calc = calculator
        with pytest.raises(error, match=message):
            atoms.get_potential_energy()
    with pytest.raises(FoundationError, match="no foundation"):
        finetune.load_calculator("nowhere")
    with pytest.raises(RecipeError, match="float32 or float64"):
        finetune.load_calculator(run_folder, dtype="half")


def test_stress_of_a_molecule_is_refused_by_ase(run_folder: Path) -> None:
    from ase.calculators.calculator import PropertyNotImplementedError

    atoms = molecule("H2O")
    atoms.calc = finetune.load_calculator(run_folder)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_files_are_not_overwritten_unasked(run_folder: Path, tmp_path: Path) -> None:
    potential = load_foundation(run_folder, torch.float32).potential
    path = tmp_path / "deep" / "tuned.model"
    write_file(potential, path, dtype=torch.float32)
    with pytest.raises(RunFolderError, match="exists"):
        write_file(potential, path)
    with pytest.raises(RunFolderError, match="is a folder"):
        write_file(potential, tmp_path)
