"""What labelling leaves: files, and a result that describes them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from finetune.core.errors import DataError
from finetune.core.files import write_json
from finetune.core.text import counted
from finetune.data.store import SUFFIXES
from finetune.data.structures import Structure
from finetune.data.writing import XYZ, check_name, check_no_folder, write_structures
from finetune.labelling.journal import Journal
from finetune.labelling.plan import Item, labelled
from finetune.labelling.recipe import LabelRecipe
from finetune.labelling.task import UNITS

SUITABLE = (
    "note: energies of free atoms are suitable reference_energies for foundations that use free "
    "atoms too, as most published ones do. For others, such as tiny-xtb-hcno, take "
    "reference_energies: estimate."
)


@dataclass(frozen=True)
class Places:
    """The files of an output: labelled structures, free atoms, and what belongs to them.

    ``journal`` is kept to resume and to add to; ``before`` is the journal that will be replaced,
    until the new output is written; ``files`` is the folder of calculators that work with files.
    """

    output: Path
    atoms: Path
    journal: Path
    before: Path
    record: Path
    files: Path

    @classmethod
    def of(cls, output: Path) -> Places:
        """Return the files that go with an output; a folder is refused."""
        check_no_folder(output)
        atoms = output.with_name(f"{output.stem}-atoms{output.suffix}")
        suffixes = (".journal", ".journal.before", ".json", ".files")
        return cls(output, atoms, *(output.with_name(output.name + end) for end in suffixes))

    def check(self, overwrite: bool, atoms: bool) -> None:
        """Refuse outputs (the free atoms' too, if any) that are in the way or cannot be written."""
        if not self.output.exists() or self.output.suffix not in SUFFIXES | XYZ:
            check_name(self.output)
        if overwrite:
            return
        known: dict[str, str] = {}
        if self.record.is_file() and (self.journal.is_file() or self.before.is_file()):
            try:
                known = json.loads(self.record.read_text(encoding="utf-8"))["sha256"]
            except (ValueError, KeyError, TypeError):
                known = {}
        for path in (self.output, *([self.atoms] if atoms else [])):
            if path.exists() and known.get(path.name) != _digest(path):
                raise DataError(
                    f"'{path}' exists, and is not as this command left it. Choose another output, "
                    "move the file away, or add --overwrite."
                )


@dataclass(frozen=True)
class Failure:
    """A structure without a label, by its place among those read; None for a free atom."""

    index: int | None
    where: str
    reason: str


@dataclass(frozen=True)
class LabelResult:
    """What `label` found.

    Attributes:
        output: File of the labelled structures.
        labelled: How many there are.
        computed: How many calculations this call did.
        failures: Structures and free atoms without a label.
        level: The level of theory, as the labels carry it.
        program: Name and version of what computed them.
        atoms: File of the free atoms, if any.
        reference_energies: Energies of free atoms by symbol, eV.
        notes: Notes and warnings.
    """

    output: Path
    labelled: int
    computed: int
    failures: tuple[Failure, ...]
    level: str
    program: str
    atoms: Path | None
    reference_energies: dict[str, float]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        content = asdict(self)
        content["output"] = str(self.output)
        content["atoms"] = None if self.atoms is None else str(self.atoms)
        return content


def conclude(
    recipe: LabelRecipe,
    items: Sequence[Item],
    free: Sequence[Item],
    journal: Journal,
    places: Places,
    computed: int,
    notes: Sequence[str],
) -> LabelResult:
    """Write what is labelled, and the record; refuse results without any label."""
    known, failed = journal.labels, journal.failures
    done = [item for item in items if item.task.key in known]
    failures = tuple(
        Failure(item.index, item.structure.where, failed.get(item.task.key, "not computed yet."))
        for item in (*free, *items)
        if item.task.key not in known
    )
    if not done:
        reasons = Tally(failure.reason for failure in failures if failure.index is not None)
        (reason, _), *_ = reasons.most_common(1)
        raise DataError(
            f"none of {counted(len(items), 'structure')} has a label. The most frequent reason: "
            f"{reason}"
        )
    labels = [known[item.task.key] for item in done]
    atoms = [item for item in free if item.task.key in known]
    written = {places.output: done, **({places.atoms: atoms} if atoms else {})}
    for path, found in written.items():
        _replace(path, [labelled(item, known[item.task.key], recipe) for item in found])
    result = LabelResult(
        output=places.output,
        labelled=len(done),
        computed=computed,
        failures=failures,
        level=recipe.level.name,
        program=", ".join(dict.fromkeys(label.program for label in labels)),
        atoms=places.atoms if atoms else None,
        reference_energies={
            chemical_symbols[item.task.numbers[0]]: known[item.task.key].energy for item in atoms
        },
        notes=(*notes, *_remarks(recipe, done, journal), *([SUITABLE] if atoms else [])),
    )
    record = {
        **result.as_dict(),
        "units": UNITS,
        "recipe": recipe.model_dump(mode="json"),
        "seconds": round(sum(label.seconds for label in labels), 1),
        "sha256": {path.name: _digest(path) for path in written},
    }
    write_json(places.record, record)
    return result


def _remarks(recipe: LabelRecipe, done: Sequence[Item], journal: Journal) -> list[str]:
    """Return notes on labels without forces, and of several versions of the program."""
    found = []
    labels = [journal.labels[item.task.key] for item in done]
    reasons = Tally(label.without_forces for label in labels if label.without_forces)
    if recipe.forces is not False:
        found += [
            f"note: {count} of {counted(len(labels), 'label')} have no forces: {reason}."
            for reason, count in reasons.items()
        ]
    programs = dict.fromkeys(label.program for label in labels)
    if len(programs) > 1:
        found.append(f"warning: the labels are from several versions: {', '.join(programs)}.")
    found += [  # they have an energy from an earlier call
        f"warning: {item.structure.where} has only its energy, its forces failed: "
        f"{journal.failures[item.task.key]}"
        for item in done
        if item.task.key in journal.failures
    ]
    return found


def _replace(path: Path, structures: Sequence[Structure]) -> None:
    new = path.with_name(f".{path.name}.new{path.suffix}")
    new.unlink(missing_ok=True)  # of a process that was killed
    write_structures(new, structures)
    new.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
