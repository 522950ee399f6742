"""Make the r2SCAN set of silicon carbide, ``data/sic``.

    python data/make_solid.py sample            # strained and rattled cells from one seed
    python data/make_solid.py label             # r2SCAN energies, forces, stress; resumable
    python data/make_solid.py label --level pbe --split test ideal    # to compare the levels
    python data/make_solid.py check             # convergence, central differences; resumable
    python data/make_solid.py write             # extended XYZ, checks and provenance

Needs GPAW with libxc and GPAW's data sets (see data/sic/README.md), and one thread:
``export OMP_NUM_THREADS=1``. Geometries and labels wait in ``--work``, one JSON file per finished
label, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent

LATTICE = 4.36
"""Cubic lattice constant of 3C-SiC, Å, on which volume factor 1 is based (experiment: 4.36)."""

SEED = 20261128
VOLUMES = (0.94, 0.97, 1.00, 1.03, 1.06)
RATTLES = (0.03, 0.06, 0.09, 0.12)
"""Standard deviation of each Cartesian displacement, Å."""
STRAIN = 0.02
"""Largest absolute component of the strain before its trace is removed."""
RATTLED = 41
IDEAL_VOLUMES = (0.92, 0.97, 1.02, 1.07)

LEVELS = {"r2scan": "MGGA_X_R2SCAN+MGGA_C_R2SCAN", "pbe": "PBE"}
"""Functionals by GPAW's names; both use the PBE data sets of GPAW."""
NAMES = {"r2scan": "r2SCAN", "pbe": "PBE"}

CUTOFF = 600.0
"""Plane-wave cutoff, eV."""
KPOINTS = (3, 3, 3)
GRID = (27, 27, 27)
"""Points of the wave functions' real-space grid: the same for every cell."""
BANDS = 20
CONVERGENCE = {"energy": 1e-6, "density": 1e-5, "eigenstates": 1e-7}
"""eV, electrons and eV² per valence electron."""

CHECKED = ("sic-04", "sic-10")
"""Structures of the training set on which convergence and differences are checked."""
FORCE_STEP = 0.01
"""Length of the displacement of all atoms together, Å."""
STRAIN_STEP = 0.004
VARIANTS: dict[str, dict] = {
    "cutoff 800 eV": {"cutoff": 800.0, "grid": (32, 32, 32)},
    "k-points 4x4x4 shifted": {"kpoints": (4, 4, 4), "gamma": False},
}


def rattled(index: int) -> Atoms:
    """Return the cubic cell of eight atoms, strained and rattled; every third is a test."""
    random = np.random.default_rng([SEED, index])
    strain = random.uniform(-STRAIN, STRAIN, (3, 3))
    strain = (strain + strain.T) / 2
    np.fill_diagonal(strain, random.uniform(-STRAIN, STRAIN, 3))
    strain -= np.eye(3) * np.trace(strain) / 3
    volume, rattle = VOLUMES[index % len(VOLUMES)], RATTLES[index % len(RATTLES)]
    atoms = bulk("SiC", "zincblende", LATTICE, cubic=True)
    deformation = np.eye(3) + strain
    deformation *= (volume / np.linalg.det(deformation)) ** (1 / 3)
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    shift = random.normal(0.0, rattle, (len(atoms), 3))
    atoms.positions += shift - shift.mean(0)
    atoms.info.update(
        frame_id=f"sic-{index:02d}",
        config_type="strained_rattled",
        split="test" if index % 3 == 2 else "train",
        volume_factor=volume,
        rattle=rattle,
    )
    return atoms


def ideal(volume: float) -> Atoms:
    """Return the perfect crystal; these few volumes belong to the training set."""
    length = LATTICE * volume ** (1 / 3)
    atoms = bulk("SiC", "zincblende", length, cubic=True)
    atoms.info.update(
        frame_id=f"sic-ideal-{volume:.2f}",
        config_type="ideal",
        split="train",
        volume_factor=volume,
        rattle=0.0,
    )
    return atoms


def sample(work: Path) -> None:
    """Write ``frames.xyz``: all structures without labels."""
    frames = [ideal(volume) for volume in IDEAL_VOLUMES] + [rattled(i) for i in range(RATTLED)]
    work.mkdir(parents=True, exist_ok=True)
    write(work / "frames.xyz", frames, format="extxyz")


