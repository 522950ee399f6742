"""Measure what fine-tuning changed: errors, dynamics, physical checks, and the report of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from finetune.commands import shared
from finetune.commands.shared import again, tell, tell_json, tell_written, user_errors

Against = Annotated[
    str | None, Option(help="Baseline, instead of the foundation that RUN was tuned from.")
]
AgainstHead = Annotated[str | None, Option(help="Head of the baseline that predicts.")]
Files = Annotated[
    list[str] | None,
    Argument(
        metavar="[FILE…]",
        help="Structures; by default those that the run was tested on.",
        show_default=False,
    ),
]


def evaluate(
    path: shared.PotentialName,
    files: Annotated[list[str], Argument(metavar="FILE…", help="Labelled structures.")],
    energy_key: Annotated[str, Option(help="Name of the energies in the files.")] = "",
    forces_key: Annotated[str, Option(help="Name of the forces in the files.")] = "",
    stress_key: Annotated[str, Option(help="Name of the stresses in the files.")] = "",
    units: shared.UnitsOption = None,
    subset_key: Annotated[
        str, Option(help="Tag in the files that names the subset of a structure.")
    ] = "config_type",
    against: Against = None,
    head: shared.Head = None,
    against_head: AgainstHead = None,
    worst: Annotated[int, Option(help="Worst structures to list.", min=0)] = 5,
    to: Annotated[
        Path | None, Option("--to", help="Folder for JSON, CSV and the parity plot.")
    ] = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "float64",
    as_json: Annotated[bool, Option("--json", help="Print JSON in eV and Å.")] = False,
) -> None:
    """Test a fine-tuned potential and its foundation on labelled structures."""
    with user_errors():
        from finetune.core.units import parse_units
        from finetune.evaluation import evaluation

        if to is not None:
            evaluation.check_output(to)
        given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
        keys = {name: key for name, key in given.items() if key}
        found = evaluation.evaluate(
            path,
            files,
            keys,
            device,
            precision,
            units=parse_units(units) if units else None,
            against=against,
            head=head,
            against_head=against_head,
            subset_key=subset_key,
            worst=worst,
        )
        if to is not None:
            found.write(to)
    lineage = f"lineage: {' → '.join(found.lineage)}" if len(found.lineage) > 1 else ""
    _show(found, as_json, found.tables, [lineage, found.note], to)


def md(
    path: shared.PotentialName,
    files: Files = None,
    ensemble: Annotated[
        list[str] | None, Option(help="nvt (Langevin) or nve; may be given twice. Both by default.")
    ] = None,
    temperature: Annotated[
        list[float] | None, Option(help="K; may be given several times. 300 by default.")
    ] = None,
    structures: Annotated[int, Option(help="Structures to start from.")] = 1,
    replicas: Annotated[int, Option(help="Trajectories from each.")] = 3,
    length: Annotated[float, Option(help="ps of a trajectory.")] = 5.0,
    time_step: Annotated[float, Option(help="fs.")] = 0.5,
    friction: Annotated[float, Option(help="Of the thermostat, 1/fs.")] = 0.01,
    interval: Annotated[float, Option(help="fs between saved frames.")] = 10.0,
    bond_limit: Annotated[
        float, Option(help="Å that a bond may be off; 0 checks none (liquids, reactions).")
    ] = 0.5,
    seed: Annotated[int, Option(help="Of velocities and noise.", min=0)] = 0,
    forces: Annotated[
        str | None,
        Option(help="Where a head predicts forces: head (the default), gradient (−dE/dr), mixed."),
    ] = None,
    gradient_every: Annotated[
        int | None, Option(help="Of mixed: steps between two evaluations of −dE/dr; 4 by default.")
    ] = None,
    reference: Annotated[
        list[str] | None, Option(help="Frames to compare distances with; FILE by default.")
    ] = None,
    against: Against = None,
    head: shared.Head = None,
    against_head: AgainstHead = None,
    to: Annotated[
        Path | None,
        Option("--to", help="Folder for trajectories and results.", show_default="RUN/stability"),
    ] = None,
    overwrite: shared.Overwrite = False,
    device: shared.Device = "auto",
    precision: shared.Precision = "float64",
    quiet: shared.Quiet = False,
    plain: shared.Plain = False,
    as_json: shared.AsJson = False,
) -> None:
    """Run molecular dynamics until it fails, also with the foundation; resume a stopped test."""
    console = Console(stderr=as_json)
    with user_errors(again()):
        from finetune.core.counter import Counter
        from finetune.evaluation.dynamics import md as run_md
        from finetune.evaluation.trajectory import Limits, Settings

        found = run_md(
            path,
            files or (),
            ensembles=ensemble or ("nvt", "nve"),
            temperatures=temperature or (300.0,),
            structures=structures,
            replicas=replicas,
            settings=Settings(length, time_step, friction, interval, seed, Limits(bond=bond_limit)),
            reference=reference or (),
            to=to,
            overwrite=overwrite,
            against=against,
            head=head,
            against_head=against_head,
            forces=forces,  # type: ignore[arg-type]  # checked there
            gradient_every=gradient_every,
            device=device,
            dtype=precision,
            counter=Counter(None if quiet else console, plain),
        )
    _show(found, as_json, lambda: [found.table()], [found.note], found.folder)


def scan(
    path: shared.PotentialName,
    files: Files = None,
    only: Annotated[
        list[str] | None,
        Option(
            help="dimers, coordinates, labelled, frequencies or forgetting; may be given several "
            "times. All by default."
        ),
    ] = None,
    structures: Annotated[int, Option(help="Structures to scan and relax.")] = 1,
    element: Annotated[
        list[str] | None, Option(help="Of pairs of atoms; by default those of the structures.")
    ] = None,
    away: Annotated[
        list[str] | None,
        Option(help="Structures away from the training set; G2 molecules by default."),
    ] = None,
    against: Against = None,
    head: shared.Head = None,
    against_head: AgainstHead = None,
    to: Annotated[
        Path | None, Option("--to", help="Folder for JSON and figures.", show_default="RUN/scans")
    ] = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "float64",
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
) -> None:
    """Check walls, bonds, torsions, frequencies and forgetting, also of the foundation."""
    console = Console(stderr=as_json)
    with user_errors():
        from finetune.core.counter import Counter
        from finetune.evaluation import scans

        found = scans.scan(
            path,
            files or (),
            only=only or scans.CHECKS,
            structures=structures,
            elements=element or (),
            away=away or (),
            to=to,
            against=against,
            head=head,
            against_head=against_head,
            device=device,
            dtype=precision,
            counter=Counter(None if quiet else console),
        )
    folder = to or Path(path) / "scans"
    _show(found, as_json, found.tables, [found.verdict(), found.note], folder)


def report(
    path: Annotated[str, Argument(metavar="RUN", help="Run folder.")],
    device: shared.Device = "auto",
    precision: shared.Precision = "float64",
) -> None:
    """Write the page of a run again, with the dynamics and scans that were run since."""
    with user_errors():
        from finetune.evaluation.report_page import report as write_page

        page = write_page(path, device, precision)
    tell_written(Console(), page)


def _show(
    found: Any, as_json: bool, tables: Callable[[], list[Table]], lines: list[str], to: Path | None
) -> None:
    """Print a result as JSON, or its tables, the lines that are not empty, and where it is."""
    if as_json:
        tell_json(found.as_dict())
        return
    console = Console()
    for table in tables():
        console.print(table)
    for line in filter(None, lines):
        tell(console, line)
    if to is not None:
        tell_written(console, to)
