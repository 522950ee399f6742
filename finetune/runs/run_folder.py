"""The folder of a run: who may write there, and what happens to an earlier run."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from finetune.core.errors import (
    EarlierRunError,
    FinetuneError,
    RunFolderError,
    RunStoppedError,
    TrainingError,
)
from finetune.core.files import (
    OTHER_OUTPUT,
    alone,
    check_free,
    read_json,
    refuse_working_folder,
    remove_unfinished,
    write_atomically,
    write_json,
)
from finetune.core.process import process_count
from finetune.core.run_files import (
    CHECKPOINTS,
    ENVIRONMENT,
    FILES,
    MEMBERS,
    METRICS,
    RECIPE,
    RESULT,
    STAGES,
    TENSORBOARD,
    WANDB,
    foreign,
)
from finetune.recipe.recipe import Recipe

Resume = Literal["no", "auto", "must"]
"""Whether a run continues from the checkpoint in its folder: never, if there is one, or always."""


def check_output(folder: Path, overwrite: bool, resume: Resume = "no") -> bool:
    """Decide whether a run starts or resumes, and refuse a folder that is fit for neither.

    Returns:
        Whether the folder holds a run that is to be resumed.

    Raises:
        RunFolderError: Saying what stands in the way; an `EarlierRunError` for a run that may be
            overwritten.
    """
    if resume not in get_args(Resume):
        raise RunFolderError(f"resume is '{resume}'; choose {', '.join(get_args(Resume))}.")
    if resume != "no" and overwrite:
        raise RunFolderError("choose either resume or overwrite.")
    if resume != "no" and (folder / RECIPE).is_file() and _learnt(folder):
        return True
    if resume == "must":
        raise RunFolderError(f"'{folder}' holds no run with a checkpoint to resume.")
    aside = _aside(folder)
    if aside.is_dir() and not folder.exists() and not overwrite:
        raise EarlierRunError(
            f"'{aside}' holds an earlier run that a killed replacement set aside. Rename it to "
            f"'{folder.name}' to keep it, or add --overwrite."
        )
    check_free(folder, _foreign, "run", OTHER_OUTPUT)
    _check_earlier(folder, overwrite, resume == "auto")
    return False


def check_origin(folder: Path, recipe: Recipe, environment: Mapping[str, Any]) -> list[str]:
    """Compare what a run to be resumed was started with; return notes on other versions."""
    different = Recipe.load(folder / RECIPE).differences(recipe)
    if different:
        raise RunFolderError(
            f"'{folder}' holds a run of another recipe: {', '.join(different[:5])} "
            f"differ{'s' if len(different) == 1 else ''}. Resume it with its own "
            f"'{folder / RECIPE}', choose another output, or --overwrite it."
        )
    try:
        stored = read_json(folder / ENVIRONMENT)
        for what in ("foundation", "data"):
            if stored[what]["fingerprint"] != environment[what]["fingerprint"]:
                raise RunFolderError(
                    f"the {what} {'has' if what == 'foundation' else 'have'} changed since the run "
                    f"in '{folder}' began: it cannot be resumed. Choose another output."
                )
        begun, here = stored.get("processes", 1), environment["processes"]
        if begun != here:
            raise RunFolderError(
                f"the run in '{folder}' started with {begun} process{'es' * (begun > 1)}, not "
                f"{here}, which take other steps. Resume with {begun} process{'es' * (begun > 1)}."
            )
        versions, now = stored["versions"], environment["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"'{folder / ENVIRONMENT}' cannot be read: {error!r}.") from error
    changed = [name for name in now if versions.get(name) != now[name]]
    listed = ", ".join(f"{name} {versions.get(name)} -> {now[name]}" for name in changed)
    if not listed:
        return []
    return [f"warning: resumed with other versions, so not bit for bit: {listed}."]


def _foreign(folder: Path) -> str | None:
    """Return something that no run writes, or anything if the mark of a run is missing."""
    other = foreign(folder)
    if other or (folder / ENVIRONMENT).is_file() or _abandoned(folder):
        return other
    return next(folder.iterdir()).name


def _check_earlier(folder: Path, overwrite: bool, resume: bool) -> None:
    """Refuse to replace an earlier run unless that is asked for, or it has learnt nothing."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    refuse_working_folder(folder, OTHER_OUTPUT)
    if overwrite or (resume and _abandoned(folder)):
        return
    if (folder / RESULT).is_file():
        raise EarlierRunError(
            f"'{folder}' holds an earlier run. Choose another output=FOLDER, or add --overwrite."
        )
    with alone(folder):  # refuses, if that run is at work
        pass
    raise EarlierRunError(
        f"'{folder}' holds an unfinished run. Continue with --resume auto, choose another "
        "output=FOLDER, or add --overwrite."
    )


