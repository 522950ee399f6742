"""Labels against the predictions of a potential: the factor between them, and what it stands for.

A potential is only near the labels: those of another level of theory, or at other temperatures,
differ from its predictions by tens of per cent, rarely by a factor of two. Units differ by more:
the least of those looked for, of energies and lengths in use, are 12 and 1.9.

The factor of a structure's forces is that of their lengths as one vector, with the sign of their
scalar product; stress likewise, without the mean pressure of the set, which is a matter of the
lattice constant. Counted are medians over structures, so a few on which the potential fails do not
matter. Energies are compared by their differences within a composition or, where there are too few,
by what a linear fit to composition leaves; values beyond six times the median are left out.

A factor is certain, and `refuse` raises an error, where

- there are enough of them: three structures and `ENOUGH` degrees of freedom for forces, five
  structures for stress, eight differences of energies;
- they are correlated: the median cosine is above 0.7; for energies r > 0.7 and t > 5 (p < 0.002);
- a known factor is within 1.65 times, and nine structures in ten are nearer to it than to 1;
- it is far from 1: negative, or beyond `FAR` times. Nearer ones, from 1.8 on, must be met to 5 % at
  a correlation of 0.99, which exact labels do and labels of another level of theory do not.

Gradients, units and virials are found from three structures on with a potential whose forces have a
cosine of 0.7 with the labels. Of less correlated ones only eight or more that are all beyond `FAR`
times are told, as a warning. Factors below 1.8, as of energies
per atom of diatomic molecules, or forces in eV/Bohr at another level of theory, are not found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.graphs import graph
from finetune.data.structures import Structure, some
from finetune.inspection.geometry import Finding
from finetune.inspection.labels import Read, compositions, correction, unexplained
from finetune.potentials.errors import LabelledPredictions, predict
from finetune.potentials.loading import Foundation
from finetune.potentials.potential import Potential

Array = NDArray[np.float64]
MOST, MOST_ATOMS = 48, 6000
"""Structures that are compared, and atoms in them."""
ENOUGH = 20
"""Degrees of freedom whose forces are compared, in all structures."""
FAR, NEAR, EXACT = 6.5, 1.8, 0.05
"""Factors between 1 and the first may be another level of theory; see the text above."""
BAND = 0.5
"""Of the logarithm: how far a factor may be from a known one."""
LEAST = {"energy": 1e-3, "forces": 0.02, "stress": 1e-5}
"""eV/atom, eV/Å, eV/Å³: root mean squares below which predictions are not compared."""


@dataclass(frozen=True)
class Cause:
    """What makes labels differ by a factor: in words, and the settings that correct it.

    ``factors`` ``[S]`` are those that it has for each of the structures compared.
    """

    text: str
    settings: dict[str, str]
    factors: Array


@dataclass(frozen=True)
class Factor:
    """Labels over predictions of one quantity.

    Attributes:
        quantity: Which one.
        values: Of each structure ``[S]``, that of energies one for all; without their sign where
            they are not correlated.
        owners: Which structures those are ``[S]``, for energies all of them.
        correlation: Median cosine of labels and predictions, for energies their correlation.
        count: Structures, or differences of energies.
        enough: Whether these suffice for a verdict.
        far: Structures that correlate, but by a factor `FAR` from the median or of another sign.
        small: Whether the labels are so small that their factor says nothing by itself.
        causes: Known ones within the band, the likeliest first.
    """

    quantity: Literal["energy", "forces", "stress"]
    values: Array
    owners: NDArray[np.int64]
    correlation: float
    count: int
    enough: bool
    far: int = 0
    small: bool = False
    causes: list[Cause] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median over structures."""
        return float(np.median(self.values))

    @property
    def right(self) -> bool:
        """Whether labels and predictions agree, as far as a unit or a sign could tell."""
        return self.enough and 1 / 2.5 < self.value < 2.5

    @property
    def certain(self) -> bool:
        """Whether the factor is that of the first cause; see the text of this file."""
        if not self.enough or not self.causes:
            return False
        known = self.causes[0].factors
        off, size = _logs(self.values / known), np.median(np.abs(_logs(known)))
        own = np.where(self.values > 0, np.abs(_logs(self.values)), np.inf)
        nearer = (self.values * known > 0) & (np.abs(off) < own)
        far = bool(np.median(known) < 0 or size > np.log(FAR))
        exact = bool(np.abs(off).max() < EXACT and abs(self.correlation) > 0.99)
        return bool(nearer.mean() >= 0.9 and (far or (size > np.log(NEAR) and exact)))


def _logs(values: Array) -> Array:
    return np.asarray(np.log(np.maximum(np.abs(values), 1e-300)))


