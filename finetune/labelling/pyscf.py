"""Energies and analytic forces of molecules with PySCF."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from finetune.core.errors import RecipeError
from finetune.labelling.recipe import NAMES, PyscfLevel
from finetune.labelling.task import Label, LabelError, Task, check_electrons, listed

_NAMED = (
    "Corrections follow the name of the functional, -d3bj, -d3zero, -d3bjm, -d3zerom, -d3op or "
    "-d4: b3lyp-d3bj, pbe0-d4, wb97x-d3bj. Without a correction, write {}."
)


def dispersion_of(name: str) -> str:
    """Check a functional (libxc's name, then PySCF's of a correction); return the correction.

    It is returned in words; empty without one. Raises RecipeError for an unknown functional or
    correction, a pair without parameters, or if the package for corrections is not installed.
    """
    from pyscf import gto
    from pyscf.dft import libxc
    from pyscf.scf import dispersion

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on wb97x-d4; the label records the parameters
            plain, _, wanted = dispersion.parse_dft(name)
            method, version, three_body = dispersion.parse_disp(name)
        libxc.parse_xc(plain)
    except (KeyError, ValueError, NotImplementedError) as error:
        why = error.args[0] if error.args else error
        functional, corrected, _ = name.lower().replace("_", "-").partition("-d")
        hint = f" {_NAMED.format(functional)}" if corrected else ""
        raise RecipeError(
            f"level.method '{name}' is none of {', '.join(NAMES)}, and not a functional of PySCF "
            f"({why}).{hint}"
        ) from None
    if not wanted:
        return ""
    if plain == "hf":
        raise RecipeError(f"'{name}': dispersion corrections are for functionals; use hf.")
    if find_spec("pyscf.dispersion") is None:
        raise RecipeError(
            f"'{name}' has a dispersion correction, for which PySCF needs another package: "
            "pip install pyscf-dispersion"
        )
    if version not in dispersion.DISP_VERSIONS:
        raise RecipeError(
            f"'{name}': there is no dispersion correction '{version}'. {_NAMED.format(plain)}"
        )
    from pyscf.dispersion import dftd3, dftd4

    package = dftd4.DFTD4Dispersion if version == "d4" else dftd3.DFTD3Dispersion
    try:
        package(gto.M(atom="He", verbose=0), xc=method, version=version)
    except (RuntimeError, KeyError) as error:
        raise RecipeError(
            f"'{name}': there are no parameters of {version} for '{method}' ({error}). "
            f"{_NAMED.format(method)}"
        ) from None
    return f"{version} of {method}, {'three-body' if three_body else 'two-body'}"


def gradient(method: Any, name: str) -> NDArray[np.float64]:
    """Return dE/dR ``[n, 3]``, Hartree/Bohr, of a converged mean field, MP2 or CCSD.

    ``name`` is ``hf``, ``mp2``, ``ccsd``, ``ccsd(t)`` or a functional. Raises LabelError if the
    lambda equations do not converge.
    """
    if not hasattr(method, "solve_lambda"):
        solver = method.nuc_grad_method()
        if hasattr(solver, "grid_response"):
            solver.grid_response = True
        return np.asarray(solver.kernel())
    integrals = method.ao2mo()
    if name == "ccsd(t)":  # with the lambda equations of CCSD the gradient would be wrong
        from pyscf.cc import ccsd_t_lambda
        from pyscf.grad import ccsd_t

        converged, first, second = ccsd_t_lambda.kernel(
            *(method, integrals, method.t1, method.t2),
            max_cycle=method.max_cycle,
            tol=method.conv_tol_normt,
            verbose=0,
        )
        solver = ccsd_t.Gradients(method)
    else:
        first, second = method.solve_lambda(eris=integrals)
        converged, solver = method.converged_lambda, method.nuc_grad_method()
    if not converged:
        raise LabelError(
            f"the lambda equations did not converge in {method.max_cycle} cycles "
            "(level.max_cycles): no forces."
        )
    return np.asarray(solver.kernel(method.t1, method.t2, first, second, eris=integrals))


GRADIENT_TOLERANCE = 1e-6
"""Hartree, norm of the orbital gradient of a converged mean field: forces of methods based on it
are first order in its error."""
AMPLITUDE_TOLERANCE = 100.0
"""Norm of the last change of coupled-cluster amplitudes, relative to the tolerance of energies."""

FLAT = 1e-5
"""Hartree; open-shell atoms rotate at no cost, which looks like an instability on a grid."""
_STATE = ("mo_coeff", "mo_occ", "mo_energy", "e_tot", "converged")


class Molecular:
    """Computes molecules at a level of theory; refuses unknown functionals and basis sets.

    A basis set is refused if it has none of the ``elements`` (atomic numbers); ``memory`` is in MB.
    """

    def __init__(
        self, level: PyscfLevel, elements: Sequence[int], threads: int, memory: int
    ) -> None:
        import pyscf

        pyscf.lib.num_threads(threads)
        self.level = level
        self.memory = memory
        self.program = f"PySCF {pyscf.__version__}"
        self._facts: dict[str, Any] = {}
        if level.method not in NAMES and (dispersion := dispersion_of(level.method)):
            self.program += f", pyscf-dispersion {version('pyscf-dispersion')}"
            self._facts["dispersion"] = dispersion
        symbols = [chemical_symbols[number] for number in elements]
        if symbols and all(_basis(level, symbol) is None for symbol in symbols):
            raise RecipeError(
                f"PySCF has no basis set '{level.basis}' for {', '.join(symbols)}. Check its "
                "name (level.basis, --basis)."
            )

    def compute(self, task: Task, forces: bool) -> Label:
        """Compute energy and, where they are wanted and analytic, forces."""
        from pyscf.data.elements import chemcore

        molecule = self._molecule(task)
        level = self.level
        unrestricted = task.free_atom or task.spin > 1 or level.reference == "unrestricted"
        mean_field = self._mean_field(molecule, unrestricted, task.free_atom)
        kind = "HF" if level.method in NAMES else "KS"
        facts = {**self._facts, "reference": ("U" if unrestricted else "R") + kind}
        energy, method = mean_field.e_tot, mean_field
        without = level.without_forces
        if level.correlated:
            frozen = int(chemcore(molecule) if level.frozen_core is True else level.frozen_core)
            facts["frozen_core_orbitals"] = frozen
            if _correlates(mean_field, frozen):
                energy, method = self._correlated(mean_field, frozen)
            if level.method == "ccsd(t)" and unrestricted:
                without = "PySCF's gradient of CCSD(T) is correct for restricted references only"
        if not np.isfinite(energy):
            raise LabelError(f"the energy is {energy}.")
        found = None
        if forces and not without:
            found = -gradient(method, level.method) * (Hartree / Bohr)
        return Label(
            energy=float(energy) * Hartree,
            forces=None if found is None else listed(found),
            without_forces=without if forces else "",
            facts=facts,
        )

    def _molecule(self, task: Task) -> Any:
        from pyscf import gto

        check_electrons(task)
        symbols = [chemical_symbols[number] for number in task.numbers]
        if any(task.pbc):
            raise LabelError("it is periodic; PySCF is used for molecules (pbc F F F) only.")
        bases = {symbol: _basis(self.level, symbol) for symbol in dict.fromkeys(symbols)}
        without = [symbol for symbol, basis in bases.items() if basis is None]
        if without:
            raise LabelError(f"the basis set '{self.level.basis}' has no {', '.join(without)}.")
        potentials = {s: ecp for s in bases if (ecp := _basis(self.level, s, "load_ecp"))}
        return gto.M(
            atom=list(zip(symbols, task.positions, strict=True)),
            basis=bases,
            ecp=potentials,
            charge=task.charge,
            spin=task.spin - 1,
            unit="Angstrom",
            max_memory=self.memory,
            verbose=0,
        )

    def _mean_field(self, molecule: Any, unrestricted: bool, free_atom: bool) -> Any:
        from pyscf import dft, scf

        level = self.level
        if level.method in NAMES:
            mean_field = (scf.UHF if unrestricted else scf.RHF)(molecule)
        else:
            mean_field = (dft.UKS if unrestricted else dft.RKS)(molecule)
            mean_field.xc = level.method
            mean_field.grids.level = level.grid
        if level.density_fitting:
            mean_field = mean_field.density_fit(auxbasis=level.auxiliary_basis)
        if getattr(mean_field, "_chkfile", None) is not None:
            mean_field._chkfile.close()  # a file of orbitals that nobody reads
        mean_field.chkfile = None
        mean_field.conv_tol = level.scf_tolerance
        mean_field.conv_tol_grad = GRADIENT_TOLERANCE
        mean_field.max_cycle = level.max_cycles
        _solve(mean_field)
        if level.stability or free_atom:
            _stabilise(mean_field)
        return mean_field

    def _correlated(self, mean_field: Any, frozen: int) -> tuple[float, Any]:
        from pyscf import cc, mp

        level = self.level
        if level.method == "mp2":
            method = mp.MP2(mean_field, frozen=frozen)
            method.kernel()
            return method.e_tot, method
        method = cc.CCSD(mean_field, frozen=frozen)
        method.conv_tol = level.cc_tolerance
        method.conv_tol_normt = AMPLITUDE_TOLERANCE * level.cc_tolerance
        method.max_cycle = level.max_cycles
        integrals = method.ao2mo()
        method.kernel(eris=integrals)
        if not method.converged:
            raise LabelError(
                f"CCSD did not converge in {level.max_cycles} cycles (level.max_cycles)."
            )
        energy = method.e_tot
        if level.method == "ccsd(t)" and _has_triples(mean_field, frozen):
            energy += method.ccsd_t(eris=integrals)
        return energy, method


def _solve(mean_field: Any, density: Any = None) -> None:
    """Converge a mean field by DIIS, or if that fails by second-order steps."""
    mean_field.kernel(dm0=density)
    if not mean_field.converged:
        second = mean_field.newton()
        second.max_cycle = mean_field.max_cycle
        second.kernel(mean_field.mo_coeff, mean_field.mo_occ)
        for name in _STATE:
            setattr(mean_field, name, getattr(second, name))
    if not mean_field.converged:
        raise LabelError(
            f"the mean field did not converge in {mean_field.max_cycle} cycles, nor by "
            "second-order steps (level.max_cycles)."
        )


def _stabilise(mean_field: Any, attempts: int = 5) -> None:
    """Follow instabilities down as long as the energy falls by more than `FLAT`."""
    orbitals = mean_field.mol.nao
    if not any(filled * (orbitals - filled) for filled in mean_field.mol.nelec):
        return  # nothing that could rotate
    for _ in range(attempts):
        before = {name: getattr(mean_field, name) for name in _STATE}
        rotated, _, stable, _ = mean_field.stability(return_status=True)
        if stable:
            return
        _solve(mean_field, mean_field.make_rdm1(rotated, mean_field.mo_occ))
        if mean_field.e_tot > before["e_tot"] - FLAT:
            for name, value in before.items():
                setattr(mean_field, name, value)
            return
    raise LabelError(f"the mean field is unstable after {attempts} attempts to follow it down.")


def _correlates(mean_field: Any, frozen: int) -> bool:
    """Whether at least two electrons and one virtual orbital are left beyond the frozen core."""
    alpha, beta = mean_field.mol.nelec
    if frozen > beta:
        raise LabelError(f"{frozen} orbitals are frozen, but only {beta} are doubly occupied.")
    if alpha + beta - 2 * frozen < 2:
        return False
    return int(mean_field.mol.nao) > beta


def _has_triples(mean_field: Any, frozen: int) -> bool:
    """Whether three electrons can be excited; PySCF's (T) fails for spins with no virtuals."""
    orbitals = mean_field.mol.nao
    spins = [(filled - frozen, orbitals - filled) for filled in mean_field.mol.nelec]
    within_one = any(filled >= 3 and empty >= 3 for filled, empty in spins)
    return within_one or all(filled and empty for filled, empty in spins)


def _basis(level: PyscfLevel, symbol: str, load: str = "load") -> Any:
    """Return what a function of `pyscf.gto.basis` loads for an element; None if it has nothing."""
    from pyscf.gto import basis

    names = {"default": level.basis} if isinstance(level.basis, str) else level.basis
    name = names.get(symbol, names.get("default"))
    if name is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return getattr(basis, load)(name, symbol)
        except (RuntimeError, KeyError):  # for an unknown name, and an element that it lacks
            return None
