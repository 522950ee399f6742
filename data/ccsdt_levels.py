"""Levels of theory: frozen-core CCSD(T)/cc-pVDZ and density-fitted PBE0/def2-SVP.

Positions are in Å; energies come back in eV and forces in eV/Å.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from ase.units import Bohr, Hartree
from ccsdt_gradient import ccsdt_energy_gradient
from ccsdt_systems import ATOM_SPINS
from ccsdt_triples import triples_energy
from numpy.typing import NDArray
from pyscf import cc, dft, gto, lib, scf

CCSDT = "CCSD(T)/cc-pVDZ, frozen core"
PBE0 = "PBE0/def2-SVP, density fitting"

MEMORY_MB = 6000
SCF_TOL_HARTREE = 1e-10
SCF_TOL_GRADIENT = 1e-6
CC_TOL_HARTREE = 1e-7
CC_TOL_AMPLITUDES = 1e-5
PBE0_TOL_HARTREE = 1e-9
PBE0_GRID_LEVEL = 2


@dataclass(frozen=True)
class Label:
    """One labelled configuration: energy in eV, forces in eV/Å or none, wall time in s."""

    level: str
    energy: float
    forces: list[list[float]] | None
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Plain dictionary for JSON."""
        return asdict(self)


def _molecule(symbols: Sequence[str], positions: NDArray[np.float64], basis: str, spin: int = 0):
    lib.num_threads(1)
    return gto.M(
        atom=list(zip(symbols, positions.tolist(), strict=True)),
        basis=basis,
        unit="Angstrom",
        spin=spin,
        verbose=0,
        max_memory=MEMORY_MB,
    )


def _frozen_orbitals(symbols: Sequence[str]) -> int:
    """Number of 1s core orbitals."""
    return sum(symbol != "H" for symbol in symbols)


def _require(converged: bool, what: str) -> None:
    if not converged:
        raise RuntimeError(f"{what} did not converge")


def _as_forces(gradient: NDArray[np.float64]) -> list[list[float]]:
    return (-gradient * (Hartree / Bohr)).tolist()


def ccsdt(symbols: Sequence[str], positions: NDArray[np.float64], forces: bool) -> Label:
    """Frozen-core RHF-CCSD(T)/cc-pVDZ energy and, on request, analytic forces."""
    begin = time.perf_counter()
    mean_field = scf.RHF(_molecule(symbols, positions, "cc-pvdz"))
    mean_field.conv_tol, mean_field.conv_tol_grad = SCF_TOL_HARTREE, SCF_TOL_GRADIENT
    mean_field.kernel()
    _require(mean_field.converged, "RHF")
    mycc = cc.CCSD(mean_field, frozen=_frozen_orbitals(symbols))
    mycc.conv_tol, mycc.conv_tol_normt = CC_TOL_HARTREE, CC_TOL_AMPLITUDES
    mycc.max_cycle = 100
    eris = mycc.ao2mo()
    mycc.kernel(eris=eris)
    _require(mycc.converged, "CCSD")
    if forces:
        energy, gradient = ccsdt_energy_gradient(mycc, eris, CC_TOL_AMPLITUDES)
        vectors = _as_forces(gradient)
    else:
        energy, vectors = mycc.e_tot + triples_energy(mycc.t1, mycc.t2, eris), None
    return Label(CCSDT, float(energy) * Hartree, vectors, time.perf_counter() - begin)


def pbe0(symbols: Sequence[str], positions: NDArray[np.float64], spin: int = 0) -> Label:
    """Density-fitted PBE0/def2-SVP energy and, for closed shells, analytic forces."""
    begin = time.perf_counter()
    mol = _molecule(symbols, positions, "def2-svp", spin)
    mean_field = (dft.UKS(mol) if spin else dft.RKS(mol)).density_fit()
    mean_field.xc = "pbe0"
    mean_field.grids.level = PBE0_GRID_LEVEL
    mean_field.conv_tol = PBE0_TOL_HARTREE
    mean_field.kernel()
    _require(mean_field.converged, "PBE0")
    vectors = None
    if len(symbols) > 1:
        vectors = _as_forces(mean_field.nuc_grad_method().set(grid_response=True).kernel())
    return Label(PBE0, float(mean_field.e_tot) * Hartree, vectors, time.perf_counter() - begin)


def ccsdt_atom(symbol: str) -> Label:
    """Frozen-core UHF-CCSD(T)/cc-pVDZ energy of an isolated atom in its ground state."""
    begin = time.perf_counter()
    mol = _molecule([symbol], np.zeros((1, 3)), "cc-pvdz", ATOM_SPINS[symbol])
    mean_field = scf.UHF(mol)
    mean_field.conv_tol = SCF_TOL_HARTREE
    mean_field.kernel()
    _require(mean_field.converged, "UHF")
    energy = mean_field.e_tot
    if mol.nelectron > 1:  # hydrogen has no correlation energy
        mycc = cc.UCCSD(mean_field, frozen=_frozen_orbitals([symbol]))
        mycc.conv_tol, mycc.conv_tol_normt = CC_TOL_HARTREE, CC_TOL_AMPLITUDES
        mycc.kernel()
        _require(mycc.converged, "UCCSD")
        energy = mycc.e_tot + mycc.ccsd_t()
    return Label(CCSDT, float(energy) * Hartree, None, time.perf_counter() - begin)


def pbe0_atom(symbol: str) -> Label:
    """Density-fitted UKS-PBE0/def2-SVP energy of an isolated atom in its ground state."""
    return pbe0([symbol], np.zeros((1, 3)), ATOM_SPINS[symbol])
