"""Run a recipe to its end through SIGKILLs: python killing.py RECIPE KILLS SEED, or RECIPE FOLDER.

At random moments of one run; or, with a folder, in the middle of each write of runs from the start,
which are then resumed and set aside there. Imports are done once; each attempt is a forked process
of its own that resumes the run.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import finetune
import finetune.runs.workflow  # noqa: F401  (imported before forking)
from finetune.core import files
from tests.tiny import tiny_mace

torch.set_num_threads(1)
tiny_mace()


def attempt(recipe: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Start or go on with a run in a child process, whose number is returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            finetune.run(recipe, resume="auto")
            code = 0
        finally:
            os._exit(code)
    return child


def killed_while_writing(recipe: str, number: int) -> bool:
    """Die in the middle of the given write of a file; False if the run ends before."""
    write, count = files._write, 0

    def half(descriptor: int, content: bytes) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.write(descriptor, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(descriptor, content)

    def prepare() -> None:
        files._write = half

    _, status = os.waitpid(attempt(recipe, prepare), 0)
    return os.WIFSIGNALED(status)


def in_every_write(recipe: str, output: Path, folder: Path) -> None:
    codes = []
    while killed_while_writing(recipe, len(codes) + 1):
        _, status = os.waitpid(attempt(recipe), 0)
        codes.append(os.waitstatus_to_exitcode(status))
        output.rename(folder / f"killed-in-write-{len(codes)}")
    print(json.dumps(codes))


def main(recipe: str, kills: int, seed: int) -> None:
    moments = random.Random(seed)
    done = {"random": 0, "writing": 0}
    for index in range(kills):
        if index % 4 == 3:
            done["writing"] += killed_while_writing(recipe, moments.randint(2, 12))
            continue
        child = attempt(recipe)
        time.sleep(moments.uniform(0.1, 0.9))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        done["random"] += os.WIFSIGNALED(status)
    _, status = os.waitpid(attempt(recipe), 0)
    print(json.dumps({**done, "code": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_folder = Path(finetune.Recipe.load(sys.argv[1]).output)
        in_every_write(sys.argv[1], run_folder, Path(sys.argv[2]))
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
