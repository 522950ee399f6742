"""Stability in molecular dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast, get_args

from finetune import run_files, run_folder
from finetune.assessment.shared import (
    check_ours,
    chosen_structures,
    empty,
    output_folder,
    structures_for,
)
from finetune.data.labels import to_atoms
from finetune.devices import choose_device, choose_dtype
from finetune.errors import DataError, RecipeError, system_errors
from finetune.evaluation.counter import Counter
from finetune.evaluation.side_by_side import open_pair
from finetune.evaluation.stability.failure import Ensemble, comparable
from finetune.evaluation.stability.outcome import Stability
from finetune.evaluation.stability.runs import FILES, run_all
from finetune.evaluation.stability.trajectory import Settings, Task
from finetune.export.calculator import PotentialCalculator

MOST_STEPS = 10**9
"""Of a trajectory; more would take years."""


@system_errors()
def md(
    path: str | Path,
    files: str | Path | Sequence[str | Path] = (),
    *,
    ensembles: Sequence[str] = ("nvt", "nve"),
    temperatures: Sequence[float] = (300.0,),
    structures: int = 1,
    replicas: int = 3,
    settings: Settings | None = None,
    reference: str | Path | Sequence[str | Path] = (),
    to: str | Path | None = None,
    overwrite: bool = False,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    device: str = "auto",
    dtype: str = "float64",
    counter: Counter | None = None,
) -> Stability:
    """Run molecular dynamics with a potential, and its foundation beside it, until it fails.

    What the folder holds of the same test is taken up where it ended.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: Structures to start from; by default those that the run was tested on.
        ensembles: ``nvt`` (Langevin), ``nve`` or both.
        temperatures: K, of the thermostat and of the first velocities.
        structures: How many to start from, evenly spaced in the files.
        replicas: Trajectories from each, with other velocities and noise.
        settings: Length, time step, friction, limits.
        reference: Frames to compare distances with; those of the same atoms are used and, of
            molecules with a limit on bonds, of the same bonds. By default ``files``.
        to: Folder for trajectories and results; by default ``stability/`` in the run folder.
        overwrite: Whether another test there may be replaced.
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.
        counter: Shows the progress.

    Raises:
        RecipeError: For an unknown ensemble, or numbers that make no test.
        FoundationError: If there is no potential at ``path``, or an element is unknown to it.
        DataError: For files that cannot be used.
        RunFolderError: If the folder holds another test.
        RunStoppedError: If a signal came; the same call goes on.
    """
    settings = settings or Settings()
    _check_test(ensembles, temperatures, structures, replicas, settings)
    folder = output_folder(path, to, run_files.STABILITY)
    check_ours(folder, FILES)
    opened_as = choose_dtype(dtype), choose_device(device)
    pair = open_pair(path, against, *opened_as, head, against_head)
    found = structures_for(pair, path, files)
    chosen = chosen_structures(found, structures)
    for item in chosen:
        if len(item) < 2:
            raise DataError(f"{item.where} is a single atom, which has no dynamics.")
    starts = [to_atoms(item) for item in chosen]
    known = structures_for(pair, path, reference) if reference else found
    frames = [to_atoms(item) for item in known]
    compared = [
        [item for item in frames if comparable(item, start, settings.limits.bond > 0)]
        for start in starts
    ]
    if reference and not any(compared):
        raise DataError(
            f"no structure of the reference has the same atoms as {chosen[0].where}, in the same "
            "order and, of molecules, with the same bonds. Name another --reference."
        )
    tasks = [
        Task(cast(Ensemble, ensemble), float(temperature), index, replica)
        for ensemble in dict.fromkeys(ensembles)
        for temperature in dict.fromkeys(temperatures)
        for index in range(len(starts))
        for replica in range(replicas)
    ]
    with run_folder.alone(folder):
        if overwrite:
            empty(folder, FILES)
        outcome = run_all(
            {name: PotentialCalculator(potential) for name, potential in pair.potentials.items()},
            pair.fingerprints,
            starts,
            compared,
            tasks,
            settings,
            folder,
            counter,
            pair.note,
        )
    return outcome


def _check_test(
    ensembles: Sequence[str],
    temperatures: Sequence[float],
    structures: int,
    replicas: int,
    settings: Settings,
) -> None:
    for ensemble in ensembles:
        if ensemble not in get_args(Ensemble):
            raise RecipeError(
                f"ensemble is '{ensemble}'; choose {' or '.join(get_args(Ensemble))}."
            )
    numbers = {
        "structures": structures,
        "replicas": replicas,
        "length": settings.length,
        "time step": settings.time_step,
        "friction": settings.friction,
        "interval": settings.interval,
    }
    for name, value in [*(("temperature", item) for item in temperatures), *numbers.items()]:
        if not 0 < value < math.inf:
            raise RecipeError(f"{name} is {value:g}; it must be above zero and finite.")
    if settings.steps > MOST_STEPS:
        raise RecipeError(
            f"length {settings.length:g} ps by time step {settings.time_step:g} fs are "
            f"{settings.steps:.3g} steps; at most {MOST_STEPS:.3g} can be run."
        )
    for limit, value in asdict(settings.limits).items():
        if not (0 < value < math.inf or (limit == "bond" and value == 0)):
            raise RecipeError(
                f"{limit} limit is {value:g}; it must be above zero and finite"
                f"{', or zero to check none' * (limit == 'bond')}."
            )
    for given, what in ((ensembles, "ensemble"), (temperatures, "temperature")):
        if not given:
            raise RecipeError(f"no {what} is named.")
