"""Measure what fine-tuning brought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from finetune.commands.shared import (
    AsJson,
    Device,
    Overwrite,
    Precision,
    Quiet,
    again,
    tell,
    tell_written,
    user_errors,
)

PotentialName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder, .model file, or foundation by name.")
]
Against = Annotated[
    Optional[str],  # noqa: UP045 (typer evaluates this at run time on Python 3.10)
    typer.Option(help="Potential beside it, instead of the foundation it was tuned from."),
]
Files = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="[FILE…]",
        help="Structures; by default those that the run was tested on.",
        show_default=False,
    ),
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a bar.")]
Head = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Head of RUN that predicts, where there are several."),
]
AgainstHead = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Head of the potential beside it that predicts."),
]


def evaluate(
    path: PotentialName,
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Labelled structures.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energies in the files.")] = "",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the files.")] = "",
    stress_key: Annotated[str, typer.Option(help="Name of the stresses in the files.")] = "",
    subset_key: Annotated[
        str, typer.Option(help="What names the subset of a structure in the files.")
    ] = "config_type",
    against: Against = None,
    head: Head = None,
    against_head: AgainstHead = None,
    worst: Annotated[int, typer.Option(help="Worst structures to list.", min=0)] = 5,
    to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--to", help="Folder for JSON, CSV and the parity plot."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "float64",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in eV and Å.")] = False,
) -> None:
    """Test a fine-tuned potential, and its foundation beside it, on labelled structures."""
    with user_errors():
        from finetune.evaluation.evaluation import check_folder
        from finetune.evaluation.evaluation import evaluate as evaluate_files

        if to is not None:
            check_folder(to)
        given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
        found = evaluate_files(
            path,
            files,
            keys={name: key for name, key in given.items() if key},
            device=device,
            dtype=precision,
            against=against,
            head=head,
            against_head=against_head,
            subset_key=subset_key,
            worst=worst,
        )
        if to is not None:
            found.write(to)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    console = Console()
    for table in found.tables():
        console.print(table)
    if len(found.lineage) > 1:
        descent = f"lineage: {' → '.join(found.lineage)}"
        tell(console, descent)
    if found.note:
        tell(console, found.note)
    if to is not None:
        tell_written(console, to)


def md(
    path: PotentialName,
    files: Files = None,
    ensemble: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="nvt (Langevin) or nve; may be given twice. Both by default."),
    ] = None,
    temperature: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(help="K; may be given several times. 300 by default."),
    ] = None,
    structures: Annotated[int, typer.Option(help="Structures to start from.")] = 1,
    replicas: Annotated[int, typer.Option(help="Trajectories from each.")] = 3,
    length: Annotated[float, typer.Option(help="ps of a trajectory.")] = 5.0,
    time_step: Annotated[float, typer.Option(help="fs.")] = 0.5,
    friction: Annotated[float, typer.Option(help="Of the thermostat, 1/fs.")] = 0.01,
    interval: Annotated[float, typer.Option(help="fs between saved frames.")] = 10.0,
    bond_limit: Annotated[
        float, typer.Option(help="Å that a bond may be off; 0 checks none (liquids, reactions).")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of velocities and noise.", min=0)] = 0,
    reference: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Frames to compare distances with; FILE by default."),
    ] = None,
    against: Against = None,
    head: Head = None,
    against_head: AgainstHead = None,
    to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--to", help="Folder for trajectories and results.", show_default="RUN/stability"
        ),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "float64",
    quiet: Quiet = False,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Run molecular dynamics until it fails, the foundation beside; go on where a test ended."""
    console = Console(stderr=as_json)
    with user_errors(again()):
        from finetune.evaluation.counter import Counter
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
            device=device,
            dtype=precision,
            counter=Counter(None if quiet else console, plain),
        )
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    console.print(found.table())
    if found.note:
        tell(console, found.note)
    tell_written(console, found.folder)


def scan(
    path: PotentialName,
    files: Files = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="dimers, coordinates, labelled, frequencies or forgetting; may be given several "
            "times. All by default."
        ),
    ] = None,
    structures: Annotated[int, typer.Option(help="Structures to scan and relax.")] = 1,
    element: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Of pairs of atoms; by default those of the structures."),
    ] = None,
    away: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Structures away from the training set; G2 molecules by default."),
    ] = None,
    against: Against = None,
    head: Head = None,
    against_head: AgainstHead = None,
    to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--to", help="Folder for JSON and figures.", show_default="RUN/scans"),
    ] = None,
    device: Device = "auto",
    precision: Precision = "float64",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check walls, bonds, torsions, frequencies and forgetting, the foundation beside."""
    console = Console(stderr=as_json)
    with user_errors():
        from finetune.evaluation.counter import Counter
        from finetune.evaluation.scans import CHECKS
        from finetune.evaluation.scans import scan as run_scans

        found = run_scans(
            path,
            files or (),
            only=only or CHECKS,
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
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    for table in found.tables():
        console.print(table)
    for line in (found.verdict(), found.note):
        if line:
            tell(console, line)
    tell_written(console, to or Path(path) / "scans")


def report(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.")],
    device: Device = "auto",
    precision: Precision = "float64",
) -> None:
    """Write the page of a run anew, with the dynamics and scans that were run since."""
    with user_errors():
        from finetune.evaluation.report_page import report as write_page

        page = write_page(path, device, precision)
    tell_written(Console(), page)
