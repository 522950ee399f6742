"""Closed-shell (T) energies and the (T) terms of the gradient, in a few GiB.

PySCF's own density-matrix and lambda codes for the (T) correction form the triples amplitudes
over all occupied (or virtual) triples several times. Here they are formed once per unique
occupied triple i >= j >= k, kept, and contracted in one pass over pairs j >= k into everything
that the lambda equations and the density matrices need.

Notation: w is the connected triples amplitude, u the disconnected one (both divided by the
orbital-energy denominator), (ia|jb) chemists' integrals, all quantities in Hartree atomic units.
The triples amplitudes and their contractions are in single precision, all else is in double
precision; this moves (T) energies and gradients by about 1e-9 Ha and 1e-8 Ha/bohr.
The Hartree-Fock reference must be canonical, as the occupied-virtual Fock block is taken as zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Triple = tuple[int, int, int]
_PERMUTATIONS = tuple(permutations(range(3)))


@dataclass
class TriplesTerms:
    """What the (T) correction adds to the energy, the lambda equations and the densities."""

    energy: float
    l1: Array
    l2: Array
    goo: Array
    gvv: Array
    dvo: Array
    dovov: Array
    dooov: Array
    dovvv: Array


def _spin_adapt(block: Array) -> Array:
    """Spin-adapting combination 4, 1, 1, -2, -2, -2 of the six virtual permutations."""
    cyclic = block + block.transpose(1, 2, 0)
    cyclic += block.transpose(2, 0, 1)
    adapted = 3.0 * block
    adapted += cyclic
    cyclic *= 2.0
    adapted -= cyclic.transpose(1, 0, 2)
    return adapted


def _project_doubles(block: Array) -> Array:
    """Combination 2, -1, -1 that projects a triples block onto the doubles equations."""
    projected = 2.0 * block
    projected -= block.transpose(2, 1, 0)
    projected -= block.transpose(0, 2, 1)
    return projected


def _unique_triples(nocc: int) -> Iterator[Triple]:
    for i in range(nocc):
        for j in range(i + 1):
            for k in range(j + 1):
                yield i, j, k


class _Blocks:
    """Virtual-cubed blocks of the unique triples, readable in any order of the triple."""

    def __init__(self) -> None:
        self._stored: dict[Triple, Array] = {}

    def store(self, triple: Triple, block: Array) -> None:
        self._stored[triple] = block

    def load(self, triple: Triple) -> Array:
        order = sorted(range(3), key=lambda axis: -triple[axis])
        i, j, k = (triple[axis] for axis in order)
        return self._stored[i, j, k].transpose(np.argsort(order))


class _Integrals:
    """Dense integral blocks of PySCF's ``eris`` (active orbitals only), single precision."""

    def __init__(self, eris: object, nocc: int) -> None:
        self.ovvv = np.asarray(eris.get_ovvv(), dtype=np.float32, order="C")
        self.ovoo = np.asarray(eris.ovoo, dtype=np.float32, order="C")
        self.ovov = np.asarray(eris.ovov, dtype=np.float32, order="C")
        self.eia = eris.mo_energy[:nocc, None] - eris.mo_energy[None, nocc:]


def _connected(triple: Triple, t2: Array, ints: _Integrals) -> Array:
    """Connected triples numerator, summed over the six simultaneous permutations."""
    nocc, nvir = t2.shape[0], t2.shape[2]
    total = np.zeros((nvir, nvir, nvir), np.float32)
    for order in _PERMUTATIONS:
        i, j, k = (triple[axis] for axis in order)
        raw = ints.ovvv[i].reshape(-1, nvir) @ t2[k, j].T
        raw = raw.reshape(nvir, -1)
        raw -= ints.ovoo[i, :, j, :] @ t2[:, k].reshape(nocc, -1)
        total += raw.reshape(nvir, nvir, nvir).transpose(np.argsort(order))
    return total


def _disconnected(triple: Triple, t1: Array, ints: _Integrals) -> Array:
    """Disconnected triples numerator."""
    i, j, k = triple
    ovov = ints.ovov
    return (
        ovov[i, :, j, :, None] * t1[k]
        + ovov[i, :, None, k, :] * t1[j][:, None]
        + t1[i][:, None, None] * ovov[j, :, k, :]
    )


def _amplitudes(
    triple: Triple, t1: Array, t2: Array, ints: _Integrals
) -> tuple[Array, Array, Array]:
    """Connected and disconnected amplitudes of one triple and their denominator."""
    i, j, k = triple
    denominator = ints.eia[i][:, None, None] + ints.eia[j][:, None] + ints.eia[k]
    denominator = denominator.astype(np.float32)
    w = _connected(triple, t2, ints) / denominator
    u = _disconnected(triple, t1, ints) / denominator
    return w, u, denominator


def _energy(triple: Triple, w: Array, u: Array, rw: Array, denominator: Array) -> float:
    """Contribution of one unique triple to the (T) energy."""
    multiplicity = len(set(permutations(triple)))
    return multiplicity * float(np.vdot((w + u) * denominator, rw)) / 3.0


def triples_energy(t1: Array, t2: Array, eris: object) -> float:
    """The (T) energy correction (Ha)."""
    ints = _Integrals(eris, len(t1))
    t1, t2 = t1.astype(np.float32), t2.astype(np.float32)
    energy = 0.0
    for triple in _unique_triples(len(t1)):
        w, u, denominator = _amplitudes(triple, t1, t2, ints)
        energy += _energy(triple, w, u, _spin_adapt(w), denominator)
    return energy


