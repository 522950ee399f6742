"""Commands on structures and labels: inspect, split, convert and select them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from finetune.commands.shared import AsJson, Device, Precision, UnitsOption, user_errors
from finetune.core.errors import DataError

if TYPE_CHECKING:
    from finetune.data.reading import Reader
    from finetune.data.structures import Structure


app = typer.Typer(
    help="Inspect, split, convert and select structures and their labels.", no_args_is_help=True
)

Files = Annotated[list[str], Argument(metavar="FILE…", help="Files, folders, or quoted patterns.")]
EnergyKey = Annotated[str, Option(help="Name of the energies.")]
ForcesKey = Annotated[str, Option(help="Name of the forces.")]
StressKey = Annotated[str, Option(help="Name of the stresses.")]
VirialKey = Annotated[str, Option(help="Name of the virials.")]
SkipFaulty = Annotated[
    bool, Option("--skip-faulty", help="Leave out structures that cannot be used, and list them.")
]
Seed = Annotated[int, Option(help="Seed of the random order.", min=0)]
Tolerance = Annotated[float, Option(help="Å by which distances of duplicates may differ.", min=0.0)]
ENERGY, FORCES, STRESS = "REF_energy", "REF_forces", "REF_stress"
VIRIAL = "REF_virials"


@app.command()
def inspect(
    files: Annotated[
        list[str], Argument(metavar="FILE…", help="Files, folders, quoted patterns, or one recipe.")
    ],
    energy_key: EnergyKey = ENERGY,
    forces_key: ForcesKey = FORCES,
    stress_key: StressKey = STRESS,
    virial_key: VirialKey = VIRIAL,
    units: UnitsOption = None,
    tolerance: Tolerance = 0.001,
    foundation: Annotated[
        str, Option(help="Compare the labels with the predictions of this potential.")
    ] = "",
    head: Annotated[
        str | None, Option(help="Head that predicts, where the potential has several.")
    ] = None,
    plot: Annotated[
        Path | None, Option("--plot", help="Picture to write: .png, .pdf or .svg.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report what structures contain and what looks wrong: units, outliers, duplicates, leaks."""
    with user_errors():
        from finetune.core import resources
        from finetune.data.reading import Reader
        from finetune.inspection import report
        from finetune.inspection.labels import Read
        from finetune.recipe.recipe import Recipe

        if plot is not None:
            report.check_plot(plot)
        if len(files) == 1 and files[0].endswith((".yaml", ".yml")):
            path = resources.recipe(files[0])
            data = Recipe.load(path).data
            sets_of: dict[str, Any] = {"train": data.train, "valid": data.valid, "test": data.test}
            sources = {k: v for k, v in sets_of.items() if v and not isinstance(v, float)}
            reader = Reader.of(data.model_copy(update={"faulty": "skip"}), path.parent)
        else:
            reader = _reader((energy_key, forces_key, stress_key, virial_key), units, skip=True)
            sources = {name: [name] for name in files}
        sets = {name: reader.read(items, need_labels=False) for name, items in sources.items()}
        reader.check_named()
        read, further = Read.by(reader), list[Any]()
        if foundation:
            from finetune.inspection.agreement import against
            from finetune.potentials.loading import load_foundation

            opened = load_foundation(foundation, head=head)
            further = against(opened, list(sets.values()), read)
        found = report.inspect(sets, tolerance, further, read)
        if plot is not None:
            report.draw(found, plot)
    if as_json:
        print(json.dumps({**found.as_dict(), "files": reader.as_dicts()}, indent=2))
        return
    units_of = [(r, [f"{name} {unit}" for name, unit in r.units.items()]) for r in reader.records]
    files_read = [", ".join([f"{r.source}: {r.format}", *named]) for r, named in units_of]
    missing = [name for name in ("energy", "forces") if name not in reader.found]
    present = ", ".join(sorted(reader.names)) or "none at all"
    lacks = [f"no structure has {' or '.join(missing)}; keys present: {present}"] if missing else []
    _say([*files_read, *found.lines(), *lacks, *reader.notes()], wrapped=True)


