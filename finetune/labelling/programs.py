"""Open the program that computes a level of theory, and compute labels with it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from finetune.core.errors import RecipeError
from finetune.core.executors import worker_name
from finetune.labelling.recipe import PROGRAMS, Level, PyscfLevel, TbliteLevel
from finetune.labelling.task import Label, LabelError, Task

EXTRA = "pip install 'piwsl-finetune[label]'"


class Program(Protocol):
    """Computes labels; ``program`` is its name and version."""

    program: str

    def compute(self, task: Task, forces: bool) -> Label:
        """Compute a label.

        Raises:
            LabelError: For what cannot be computed or does not converge.
        """


def check_installed(level: Level) -> None:
    """Refuse a level whose package is missing.

    Raises:
        RecipeError: Saying how to install it.
    """
    if level.program != "ase" and find_spec(level.program) is None:
        raise RecipeError(f"level.program is {level.program}, which is not installed: {EXTRA}")


def open_program(
    level: Level,
    elements: Sequence[int] = (),
    threads: int = 1,
    memory: int = 4000,
    folder: Path = Path("label-files"),
) -> Program:
    """Open the program of a level in this process.

    Args:
        level: The level of theory.
        elements: Atomic numbers of the structures to compute.
        threads: Of a calculation, for PySCF; other programs follow ``OMP_NUM_THREADS``.
        memory: MB, for PySCF.
        folder: Where calculators that work with files do so.

    Raises:
        RecipeError: If it is not installed, or does not know what the level names.
    """
    check_installed(level)
    if isinstance(level, PyscfLevel):
        from finetune.labelling.pyscf import Molecular

        return Molecular(level, elements, threads, memory)
    from finetune.labelling.calculators import Named, TightBinding

    return TightBinding(level) if isinstance(level, TbliteLevel) else Named(level, folder)


@lru_cache(maxsize=1)
def _opened(setup: str) -> Program:
    options = json.loads(setup)
    level = options.pop("level")
    folder = Path(options.pop("folder")) / worker_name()
    parsed = PROGRAMS[level["program"]].model_validate(level)
    return open_program(parsed, **options, folder=folder)


def program_name(setup: str) -> str:
    """Open a program in a worker process, and return its name and version.

    Args:
        setup: JSON of the arguments of `open_program`; each worker has a folder in ``folder``.

    Raises:
        RecipeError: See `open_program`.
    """
    return _opened(setup).program


def compute(setup: str, task: Task, forces: bool) -> dict[str, Any]:
    """Compute in a worker process; for the arguments see `program_name` and `Program`.

    Returns:
        A `Label` as plain data, or the ``reason`` why there is none.
    """
    program = _opened(setup)
    begin = time.perf_counter()
    try:
        label = program.compute(task, forces)
    except LabelError as error:
        return {"reason": str(error)}
    except Exception as error:  # programs raise anything; the next task follows
        text = " ".join(str(error).split())[:300]
        return {"reason": f"{type(error).__name__}: {text}" if text else type(error).__name__}
    seconds = round(time.perf_counter() - begin, 4)
    return asdict(replace(label, program=program.program, seconds=seconds))
