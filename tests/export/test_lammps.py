"""LAMMPS itself, where there is one, predicts and moves what the run predicts and moves.

It is the program that ``LAMMPS`` names, or ``lmp``; its Python module has to be in ``PYTHONPATH``.
"""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.data import chemical_symbols
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet

import finetune
from finetune.export.formats import export
from tests.conftest import rattled
from tests.tolerances import EXPORT_ENERGY, EXPORT_FORCES

LMP = os.environ.get("LAMMPS") or shutil.which("lmp") or ""
ABOUT = set(
    subprocess.run([LMP, "-h"], capture_output=True, text=True).stdout.split() if LMP else ()
)
pytestmark = pytest.mark.skipif(not LMP, reason="no LAMMPS: see CONTRIBUTING.md")
STYLES = {
    "lammps-mliap": (
        "pair_style mliap unified tuned.pt 0\npair_coeff * * {elements}",
        {"KOKKOS", "ML-IAP", "PYTHON"},
        ["-k", "on", "-sf", "kk", "-pk", "kokkos", "newton", "on", "neigh", "half"],
    ),
    "lammps": ("pair_style mace\npair_coeff * * tuned.pt {elements}", {"mace"}, []),
}
"""By format: commands, what the LAMMPS must have, options."""
STEPS, TIMESTEP = 20, 0.5  # fs
SCRIPT = """
units metal
atom_style atomic
atom_modify map yes
newton on
read_data data.lmp
{style}
compute each all pe/atom
thermo_style custom step pe pxx pyy pzz pyz pxz pxy
timestep {timestep}
fix move all nve
run 0
print "$(pe:%.12f) $(pxx:%.6f) $(pyy:%.6f) $(pzz:%.6f) $(pyz:%.6f) $(pxz:%.6f) $(pxy:%.6f)" file out
write_dump all custom first id x y z fx fy fz c_each modify sort id format float %.12f
run {steps}
write_dump all custom last id xu yu zu modify sort id format float %.12f
"""


def crystal() -> Atoms:
    atoms = bulk("C", cubic=True) * (3, 2, 2)
    atoms.rattle(0.05, seed=3)
    atoms.wrap()
    return atoms


def boxed() -> Atoms:
    """Return a molecule that lies across the boundaries, so that there are images of it."""
    atoms = rattled("CH3OH", 1)
    atoms.set_cell([9.0, 10.0, 11.0])
    atoms.pbc = True
    atoms.wrap()
    return atoms


def rows(name: str) -> np.ndarray:
    return np.loadtxt(Path(name).read_text().partition("ITEM: ATOMS")[2].splitlines()[1:])


@pytest.mark.parametrize("format", STYLES)
@pytest.mark.parametrize("make", [crystal, boxed])
def test_lammps_predicts_and_moves_as_ase_does(
    make: Callable[[], Atoms],
    format: str,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    style, needed, options = STYLES[format]
    if lacks := needed - ABOUT:
        pytest.skip(f"this LAMMPS was built without {', '.join(sorted(lacks))}")
    monkeypatch.chdir(tmp_path)
    export(run_folder, "tuned.pt", format)
    atoms = make()
    atoms.calc = finetune.load_calculator(run_folder)
    elements = [chemical_symbols[number] for number in atoms.calc.potential.elements]
    write_lammps_data("data.lmp", atoms, specorder=elements, masses=True)
    style = style.format(elements=" ".join(elements))
    Path("in.lmp").write_text(SCRIPT.format(style=style, timestep=TIMESTEP / 1000, steps=STEPS))
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = os.pathsep.join(filter(None, [*given, sysconfig.get_path("purelib")]))
    done = subprocess.run(
        [LMP, *options, "-in", "in.lmp"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    energy, *pressures = map(float, Path("out").read_text().split())
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=EXPORT_ENERGY)
    stress = np.array(pressures) * -1e5 * units.Pascal
    np.testing.assert_allclose(stress, atoms.get_stress(), atol=1e-9)
    first = rows("first")
    np.testing.assert_allclose(first[:, 4:7], atoms.get_forces(), atol=EXPORT_FORCES, rtol=0)
    np.testing.assert_allclose(first[:, 7], atoms.get_potential_energies(), atol=EXPORT_ENERGY)
    before = atoms.positions.copy()
    VelocityVerlet(atoms, TIMESTEP * units.fs).run(STEPS)
    travelled = atoms.positions - before
    assert np.abs(travelled).max() > 1e-4
    np.testing.assert_allclose(rows("last")[:, 1:4] - first[:, 1:4], travelled, atol=1e-7)