@app.command()
def split(
    files: Files,
    to: Annotated[Path, Option("--to", help="Folder for train, valid and test.")],
    train: Annotated[
        float, Option(help="Fraction below 1, or number of structures; 0 means the rest.")
    ] = 0.0,
    valid: Annotated[float, Option(help="The same; 0 means no such part.")] = 0.1,
    test: Annotated[float, Option(help="The same; 0 means no such part.")] = 0.1,
    by: Annotated[str, Option(help="random, composition, block or energy.")] = "random",
    block: Annotated[int, Option(help="Number of structures in a trajectory block.", min=1)] = 20,
    seed: Seed = 0,
    tolerance: Tolerance = 0.001,
    suffix: Annotated[str, Option(help="xyz or h5.")] = "xyz",
    energy_key: EnergyKey = ENERGY,
    forces_key: ForcesKey = FORCES,
    stress_key: StressKey = STRESS,
    virial_key: VirialKey = VIRIAL,
    units: UnitsOption = None,
    skip_faulty: SkipFaulty = False,
) -> None:
    """Divide structures into train, valid and test, by default 80, 10 and 10 % at random.

    Duplicates stay in one part.
    """
    with user_errors():
        from finetune.data import splitting
        from finetune.data.writing import write_parts

        if by not in splitting.KINDS:
            raise DataError(f"--by is '{by}'; choose {', '.join(splitting.KINDS)}.")
        reader = _reader((energy_key, forces_key, stress_key, virial_key), units, skip_faulty)
        structures = reader.read(files, need_labels=False)
        reader.check_named()
        reader.check_unread()
        asked = {"train": train, "valid": valid, "test": test}
        sizes = {name: size for name, size in asked.items() if size or name == "train"}
        parts = splitting.split(structures, sizes, cast(Any, by), seed, block, tolerance)
        blocks = block if by == "block" else None
        facts: dict[str, Any] = {"files": reader.as_dicts(), "by": by, "block": blocks}
        facts |= {"seed": seed, "tolerance": tolerance, "asked": asked}
        counts = write_parts(to, structures, parts, suffix, facts)
    missed = splitting.shortfalls(parts, len(structures), sizes, by)
    written = [f"wrote {count} structures to {path}" for path, count in counts.items()]
    _say([*written, *missed, *_names(reader), *reader.notes()])


@app.command()
def convert(
    files: Files,
    to: Annotated[Path, Option("--to", help="File to write: .h5 (store) or .xyz.")],
    energy_key: EnergyKey = ENERGY,
    forces_key: ForcesKey = FORCES,
    stress_key: StressKey = STRESS,
    virial_key: VirialKey = VIRIAL,
    units: UnitsOption = None,
    skip_faulty: SkipFaulty = False,
) -> None:
    """Write structures and labels of any format to extended XYZ or an HDF5 store, in eV and Å."""
    with user_errors():
        from finetune.data.writing import write_structures

        reader = _reader((energy_key, forces_key, stress_key, virial_key), units, skip_faulty)

        def structures() -> Iterable[Structure]:
            yield from reader.stream(files)
            reader.check_named()  # a name that no file has: nothing is written

        count = write_structures(to, structures())
    _say([f"wrote {count} structures to {to}", *_names(reader), *reader.notes()])


def store(
    files: Annotated[list[str], Argument(metavar="FILE…", help="Labelled structures.")],
    to: Annotated[Path, Option("--to", help="HDF5 file to write, e.g. train.h5.")],
    energy_key: EnergyKey = ENERGY,
    forces_key: ForcesKey = FORCES,
    stress_key: StressKey = STRESS,
    virial_key: VirialKey = VIRIAL,
) -> None:
    """Write structures and labels to one HDF5 store: `data convert` to a name ending in .h5."""
    with user_errors():
        from finetune.data.store import check_suffix

        check_suffix(to)
    convert(files, to, energy_key, forces_key, stress_key, virial_key)