@contextmanager
def opened(
    folder: Path, recipe: str, environment: Mapping[str, Any], resuming: bool, main: bool = True
) -> Iterator[None]:
    """Lock the run folder for a run, with an earlier run set aside until it is done.

    The earlier run waits next to it as ``.NAME.earlier``. It is removed when the run is done, stays
    there while the run can be resumed, and is restored when the run fails. A run that fails before
    its first checkpoint leaves nothing.

    Raises:
        RunFolderError: If the folder cannot be made or written to.
    """
    if not main:
        yield
        return
    with alone(folder):
        yield from _kept(folder, recipe, environment, resuming)


def _kept(
    folder: Path, recipe: str, environment: Mapping[str, Any], resuming: bool
) -> Iterator[None]:
    aside = _aside(folder)
    try:
        if resuming:
            remove_unfinished(folder, FILES)
        else:
            _make(folder, aside, recipe, environment)
    except OSError as error:
        raise RunFolderError(f"'{folder}' cannot be written: {error}.") from error
    try:
        yield
    except FinetuneError as error:
        if isinstance(error, TrainingError) or not (resuming or isinstance(error, RunStoppedError)):
            _fail(folder, aside)
        raise
    except BaseException:
        if not resuming and not _learnt(folder):
            _fail(folder, aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _make(folder: Path, aside: Path, recipe: str, environment: Mapping[str, Any]) -> None:
    """Make the folder with the marks of a run, an earlier run set aside; or leave all as it was."""
    earlier = False
    if folder.is_dir() and any(folder.iterdir()):
        finished = (folder / RESULT).is_file()
        if not finished and (aside.is_dir() or _abandoned(folder)):
            shutil.rmtree(folder)  # the run set aside is the one to keep, or there is none
        else:
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            earlier = True
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ENVIRONMENT, environment)  # first, as the mark of a run
        write_atomically(folder / RECIPE, recipe.encode())
    except OSError:
        if earlier or new:
            shutil.rmtree(folder, ignore_errors=True)
        if aside.is_dir() and not folder.exists():
            aside.rename(folder)
        raise


def _fail(folder: Path, aside: Path) -> None:
    """Put the earlier run back; without one, leave what was learnt, or nothing."""
    if aside.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    elif not _learnt(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """Return where an earlier run waits while its replacement is at work."""
    return folder.parent / f".{folder.name}.earlier"


def _abandoned(folder: Path) -> bool:
    """Return whether a kill left nothing here but what a run writes before it learns."""
    early = (ENVIRONMENT, RECIPE, METRICS)
    files = [item.relative_to(folder) for item in folder.rglob("*") if not item.is_dir()]
    marked = (folder / ENVIRONMENT).is_file()
    return all(
        file.name.startswith(f".{ENVIRONMENT}.")
        or (marked and file.name in early)
        or (marked and file.name.startswith(tuple(f".{name}." for name in early)))
        or (marked and any(part in (TENSORBOARD, WANDB) for part in file.parts))
        or (marked and any(part.startswith(".step-") for part in file.parts))
        for file in files
    )


def _learnt(folder: Path) -> bool:
    """Return whether there is a result or a checkpoint, of the run, a stage or a member."""
    if (folder / RESULT).is_file() or any(folder.glob(f"{CHECKPOINTS}/step-*")):
        return True
    return any(_learnt(part) for name in (STAGES, MEMBERS) for part in folder.glob(f"{name}/*"))


def run_environment(
    device: str,
    seed: int,
    foundation: str,
    fingerprint: str,
    data: Mapping[str, Any],
    lineage: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of a run's ``environment.json``."""
    return {
        "versions": dict(versions),
        "platform": platform.platform(),
        "device": device,
        "processes": process_count(),
        "seed": seed,
        "foundation": {"name": foundation, "fingerprint": fingerprint, "lineage": list(lineage)},
        "data": dict(data),
    }
