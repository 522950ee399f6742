"""Measure potentials after training: on labels, in dynamics, on scans."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
from ase import Atoms

from finetune import run_folder
from finetune.data.graphs import graph
from finetune.data.labels import Structure, to_atoms
from finetune.data.reading import read_structures
from finetune.devices import choose_device, choose_dtype
from finetune.errors import DataError, RecipeError, RunFolderError, system_errors
from finetune.evaluation.counter import Counter
from finetune.evaluation.evaluated import Evaluated
from finetune.evaluation.side_by_side import Pair, compare, open_pair
from finetune.evaluation.stability.failure import Ensemble
from finetune.evaluation.stability.outcome import Stability
from finetune.evaluation.stability.runs import run_all
from finetune.evaluation.stability.trajectory import Settings, Task
from finetune.export.calculator import PotentialCalculator
from finetune.preparation import check_elements, foreign_compositions
from finetune.recipe import label_keys


@system_errors()
def evaluate(
    path: str | Path,
    files: str | Path | Sequence[str | Path],
    keys: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str = "float64",
    *,
    against: str | Path | None = None,
    head: str | None = None,
    subset_key: str = "config_type",
    worst: int = 5,
) -> Evaluated:
    """Evaluate a potential, and its foundation or another one beside it, on labelled structures.

    The foundation gets the fine-tuned potential's reference energies, so that only what was learnt
    by the weights differs.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: One or several files of labelled structures.
        keys: Names of the labels (``energy``, ``forces``, ``stress``) where they differ from those
            in the run's recipe.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        subset_key: What names the subset of a structure in the files.
        worst: How many of the worst structures are listed.

    Raises:
        FoundationError: If there is no potential at ``path``, or an element is unknown to it.
        DataError: For files that cannot be used.
    """
    pair = open_pair(path, against, choose_dtype(dtype), choose_device(device), head)
    structures = read_structures(files, label_keys({**trained_keys(pair), **(keys or {})}))
    _check_elements(pair, structures)
    cutoff = max(potential.cutoff for potential in pair.potentials.values())
    graphs = [graph(item, cutoff) for item in structures]
    note = pair.note
    known = pair.tuned.metadata.get("compositions") or []
    foreign = foreign_compositions(structures, known) if known else []
    if foreign:
        note = (
            f"warning: trained on {', '.join(known)} alone, so total energies of "
            f"{', '.join(foreign)} mean nothing; forces and energy differences may. {note}"
        )
    named = [files] if isinstance(files, (str, Path)) else files
    found = compare(
        ", ".join(map(str, named)),
        pair.tuned.potential,
        pair.reference.potential if pair.reference is not None else None,
        graphs,
        note,
    )
    return Evaluated(
        **vars(found),
        structures=structures,
        subset_key=subset_key,
        listed=worst,
        names=pair.names,
    )


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
        reference: Frames to compare distances with, those of the same atoms are used; by default
            ``files``.
        to: Folder for trajectories and results; by default ``stability/`` in the run folder.
        overwrite: Whether another test there may be replaced.
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
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
    pair = open_pair(path, against, choose_dtype(dtype), choose_device(device), head)
    found = _structures(pair, files)
    chosen = np.unique(np.linspace(0, len(found) - 1, structures).round().astype(int))
    starts = [to_atoms(found[index]) for index in chosen.tolist()]
    for item, atoms in zip(chosen.tolist(), starts, strict=True):
        if len(atoms) < 2:
            raise DataError(f"{found[item].where} is a single atom, which has no dynamics.")
    known = _structures(pair, reference) if reference else found
    frames = [to_atoms(item) for item in known]
    tasks = [
        Task(cast(Ensemble, ensemble), float(temperature), index, replica)
        for ensemble in dict.fromkeys(ensembles)
        for temperature in dict.fromkeys(temperatures)
        for index in range(len(starts))
        for replica in range(replicas)
    ]
    folder = output_folder(path, to, run_folder.STABILITY, overwrite)
    with run_folder.alone(folder):
        outcome = run_all(
            {name: PotentialCalculator(potential) for name, potential in pair.potentials.items()},
            pair.fingerprints,
            starts,
            [[item for item in frames if _same_atoms(item, start)] for start in starts],
            tasks,
            settings,
            folder,
            counter,
        )
    return replace(outcome, note=pair.note)


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
        "temperature": min(temperatures, default=0.0),
        "structures": structures,
        "replicas": replicas,
        "length": settings.length,
        "time step": settings.time_step,
        "friction": settings.friction,
        "interval": settings.interval,
    }
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise RecipeError(f"{name} is {value:g}; it must be above zero.")
    if not ensembles:
        raise RecipeError("no ensemble is named; choose nvt or nve.")


def output_folder(path: str | Path, to: str | Path | None, kind: str, overwrite: bool) -> Path:
    """Return the folder that a test of a potential writes to, emptied on request.

    Args:
        path: Run folder, or what else names a potential.
        to: The folder, if it is named.
        kind: Its name within a run folder.
        overwrite: Whether what is there may be removed.

    Raises:
        RunFolderError: If there is no run folder and no other is named, or a file is in the way.
    """
    if to is None and not (Path(path) / run_folder.RECIPE).is_file():
        raise RunFolderError(f"'{path}' is no run folder: name a folder to write to with --to.")
    folder = Path(path) / kind if to is None else Path(to)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; name a folder.")
    results = {".json", ".csv", ".traj", ".npz", ".png", ".cut"}
    if overwrite and folder.is_dir():
        strange = [
            item for item in folder.rglob("*") if item.is_file() and item.suffix not in results
        ]
        if strange:
            raise RunFolderError(f"'{folder}' holds other files ('{strange[0].name}') than a test.")
        shutil.rmtree(folder)
    return folder


def _structures(pair: Pair, files: str | Path | Sequence[str | Path]) -> Sequence[Structure]:
    """Read structures, of the run's own test if none are named, and check their elements.

    Raises:
        DataError: If there are none, or a potential does not know an element.
    """
    data = pair.tuned.metadata.get("recipe", {}).get("data", {})
    own = data.get("test") or data.get("valid")
    if not files and not isinstance(own, (str, list)):
        raise DataError("no structures are named, and the potential brings none: name a file.")
    found = read_structures(files or own, label_keys(trained_keys(pair)), need_labels=False)
    _check_elements(pair, found)
    return found


def _check_elements(pair: Pair, structures: Sequence[Structure]) -> None:
    for opened in (pair.tuned, pair.reference):
        if opened is not None:
            check_elements({"data": structures}, opened)


def _same_atoms(one: Atoms, other: Atoms) -> bool:
    return bool(np.array_equal(one.numbers, other.numbers) and (one.pbc == other.pbc).all())


def trained_keys(pair: Pair) -> dict[str, str]:
    """Return the names of the labels in the recipe that a potential was tuned with."""
    return dict(pair.tuned.metadata.get("recipe", {}).get("data", {}).get("keys", {}))