def sample(structures: Sequence[Structure], most: int = MOST) -> list[Structure]:
    """Return at most ``most`` labelled structures, evenly spread, of `MOST_ATOMS` in all."""
    found: list[Structure] = []
    atoms = 0
    for item in some(structures, most):
        labelled = item.energy is not None or item.forces is not None or item.stress is not None
        if labelled and (atoms + len(item) <= MOST_ATOMS or len(found) < 5):
            found.append(item)
            atoms += len(item)
    return found


def compared(
    potential: Potential, sets: Iterable[Sequence[Structure]], read: Read | None = None
) -> tuple[LabelledPredictions, list[tuple[str, Factor]]]:
    """Predict some structures of sets, most of them of the first; return their `agreement` too."""
    structures = [
        item
        for place, items in enumerate(sets)
        for item in sample(items, MOST // min(place + 1, 2))
    ]
    predictions = predict(potential, [graph(item, potential.cutoff) for item in structures])
    return predictions, agreement(predictions, structures, read)


def against(
    foundation: Foundation, sets: Sequence[Sequence[Structure]], read: Read
) -> list[Finding]:
    """Return the `findings` on sets of structures; those of unknown elements do not take part."""
    known = set(foundation.potential.elements)
    suited = [[i for i in items if known.issuperset(i.numbers.tolist())] for items in sets]
    left_out = sum(map(len, sets)) - sum(map(len, suited))
    found = findings(compared(foundation.potential, suited, read)[1], foundation.name, read)
    if left_out:
        text = f"{left_out} structures have elements that {foundation.name} does not know"
        found.append(Finding("note", text))
    return found


def agreement(
    predictions: LabelledPredictions,
    structures: Sequence[Structure],
    read: Read | None = None,
) -> list[tuple[str, Factor]]:
    """Return the factors of labels, and the file that each is of ("" for all).

    ``structures`` are those of the predictions. All files are taken together, and each of several
    by itself where it differs by a certain factor. ``read`` says how the labels were read.
    """
    read = read or Read()
    places: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(structures):
        places[item.where.rpartition(", structure ")[0]].append(index)
    found: dict[str, tuple[str, Factor]] = {}
    for name, of_file in (("", range(len(structures))), *places.items()):
        for factor in _factors(predictions, structures, np.array(of_file)):
            explained = replace(factor, causes=_causes(factor, structures, read))
            whole = found.get(factor.quantity)
            if whole is None or (explained.certain and not whole[1].certain):
                found[factor.quantity] = (name, explained)
    return list(found.values())


def _factors(
    predictions: LabelledPredictions, structures: Sequence[Structure], chosen: NDArray[np.int64]
) -> Iterator[Factor]:
    """Yield the factor of each quantity that the chosen structures have labels of."""
    yield from _of_energies(predictions, structures, chosen)
    heads = [predictions.forces, predictions.gradient_forces]
    owner = np.repeat(predictions.forces_of, 3)
    of_forces = [
        found
        for pair in heads
        if pair.size
        and (found := _of_vectors("forces", pair, owner, chosen, structures)) is not None
    ]
    if of_forces:  # of a head and −dE/dr, what is nearer to the labels
        yield max(of_forces, key=lambda item: abs(item.correlation))
    owner = np.repeat(predictions.stress_of, 9)
    pair = predictions.stress.copy()
    if pair.size:
        tensors = pair.reshape(2, -1, 3, 3)
        mine = np.isin(predictions.stress_of, chosen)
        pressure = np.trace(tensors, axis1=2, axis2=3)[:, mine] / 3
        if mine.any():
            tensors -= np.median(pressure, axis=1)[:, None, None, None] * np.eye(3)
        found = _of_vectors("stress", pair, owner, chosen, structures)
        if found is not None:
            yield found


def _of_vectors(
    quantity: Literal["forces", "stress"],
    pair: Array,
    owner: NDArray[np.int64],
    chosen: NDArray[np.int64],
    structures: Sequence[Structure],
) -> Factor | None:
    """Compare components ``[2, m]`` of structures ``owner`` ``[m]``, predictions first."""
    rows, freedom = [], 0
    starts, ends = (np.searchsorted(owner, chosen, side) for side in ("left", "right"))
    for index, start, end in zip(chosen, starts, ends, strict=True):
        predicted, labelled = pair[:, start:end]
        sizes = np.linalg.norm(predicted), np.linalg.norm(labelled)
        least = LEAST[quantity] * max(len(predicted), 1) ** 0.5
        if len(predicted) > 3 and sizes[0] > least and sizes[1] > 0:
            cosine = predicted @ labelled / (sizes[0] * sizes[1])
            tiny = sizes[1] < least
            rows.append((np.copysign(sizes[1] / sizes[0], cosine), cosine, index, tiny))
            freedom += max(3 * len(structures[index]) - 6, 1)
    if not rows:
        return None
    values, cosines, owners, tiny = np.array(rows).T
    cosine = float(np.median(cosines))
    least_count, least_freedom = (3, ENOUGH) if quantity == "forces" else (5, 1)
    enough = len(rows) >= least_count and freedom >= least_freedom and abs(cosine) > 0.7
    relative = values / np.median(values)
    far = (np.abs(cosines) > 0.7) & ((relative < 1 / FAR) | (relative > FAR))
    values = values if enough else np.abs(values)
    owner_of = owners.astype(np.int64)
    small = bool(tiny.mean() > 0.5)
    return Factor(quantity, values, owner_of, cosine, len(rows), enough, int(far.sum()), small)


def _of_energies(
    predictions: LabelledPredictions, structures: Sequence[Structure], chosen: NDArray[np.int64]
) -> Iterator[Factor]:
    """Compare energies per atom without what composition explains."""
    mine = np.isin(predictions.energy_of, chosen) & (predictions.atoms > 1)
    if not mine.any():
        return
    energies, atoms = predictions.energy[:, mine], predictions.atoms[mine]
    counts = compositions([structures[i].numbers for i in predictions.energy_of[mine]])
    group = np.unique(counts, axis=0, return_inverse=True)[1].ravel()
    freedom = len(group) - len(np.unique(group))
    if freedom >= 8:
        left = energies / atoms
        for number in np.unique(group):
            left[:, group == number] -= np.median(left[:, group == number], axis=1)[:, None]
        alone = np.bincount(group)[group] == 1
        left = left[:, ~alone]
    else:
        freedom = len(group) - int(np.linalg.matrix_rank(counts))
        left = unexplained(counts, energies.T).T / atoms
    if freedom < 8:
        return
    usual = np.median(np.abs(left), axis=1)[:, None]
    x, y = left[:, (np.abs(left) <= 6 * usual).all(axis=0)]
    sizes = np.linalg.norm(x), np.linalg.norm(y)
    if sizes[0] <= LEAST["energy"] * max(len(x), 1) ** 0.5 or sizes[1] == 0:
        return
    r = float(x @ y / (sizes[0] * sizes[1]))
    t = abs(r) * (max(min(freedom, len(x)) - 2, 0) / max(1 - r**2, 1e-12)) ** 0.5
    enough = abs(r) > 0.7 and t > 5
    value = np.array([np.copysign(sizes[1] / sizes[0], r if enough else 1.0)])
    yield Factor("energy", value, predictions.energy_of[mine], r, len(x), enough)


_FORCES = (
    *("eV/Å", "meV/Å", "eV/Bohr", "kcal/mol/Å", "kcal/mol/Bohr", "kJ/mol/Å", "kJ/mol/nm"),
    *("Hartree/Å", "Hartree/Bohr", "Rydberg/Å", "Rydberg/Bohr"),
)
_UNITS: dict[str, tuple[str, ...]] = {
    "energy": ("eV", "meV", "Hartree", "Rydberg", "kcal/mol", "kJ/mol"),
    "forces": _FORCES,
    "stress": ("eV/Å³", "GPa", "kbar", "bar", "Pa", "TPa", "Hartree/Bohr³", "Rydberg/Bohr³"),
    "virial": ("eV", "meV", "Hartree", "Rydberg", "kcal/mol", "kJ/mol"),
}


def _causes(factor: Factor, structures: Sequence[Structure], read: Read) -> list[Cause]:
    """Return what may explain a factor, the likeliest first; two where both are near."""
    given: str = "virial" if factor.quantity == "stress" and read.virials else factor.quantity
    if given in read.differing:
        return []
    now, one = read.units.factors()[given], np.ones(len(factor.values))
    found: list[Cause] = []
    for unit, sign in product(_UNITS[given], ("", "-")):
        if given != "energy" or not sign:
            expected = now / Units.model_validate({given: sign + unit}).factors()[given]
            setting = {f"data.units.{given}": sign + unit}
            found.append(Cause(_said(given, unit, sign, read), setting, expected * one))
    if given == "energy":
        atoms = float(np.median([len(structures[i]) for i in factor.owners]))
        found.append(Cause("are per atom: give those of whole structures", {}, one / atoms))
        found.append(Cause("have the opposite sign: turn it in the file", {}, -one))
    if given in ("stress", "virial"):
        volumes = np.array([abs(np.linalg.det(structures[i].cell)) for i in factor.owners])
    if given == "stress":
        of_key = {"data.keys.virial": str(read.keys.stress)}
        turned = of_key | {"data.units.virial": "-eV"}
        found.append(Cause("are virials, −V times stress, in eV", of_key, -now * volumes))
        found.append(Cause("are V times stress, in eV", turned, now * volumes))
    if given == "virial":
        of_key = {"data.keys.stress": read.virials, "data.keys.virial": "null"}
        found.append(Cause("are no virials but stress", of_key, -now / volumes))

    def distance(cause: Cause) -> float:
        ratio = factor.values / cause.factors
        return float(np.median(np.abs(_logs(ratio)))) if np.median(ratio) > 0 else np.inf

    found = [item for item in found if np.abs(item.factors - 1).max() > 0.05]
    near = sorted((distance(item), place) for place, item in enumerate(found))
    return [found[place] for off, place in near[:2] if off < min(BAND, near[0][0] + 0.1)]


def _said(quantity: str, unit: str, sign: str, read: Read) -> str:
    """Say what labels of a unit and a sign are, given how they were read."""
    if sign and unit == getattr(read.units.filled(), quantity):
        return {"forces": "are gradients, −1 times forces"}.get(quantity, "have the opposite sign")
    opposite = {"forces": ", and gradients", "stress": ", positive under compression"}
    return f"are in {unit}{opposite.get(quantity, ', with the opposite sign') if sign else ''}"


def findings(
    found: Sequence[tuple[str, Factor]], named: str, read: Read | None = None
) -> list[Finding]:
    """Say how labels agree with a potential ``named``: a warning where they do not."""
    return [_finding(name, factor, found, named, read or Read()) for name, factor in found]


def _finding(
    name: str, factor: Factor, found: Sequence[tuple[str, Factor]], named: str, read: Read
) -> Finding:
    unit = "differences" if factor.quantity == "energy" else "structures"
    what = {"energy": "energies change by", "forces": "forces are", "stress": "stresses are"}
    said = (
        f"{what[factor.quantity]} {factor.value:.4g} times what {named} predicts (correlation "
        f"{factor.correlation:.3f}, {factor.count} {unit}{f' of {name}' if name else ''})"
    )
    if factor.certain:
        why = "; or they ".join(cause.text + _advice(cause, found, read) for cause in factor.causes)
        return Finding("warning", f"{said}: they {why}")
    if factor.right and factor.far > 1:
        return Finding(
            "warning", f"{said}, but {factor.far} of them by far others or of other sign"
        )
    if factor.right:
        return Finding("ok", f"{said}: unit and sign agree")
    odd = factor.count >= 8 and not factor.small and abs(_logs(factor.values)).min() > np.log(FAR)
    if not factor.enough and not odd:
        return Finding("note", f"{said}, too few or too scattered to tell their unit")
    likely = " or ".join(cause.text for cause in factor.causes)
    why = f"; perhaps they {likely}" if likely else ""
    given = "virial" if factor.quantity == "stress" and read.virials else factor.quantity
    why = (
        "; sources are read in different units: are those right?"
        if given in read.differing
        else why
    )
    return Finding("warning", f"{said}, not about 1{why}")


def _advice(cause: Cause, found: Sequence[tuple[str, Factor]], read: Read) -> str:
    """Return the settings of a cause; units of energies decide those of what is not named."""
    settings = dict(cause.settings)
    if "data.units.energy" in settings:
        for _, other in found:
            if other.quantity == "forces" or (other.quantity == "stress" and not read.virials):
                wrong = other.causes[0].settings if other.certain else {}
                key = f"data.units.{other.quantity}"
                settings[key] = wrong.get(key) or getattr(read.units.filled(), other.quantity)
    if not settings:
        return ""
    if not any(key.startswith("data.units.") for key in settings):
        return f": {correction(settings)}"
    if read.stored:
        listed = " ".join(f"{key.removeprefix('data.units.')}={v}" for key, v in settings.items())
        return f": convert the file again with --units {listed}"
    return f": {correction(settings)} (where the file itself states its units, correct those)"


def check(
    found: Sequence[tuple[str, Factor]], named: str, read: Read, refused: Collection[str]
) -> list[str]:
    """Return the warnings of `findings`.

    Raises:
        DataError: Where the factor of one of the ``refused`` quantities is certain.
    """
    warnings = [item for item in findings(found, named, read) if item.level == "warning"]
    if any(factor.certain and factor.quantity in refused for _, factor in found):
        listed = " ".join(f"{item.text[0].upper()}{item.text[1:]}." for item in warnings)
        raise DataError(
            f"the labels are of another unit or sign than the foundation's predictions. {listed} "
            "If they are right all the same, set data.check=warn."
        )
    return [str(item) for item in warnings]
