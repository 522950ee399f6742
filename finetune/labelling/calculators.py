"""Labels from ASE calculators: tblite's, or any that a recipe names."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import ground_state_magnetic_moments

from finetune.core.errors import RecipeError
from finetune.labelling.recipe import AseLevel, TbliteLevel
from finetune.labelling.task import Label, LabelError, Task, check_electrons, listed

KEPT = 10_000_000
"""Bytes; larger files of a failed calculation (orbitals, densities) are not kept."""


class TightBinding:
    """Computes structures with tblite."""

    def __init__(self, level: TbliteLevel) -> None:
        self.level = level
        self.program = f"tblite {version('tblite')}"

    def compute(self, task: Task, forces: bool) -> Label:
        """Compute energy, forces and, for periodic structures, stress."""
        from tblite.ase import TBLite

        check_electrons(task)  # tblite silently uses another multiplicity
        level = self.level
        calculator = TBLite(
            method=level.method,
            charge=task.charge,
            multiplicity=task.spin,
            accuracy=level.accuracy,
            electronic_temperature=level.electronic_temperature,
            max_iterations=level.max_cycles,
            verbosity=0,
        )
        return computed(calculator, task, forces)


class Named:
    """Computes structures with the ASE calculator of a level; making it runs its code.

    A calculator that works with files does so in ``folder``; within its own directory, if it names
    one, in a folder that no other output has. Raises RecipeError if it cannot be made.
    """

    def __init__(self, level: AseLevel, folder: Path) -> None:
        self.level = level
        self.folder = folder
        if base := level.arguments.get("directory"):
            output = folder.parent.absolute()
            digest = hashlib.sha256(str(output).encode()).hexdigest()[:8]
            self.folder = Path(base) / f"{output.name}-{digest}" / folder.name
        self._factory = _find(level.calculator)
        self._made: dict[tuple[tuple[str, int], ...], Any] = {}
        if not {level.charge_parameter, level.spin_parameter} - {None, "info"}:
            try:
                self._calculator({})
            except Exception as error:  # whatever the calculator raises
                raise RecipeError(
                    f"level.calculator '{level.calculator}' cannot be made with "
                    f"{level.arguments or 'no arguments'}: {type(error).__name__}: {error}"
                ) from None
        self.program = _distribution(level.calculator)

    def compute(self, task: Task, forces: bool) -> Label:
        """Compute what the calculator has; files of a failure are kept next to ``folder``."""
        level = self.level
        given: dict[str, int] = {}
        for name, value, usual, parameter in (
            ("charge", task.charge, 0, level.charge_parameter),
            ("spin", task.spin, 1, level.spin_parameter),
        ):
            if parameter not in (None, "info"):
                given[str(parameter)] = value
            elif parameter is None and value != usual and not task.free_atom:
                raise LabelError(
                    f"its {name} is {value}, which {level.calculator} does not get: name its "
                    f"parameter in level.{name}_parameter ('info' if it reads atoms.info)."
                )
        failed = self.folder.with_name(f"failed-{task.key[:12]}")
        shutil.rmtree(failed, ignore_errors=True)
        calculator = self._calculator(given)
        _empty(self.folder)
        try:
            return computed(calculator, task, forces, level)
        except LabelError as error:
            if not _keep(self.folder, failed):
                raise
            place = f"{failed.parent.name}/{failed.name}"
            raise LabelError(f"{error} (its files: {place})") from None

    def _calculator(self, given: dict[str, int]) -> Any:
        key = tuple(sorted(given.items()))
        if key not in self._made:
            made = self._factory(**{**self.level.arguments, **given})
            if not callable(getattr(made, "get_potential_energy", None)):
                raise TypeError("it is not an ASE calculator")
            if hasattr(made, "directory"):
                own = made.directory
                made.directory = self.folder if isinstance(own, Path) else str(self.folder)
            self._made[key] = made
        return self._made[key]


def computed(calculator: Any, task: Task, forces: bool, level: AseLevel | None = None) -> Label:
    """Ask an ASE calculator for a label; raises LabelError if it fails or does not converge."""
    atoms = task.atoms()
    if task.free_atom:
        atoms.set_initial_magnetic_moments(ground_state_magnetic_moments[task.numbers])
        if level is not None and level.atom_cell is not None:
            atoms.set_cell([level.atom_cell] * 3)
            atoms.pbc = True
            atoms.center()
    if hasattr(calculator, "reset"):
        calculator.reset()
    atoms.calc = calculator
    name, without, vectors, stress = type(calculator).__name__, "", None, None
    try:
        free = level is not None and level.energy == "free_energy"
        energy = atoms.get_potential_energy(force_consistent=free)
        if forces:
            try:
                vectors = np.array(atoms.get_forces())
            except NotImplementedError:
                without = f"{name} has no forces"
        if forces and atoms.pbc.all() and not task.free_atom:
            with suppress(NotImplementedError):
                stress = np.array(atoms.get_stress(voigt=False))
    except Exception as error:  # calculators raise whatever their programs make them raise
        text = " ".join(str(error).split())[:300]
        raise LabelError(f"{type(error).__name__}: {text}" if text else repr(error)) from None
    if getattr(calculator, "converged", None) is False:
        raise LabelError(f"{name} did not converge.")
    for what, value in (("energy", energy), ("forces", vectors), ("stress", stress)):
        if value is not None and not np.isfinite(value).all():
            raise LabelError(f"{name} gives NaN or infinite {what}.")
    return Label(
        energy=float(energy),
        forces=None if vectors is None else listed(vectors),
        stress=None if stress is None else listed(stress),
        without_forces=without,
    )


def _empty(folder: Path) -> None:
    """Remove the files of the previous calculation, so that none passes for a new answer."""
    for item in folder.iterdir() if folder.is_dir() else ():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def _keep(folder: Path, place: Path) -> bool:
    """Copy the files of a failed calculation to another folder; return whether there are any."""

    def large(inside: str, names: Sequence[str]) -> list[str]:
        paths = {name: Path(inside, name) for name in names}
        return [n for n, path in paths.items() if path.is_file() and path.stat().st_size > KEPT]

    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    with suppress(OSError):  # the disk may be what failed
        shutil.copytree(folder, place, symlinks=True, ignore=large, dirs_exist_ok=True)
    return place.is_dir()


def _find(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"level.calculator '{path}' cannot be imported ({error}). Give the dotted path of a "
            "class or function, from an installed package or the working folder."
        ) from None
    return found


def _distribution(path: str) -> str:
    """Return the package that a calculator is from, with its version if known."""
    top = path.partition(".")[0]
    for name in packages_distributions().get(top, ()):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return str(getattr(sys.modules.get(top), "__name__", top))
