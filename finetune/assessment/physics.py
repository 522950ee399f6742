"""Physical checks: walls, bonds, torsions, frequencies, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from finetune import run_files
from finetune.assessment.shared import check_ours, chosen_structures, output_folder, structures_for
from finetune.data.labels import Structure, to_atoms
from finetune.devices import choose_device, choose_dtype
from finetune.errors import DataError, RecipeError, suggestion, system_errors
from finetune.evaluation.counter import Counter
from finetune.evaluation.scans.coordinates import scans
from finetune.evaluation.scans.curves import Curve
from finetune.evaluation.scans.dimers import dimers
from finetune.evaluation.scans.forgetting import change, elsewhere
from finetune.evaluation.scans.frequencies import frequencies
from finetune.evaluation.scans.labelled import FEWEST, VALUE, labelled_scans
from finetune.evaluation.scans.outcome import FILES, Scans
from finetune.evaluation.side_by_side import Pair, open_pair
from finetune.export.calculator import PotentialCalculator
from finetune.suitability import formula

CHECKS = ("dimers", "coordinates", "labelled", "frequencies", "forgetting")
NO_SCAN = (
    f"note: no labelled scan: that takes {FEWEST} structures of the same atoms with an energy and "
    f"a number '{VALUE}' each, and the same 'config_type'."
)

FAR = "elsewhere"
"""What results call the structures away from the training set."""
NONE_AWAY = (
    "note: no molecule of the G2 set has other compositions of known elements: name structures "
    "away from the training set with --away."
)
NOTHING_BESIDE = "note: forgetting needs a potential to compare with: name one with --against."


@system_errors()
def scan(
    path: str | Path,
    files: str | Path | Sequence[str | Path] = (),
    *,
    only: Sequence[str] = CHECKS,
    structures: int = 1,
    elements: Sequence[str] = (),
    away: str | Path | Sequence[str | Path] = (),
    to: str | Path | None = None,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    device: str = "auto",
    dtype: str = "float64",
    counter: Counter | None = None,
) -> Scans:
    """Hold a potential, and its foundation beside it, against what physics asks for.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: Structures, and labelled scans; by default those that the run was tested on.
        only: Which checks: ``dimers`` (every pair of elements), ``coordinates`` (bonds, torsions,
            volumes), ``labelled`` (scans in ``files``), ``frequencies``, ``forgetting``.
        structures: How many structures are scanned and relaxed, evenly spaced in the files.
        elements: Symbols for ``dimers``; by default those of the structures.
        away: Structures away from the training set for ``forgetting``; by default molecules of the
            G2 set with other compositions than ``files`` and, as far as known, the training set.
        to: Folder for JSON and figures; by default ``scans/`` in the run folder.
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``; frequencies want the former.
        counter: Shows the progress.

    Raises:
        RecipeError: For an unknown check, element or number of structures.
        FoundationError: If there is no potential at ``path``, or an element is unknown to it.
        DataError: For files that cannot be used.
        RunFolderError: If there is no folder to write to.
    """
    for name in only:
        if name not in CHECKS:
            raise RecipeError(
                f"no check '{name}'.{suggestion(name, CHECKS)} Choose from {', '.join(CHECKS)}."
            )
    if structures < 1:
        raise RecipeError(f"structures is {structures}; it must be above zero.")
    folder = output_folder(path, to, run_files.SCANS)
    check_ours(folder, FILES)
    opened_as = choose_dtype(dtype), choose_device(device)
    pair = open_pair(path, against, *opened_as, head, against_head)
    found = structures_for(pair, path, files)
    far = structures_for(pair, path, away) if away and "forgetting" in only else None
    potentials, counter = pair.potentials, counter or Counter()
    chosen = [_named(item) for item in chosen_structures(found, structures)]
    curves: list[Curve] = []
    harmonic = []
    forgotten, note = {}, pair.note
    with counter.start(len(CHECKS)):
        if "dimers" in only:
            counter.name("dimers")
            curves += dimers(potentials, _elements(pair, elements, found))
        counter.advance(1)
        if "coordinates" in only:
            counter.name("coordinates")
            curves += [item for where, atoms in chosen for item in scans(potentials, atoms, where)]
        counter.advance(1)
        if "labelled" in only:
            counter.name("labelled")
            labelled = labelled_scans(potentials, found)
            curves += labelled
            if not labelled and tuple(only) != CHECKS:
                note = f"{NO_SCAN} {note}".strip()
        counter.advance(1)
        if "frequencies" in only:
            counter.name("frequencies")
            calculators = {name: PotentialCalculator(item) for name, item in potentials.items()}
            harmonic = [frequencies(calculators, atoms, where) for where, atoms in chosen]
        counter.advance(1)
        if "forgetting" in only and pair.reference is not None:
            counter.name("forgetting")
            forgotten = _forgetting(pair, found, far)
            if FAR not in forgotten:
                note = f"{NONE_AWAY} {note}".strip()
        elif "forgetting" in only and not pair.note:
            note = f"{NOTHING_BESIDE} {note}".strip()
        counter.advance(1)
    outcome = Scans(tuple(potentials), curves, harmonic, forgotten, note)
    outcome.write(folder)
    return outcome


def _named(structure: Structure) -> tuple[str, Atoms]:
    atoms, index = to_atoms(structure), structure.where.rpartition(", structure ")[2]
    return f"{atoms.get_chemical_formula()} {index}", atoms


def _elements(pair: Pair, symbols: Sequence[str], structures: Sequence[Structure]) -> list[int]:
    """Return the elements of dimers, ascending.

    Raises:
        RecipeError: For a symbol that is no element.
        DataError: For one that a potential does not know.
    """
    if not symbols:
        return sorted({number for item in structures for number in item.numbers.tolist()})
    for symbol in symbols:
        if symbol not in atomic_numbers or symbol == "X":
            raise RecipeError(f"'{symbol}' is no chemical symbol.")
    numbers = sorted({atomic_numbers[symbol] for symbol in symbols})
    for number in numbers:
        if number not in _known(pair):
            raise DataError(f"{chemical_symbols[number]} is not known to both potentials.")
    return numbers


def _known(pair: Pair) -> set[int]:
    return set.intersection(*(set(item.elements) for item in pair.potentials.values()))


def _forgetting(
    pair: Pair, structures: Sequence[Structure], away: Sequence[Structure] | None
) -> dict[str, dict[str, object]]:
    assert pair.reference is not None
    near = [to_atoms(item) for item in chosen_structures(structures, 40)]
    if away is not None:
        far = [to_atoms(item) for item in away]
    else:
        trained = pair.tuned.metadata.get("compositions") or []
        far = elsewhere(sorted(_known(pair)), [*map(formula, structures), *trained])
    sets: dict[str, list[Atoms]] = {"as given": near, FAR: far}
    return {
        name: change(pair.tuned.potential, pair.reference.potential, frames)
        for name, frames in sets.items()
        if frames
    }