def fingerprint(atoms: Atoms) -> str:
    """Hash of cell, numbers and positions, tying a label to its geometry."""
    arrays = (atoms.cell.array.round(7), atoms.numbers, atoms.positions.round(7))
    text = json.dumps([array.tolist() for array in arrays])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def calculate(
    atoms: Atoms,
    level: str,
    cutoff: float = CUTOFF,
    kpoints: tuple[int, int, int] = KPOINTS,
    gamma: bool = True,
    grid: tuple[int, int, int] = GRID,
) -> dict:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt, ASE's sign), all analytic from GPAW.

    Closed shell, fixed occupations (no smearing), no use of symmetry but time reversal.
    """
    from gpaw import GPAW, PW, Mixer

    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    started, processor = time.time(), time.process_time()
    atoms.calc = GPAW(
        mode=PW(cutoff),
        xc=LEVELS[level],
        kpts={"size": kpoints, "gamma": gamma},
        gpts=grid,
        nbands=BANDS,
        symmetry={"point_group": False},
        occupations={"name": "fixed-uniform"},
        convergence=CONVERGENCE,
        mixer=Mixer(0.6, 6, 1.0),
        txt=None,
    )
    energy = float(atoms.get_potential_energy())
    forces, stress = atoms.get_forces(), atoms.get_stress()
    return {
        "level": level,
        "geometry": fingerprint(atoms),
        "energy": energy,
        "forces": forces.tolist(),
        "stress": stress.tolist(),
        "iterations": atoms.calc.get_number_of_iterations(),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "seconds": round(time.time() - started, 1),
    }


def stored(path: Path, atoms: Atoms, level: str, **settings) -> dict:
    """Return the label in ``path``, computed now if it is not there for this geometry."""
    if path.exists():
        entry = json.loads(path.read_text())
        if entry["geometry"] == fingerprint(atoms):
            return entry
    entry = calculate(atoms, level, **settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(entry))
    partial.rename(path)
    log.info("%s %s: %.4f eV, %.0f s", path.stem, level, entry["energy"], entry["seconds"])
    return entry


def label(work: Path, level: str, splits: list[str]) -> None:
    """Label every structure of the given splits (``ideal`` means the perfect crystals)."""
    for atoms in read(work / "frames.xyz", ":"):
        if {atoms.info["split"], atoms.info["config_type"]} & set(splits):
            stored(work / level / f"{atoms.info['frame_id']}.json", atoms, level)


def _differences(work: Path, atoms: Atoms, found: dict) -> dict:
    """Forces and stress against central differences of the energy, along random directions."""
    random = np.random.default_rng([SEED, 1000])
    folder, name = work / "checks", atoms.info["frame_id"]
    direction = random.normal(size=(len(atoms), 3))
    direction /= np.linalg.norm(direction)
    strain = random.normal(size=(3, 3))
    strain = (strain + strain.T) / np.linalg.norm(strain + strain.T)
    energies = {}
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * FORCE_STEP * direction
        path = folder / f"{name}-moved{sign:+d}.json"
        energies["moved", sign] = stored(path, moved, "r2scan")["energy"]
        strained = atoms.copy()
        cell = atoms.cell.array @ (np.eye(3) + sign * STRAIN_STEP * strain)
        strained.set_cell(cell, scale_atoms=True)
        path = folder / f"{name}-strained{sign:+d}.json"
        energies["strained", sign] = stored(path, strained, "r2scan")["energy"]
    slope = (energies["moved", 1] - energies["moved", -1]) / (2 * FORCE_STEP)
    pull = (energies["strained", 1] - energies["strained", -1]) / (2 * STRAIN_STEP)
    xx, yy, zz, yz, xz, xy = found["stress"]
    stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return {
        "structure": name,
        "force_step_angstrom": FORCE_STEP,
        "force_analytic_ev_per_angstrom": float((np.array(found["forces"]) * direction).sum()),
        "force_difference_ev_per_angstrom": -slope,
        "strain_step": STRAIN_STEP,
        "stress_analytic_ev_per_cubic_angstrom": float((stress * strain).sum()),
        "stress_difference_ev_per_cubic_angstrom": pull / atoms.get_volume(),
    }


def check(work: Path) -> dict:
    """Convergence with cutoff and k-points, and central differences."""
    frames = {atoms.info["frame_id"]: atoms for atoms in read(work / "frames.xyz", ":")}
    result: dict = {"convergence": {}}
    for variant, settings in VARIANTS.items():
        rows, shifts = {}, []
        for name in CHECKED:
            atoms = frames[name]
            used = stored(work / "r2scan" / f"{name}.json", atoms, "r2scan")
            path = work / "checks" / f"{name}-{variant.replace(' ', '-')}.json"
            better = stored(path, atoms, "r2scan", **settings)
            stress = np.subtract(better["stress"], used["stress"])
            forces = np.subtract(better["forces"], used["forces"])
            shifts.append((better["energy"] - used["energy"]) / len(atoms))
            rows[name] = {
                "energy_shift_ev_per_atom": shifts[-1],
                "largest_force_change_ev_per_angstrom": float(np.abs(forces).max()),
                "force_change_ev_per_angstrom_rmse": float(np.sqrt((forces**2).mean())),
                "mean_normal_stress_change_ev_per_cubic_angstrom": float(stress[:3].mean()),
                "largest_stress_change_ev_per_cubic_angstrom": float(np.abs(stress).max()),
            }
        rows["change_of_energy_difference_ev_per_atom"] = shifts[1] - shifts[0]
        result["convergence"][variant] = rows
    name = CHECKED[0]
    found = stored(work / "r2scan" / f"{name}.json", frames[name], "r2scan")
    result["central_differences"] = _differences(work, frames[name], found)
    return result


def labelled(work: Path, level: str) -> list[tuple[Atoms, dict]]:
    """Structures that have a label for exactly their geometry."""
    found = []
    for atoms in read(work / "frames.xyz", ":"):
        path = work / level / f"{atoms.info['frame_id']}.json"
        if path.exists():
            entry = json.loads(path.read_text())
            if entry["geometry"] == fingerprint(atoms):
                found.append((atoms, entry))
    return found


def equation_of_state(work: Path, level: str) -> dict:
    """Lattice constant and bulk modulus from the stress of the perfect crystals.

    Pressure as a quadratic function of ln V; also the largest difference between this pressure
    and -dE/dV from the cubic through the energies.
    """
    rows = [(a.get_volume(), e) for a, e in labelled(work, level) if a.info["rattle"] == 0]
    volumes = np.array([volume for volume, _ in rows])
    pressures = -np.array([np.mean(entry["stress"][:3]) for _, entry in rows])
    curve = np.polynomial.Polynomial.fit(np.log(volumes), pressures, 2)
    inside = [r.real for r in curve.roots() if abs(r.real - np.log(LATTICE**3)) < 0.1]
    energies = np.polynomial.Polynomial.fit(volumes, [e["energy"] for _, e in rows], 3)
    slope = energies.deriv()
    return {
        "lattice_constant_angstrom": float(np.exp(inside[0] / 3)),
        "bulk_modulus_gpa": float(-curve.deriv()(inside[0]) * 160.2177),
        "largest_pressure_minus_slope_ev_per_cubic_angstrom": float(
            np.abs(pressures + slope(volumes))[1:-1].max()
        ),
    }


def compare_levels(work: Path) -> dict:
    """PBE minus r2SCAN on the structures that have both."""
    pbe = {atoms.info["frame_id"]: entry for atoms, entry in labelled(work, "pbe")}
    pairs = [
        (atoms, entry, pbe[atoms.info["frame_id"]])
        for atoms, entry in labelled(work, "r2scan")
        if atoms.info["frame_id"] in pbe and atoms.info["rattle"] > 0
    ]
    energies = np.array([(b["energy"] - a["energy"]) / len(atoms) for atoms, a, b in pairs])
    forces = np.array([np.subtract(b["forces"], a["forces"]) for _, a, b in pairs])
    stress = np.array([np.subtract(b["stress"], a["stress"]) for _, a, b in pairs])
    size = np.array([a["forces"] for _, a, _ in pairs])
    return {
        "structures": len(pairs),
        "energy_ev_per_atom_standard_deviation": float(energies.std()),
        "force_ev_per_angstrom_mae": float(np.abs(forces).mean()),
        "force_ev_per_angstrom_rmse": float(np.sqrt((forces**2).mean())),
        "r2scan_force_ev_per_angstrom_root_mean_square": float(np.sqrt((size**2).mean())),
        "normal_stress_ev_per_cubic_angstrom_mean": float(stress[:, :3].mean()),
        "stress_ev_per_cubic_angstrom_rmse": float(np.sqrt((stress**2).mean())),
        "equation_of_state": {
            NAMES[level]: equation_of_state(work, level) for level in ("r2scan", "pbe")
        },
    }


def data_sets() -> dict[str, dict[str, str]]:
    """File name and SHA-256 of the PAW data sets that GPAW finds."""
    from gpaw import setup_paths

    result = {}
    for symbol in ("Si", "C"):
        name = f"{symbol}.PBE.gz"
        path = next(Path(p) / name for p in setup_paths if (Path(p) / name).exists())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        result[symbol] = {"file": name, "sha256": digest}
    return result


def write_set(work: Path, out: Path) -> None:
    """Write ``train.xyz``, ``test.xyz`` and ``provenance.json``."""
    import gpaw

    out.mkdir(parents=True, exist_ok=True)
    labels = labelled(work, "r2scan")
    frames: dict[str, list[Atoms]] = {"train": [], "test": []}
    for atoms, entry in labels:
        atoms.info["level_of_theory"] = "r2SCAN/PAW"
        atoms.info["REF_energy"] = entry["energy"]
        atoms.info["REF_stress"] = np.array(entry["stress"])
        atoms.arrays["REF_forces"] = np.array(entry["forces"])
        frames[atoms.info["split"]].append(atoms)
    for split, members in frames.items():
        partial = out / f"{split}.partial"
        write(partial, members, format="extxyz")
        partial.rename(out / f"{split}.xyz")
    seconds = [entry["cpu_seconds"] for _, entry in labels]
    everything = [json.loads(path.read_text()) for path in work.glob("*/*.json")]
    content = {
        "date": "2026-11",
        "versions": {"python": platform.python_version(), "libxc": _libxc_version()}
        | {name: version(name) for name in ("gpaw", "gpaw-data", "ase", "numpy", "scipy")},
        "level_of_theory": {
            "name": "r2SCAN/PAW",
            "functional": LEVELS["r2scan"] + " (libxc)",
            "paw_data_sets": data_sets(),
            "paw_data_sets_functional": "PBE, scalar-relativistic; GPAW has none for r2SCAN",
            "mode": "plane waves, closed shell",
            "cutoff_ev": CUTOFF,
            "k_points": f"{'x'.join(map(str, KPOINTS))}, including gamma; time reversal only",
            "grid": GRID,
            "bands": BANDS,
            "smearing": "none, fixed occupations",
            "convergence_per_valence_electron": CONVERGENCE,
            "forces": "analytic",
            "stress": "analytic; no correction for the finite cutoff (Pulay stress)",
            "energy_zero": "GPAW's: PBE energies of the free atoms in the data sets",
        },
        "sampling": {
            "seed": SEED,
            "lattice_constant_angstrom": LATTICE,
            "volume_factors": VOLUMES,
            "rattle_angstrom": RATTLES,
            "largest_strain_component": STRAIN,
            "ideal_volume_factors": IDEAL_VOLUMES,
            "split": "every third strained and rattled structure is a test structure",
        },
        "counts": {split: len(members) for split, members in frames.items()},
        "cpu_seconds_per_label_median": float(np.median(seconds)),
        "cpu_hours_labels": round(math.fsum(seconds) / 3600, 2),
        "cpu_hours_with_checks_and_pbe": round(
            math.fsum(entry["cpu_seconds"] for entry in everything) / 3600, 2
        ),
        "checks": check(work),
        "pbe_minus_r2scan_test": compare_levels(work),
    }
    assert gpaw.__version__ == content["versions"]["gpaw"]
    (out / "provenance.json").write_text(json.dumps(content, indent=2) + "\n")


def _libxc_version() -> str:
    from _gpaw import libxc_version  # compiled into GPAW

    return str(libxc_version)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("sample", "label", "check", "write"))
    parser.add_argument("--level", choices=tuple(LEVELS), default="r2scan")
    parser.add_argument(
        "--split", nargs="+", choices=("train", "test", "ideal"), default=["train", "test"]
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "sic")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "sic")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.command == "sample":
        sample(arguments.work)
    elif arguments.command == "label":
        label(arguments.work, arguments.level, arguments.split)
    elif arguments.command == "check":
        print(json.dumps(check(arguments.work), indent=2))
    else:
        write_set(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