@app.command()
def select(
    files: Annotated[list[str], Argument(metavar="FILE…", help="Structures to choose from.")],
    to: Annotated[Path, Option("--to", help="File to write: .xyz or .h5.")],
    count: Annotated[int, Option(help="How many to choose.", min=1)] = 50,
    foundation: Annotated[
        str, Option(help="Choose the farthest points by the descriptors of this potential.")
    ] = "",
    committee: Annotated[
        list[str] | None,
        Option(help="Folder of a committee, or of each run: choose where forces differ."),
    ] = None,
    head: Annotated[
        str | None, Option(help="Head that predicts, where the potential has several.")
    ] = None,
    labelled: Annotated[
        list[str] | None, Option(help="Structures that have labels already: choose far from these.")
    ] = None,
    energy_key: EnergyKey = ENERGY,
    forces_key: ForcesKey = FORCES,
    stress_key: StressKey = STRESS,
    virial_key: VirialKey = VIRIAL,
    units: UnitsOption = None,
    device: Device = "auto",
    precision: Precision = "float64",
) -> None:
    """Choose the structures to label next."""
    with user_errors():
        from finetune.core.devices import choose_device, choose_dtype
        from finetune.data.writing import check_name, write_structures
        from finetune.labelling.selection import disagreement, farthest_points
        from finetune.potentials.loading import load_foundation

        if bool(foundation) == bool(committee):
            raise DataError("give either --foundation NAME or --committee RUN for each member.")
        check_name(to)
        reader = _reader((energy_key, forces_key, stress_key, virial_key), units, skip=True)
        pool = list(reader.read(files, need_labels=False))
        reader.check_named()
        known = list(reader.read(labelled, need_labels=False)) if labelled else []
        where = (choose_dtype(precision), choose_device(device))
        if foundation:
            potential = load_foundation(foundation, *where, head=head).potential
            chosen, scores = farthest_points(potential, pool, count, known)
            what = "distance from those before"
        else:
            members = [load_foundation(name, *where, head=head) for name in committee or []]
            if len({item.fingerprint for item in members}) < len(members):
                raise DataError(
                    "two members of the committee are the same potential: they never disagree. "
                    "Name runs that differ, e.g. in train.seed."
                )
            chosen, scores = disagreement([item.potential for item in members], pool, count)
            what = "disagreement on a force, eV/Å"
        write_structures(to, (pool[index] for index in chosen))
    _say([f"{pool[i].where}: {what} {s:.4g}" for i, s in zip(chosen, scores, strict=True)][:20])
    few = f", not {count}: no others differ from these and from what has labels"
    written = f"wrote {len(chosen)} structures to {to}{few * (len(chosen) < count)}"
    _say([written, *_names(reader), *reader.notes()])


def _reader(keys: tuple[str, str, str, str], units: list[str] | None, skip: bool) -> Reader:
    from finetune.core.units import parse_units
    from finetune.data.reading import Reader
    from finetune.recipe.sections import label_keys

    named = label_keys(dict(zip(("energy", "forces", "stress", "virial"), keys, strict=True)))
    return Reader(named, parse_units(units or []), "skip" if skip else "stop")


def _names(reader: Reader) -> list[str]:
    """Return a note on the names of labels in the new file, where they had other names."""
    usual = {"energy": ENERGY, "forces": FORCES, "stress": STRESS}
    named = [
        (getattr(reader.keys, key), name) for key, name in usual.items() if key in reader.found
    ]
    new = ", ".join(f"'{old}' is '{name}'" for old, name in named if old != name)
    rest = "they need no keys. `data convert` renames labels elsewhere."
    return [f"In the new files, {new}: {rest}"] if new else []


def _say(lines: Iterable[str], wrapped: bool = False) -> None:
    """Print lines; if asked for, long ones are wrapped and indented on a terminal."""
    console = Console()
    wrapper = TextWrapper(
        console.width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    for line in lines:
        if wrapped and console.is_terminal:
            line = wrapper.fill(line)
        console.print(escape(line), soft_wrap=True, highlight=False)