def triples_terms(t1: Array, t2: Array, eris: object) -> TriplesTerms:
    """Form the triples amplitudes and contract them into :class:`TriplesTerms`."""
    nocc, nvir = t1.shape
    ints = _Integrals(eris, nocc)
    t1, t2 = t1.astype(np.float32), t2.astype(np.float32)
    sums, adapted, adapted_pair, pair = _Blocks(), _Blocks(), _Blocks(), _Blocks()
    energy = 0.0
    for triple in _unique_triples(nocc):
        w, u, denominator = _amplitudes(triple, t1, t2, ints)
        rw = _spin_adapt(w)
        energy += _energy(triple, w, u, rw, denominator)
        sums.store(triple, w + u)
        adapted.store(triple, rw)
        pair.store(triple, 2.0 * w + u)
        adapted_pair.store(triple, 2.0 * rw + _spin_adapt(u))

    terms = TriplesTerms(
        energy,
        l1=np.zeros((nocc, nvir)),
        l2=np.zeros((nocc, nocc, nvir, nvir)),
        goo=np.zeros((nocc, nocc)),
        gvv=np.zeros((nvir, nvir)),
        dvo=np.zeros((nvir, nocc)),
        dovov=np.zeros((nocc, nvir, nocc, nvir)),
        dooov=np.zeros((nocc, nocc, nocc, nvir)),
        dovvv=np.zeros((nocc, nvir, nvir, nvir)),
    )
    shape = (nocc, nvir, nvir, nvir)
    swu, srw, srp, smp, smq = (np.empty(shape, np.float32) for _ in range(5))
    # (kf|be) as a matrix (ef, b) for every k.
    vvov = np.ascontiguousarray(ints.ovvv.transpose(0, 3, 1, 2)).reshape(nocc, -1, nvir)
    dovvf = np.zeros(shape)
    for j in range(nocc):
        for k in range(j + 1):
            for i in range(nocc):
                swu[i] = sums.load((i, j, k))
                srw[i] = adapted.load((i, j, k))
                srp[i] = adapted_pair.load((i, j, k))
                block = np.ascontiguousarray(pair.load((i, j, k)))
                smp[i] = _project_doubles(block)
                if j != k:
                    smq[i] = _project_doubles(block.transpose(0, 2, 1))
            _contract_density(terms, (j, k), swu, srw, t1, t2, ints)
            _contract_pair(terms, dovvf, (j, k), srp, t2)
            _contract_lambda(terms, (j, k), smp, vvov, ints)
            if j != k:
                _contract_lambda(terms, (k, j), smq, vvov, ints)
    terms.dovvv += dovvf.transpose(0, 1, 3, 2)
    terms.l1 /= ints.eia
    terms.l2 += terms.l2.transpose(1, 0, 3, 2).copy()
    terms.l2 /= ints.eia[:, None, :, None] + ints.eia[None, :, None, :]
    return terms


def _contract_density(
    terms: TriplesTerms,
    pair: tuple[int, int],
    swu: Array,
    srw: Array,
    t1: Array,
    t2: Array,
    ints: _Integrals,
) -> None:
    """One-particle densities, the single-excitation lambda term and the ovov density."""
    j, k = pair
    nocc, nvir = t1.shape
    factor = 1.0 if j == k else 2.0
    terms.goo += factor * (swu.reshape(nocc, -1) @ srw.reshape(nocc, -1).T)
    for i in range(nocc):
        terms.gvv += factor * (swu[i].reshape(nvir, -1) @ srw[i].reshape(nvir, -1).T)
    flat = srw.reshape(nocc * nvir, -1)
    terms.l1 += 0.5 * factor * (flat @ ints.ovov[j, :, k, :].ravel()).reshape(nocc, nvir)
    terms.dvo += 0.5 * factor * (flat @ t2[j, k].ravel()).reshape(nocc, nvir).T
    terms.dovov[:, :, j, :] += 0.5 * (srw @ t1[k])
    if j != k:
        terms.dovov[:, :, k, :] += 0.5 * (srw.transpose(0, 1, 3, 2) @ t1[j])


def _contract_pair(
    terms: TriplesTerms, dovvf: Array, pair: tuple[int, int], srp: Array, t2: Array
) -> None:
    """Two-particle densities with one unpaired index; ``dovvf`` is dovvv with f last."""
    j, k = pair
    nocc, nvir = t2.shape[0], t2.shape[2]
    flat = srp.reshape(nocc * nvir, -1)

    def ooov(doubles: Array) -> Array:
        return (flat @ doubles.reshape(nocc, -1).T).reshape(nocc, nvir, nocc).transpose(2, 0, 1)

    terms.dooov[j] -= ooov(t2[:, k])
    dovvf += (srp.reshape(-1, nvir) @ t2[k, j]).reshape(dovvf.shape)
    if j != k:
        terms.dooov[k] -= ooov(t2[:, j].transpose(0, 2, 1))
        dovvf += srp.transpose(0, 1, 3, 2) @ t2[j, k]


def _contract_lambda(
    terms: TriplesTerms, pair: tuple[int, int], smp: Array, vvov: Array, ints: _Integrals
) -> None:
    """Double-excitation lambda term of the ordered pair (j, k), before symmetrization."""
    j, k = pair
    nocc, nvir = smp.shape[:2]
    product = smp.reshape(nocc * nvir, -1) @ vvov[k]
    terms.l2[:, j] += product.reshape(nocc, nvir, nvir)
    product = smp.reshape(-1, nvir) @ ints.ovoo[k, :, j, :]
    terms.l2 -= product.reshape(nocc, nvir, nvir, nocc).transpose(0, 3, 1, 2)
