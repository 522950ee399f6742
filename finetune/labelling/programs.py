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
        """Compute a label; raises LabelError for what cannot be computed or does not converge."""


def check_installed(level: Level) -> None:
    """Refuse a level whose package is missing."""
    if level.program != "ase" and find_spec(level.program) is None:
        raise RecipeError(f"level.program is {level.program}, which is not installed: {EXTRA}")


def open_program(
    level: Level,
    elements: Sequence[int] = (),
    threads: int = 1,
    memory: int = 4000,
    folder: Path = Path("label-files"),
) -> Program:
    """Open the program of a level in this process, for structures with these atomic numbers.

    ``threads`` and ``memory`` (MB) are for PySCF; other programs follow ``OMP_NUM_THREADS``.
    Calculators that work with files do so in ``folder``. Raises RecipeError if the program is not
    installed, or does not know what the level names.
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
    """Open a program in a worker process by JSON of `open_program`'s arguments; return its name."""
    return _opened(setup).program


def compute(setup: str, task: Task, forces: bool) -> dict[str, Any]:
    """Compute a `Label` as plain data in a worker process, or the ``reason`` why there is none."""
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
