"""The process that computes labels: one JSON line in, one out.

The first line sets it up, each further one is a task. What programs print goes to standard error,
and the process ends when the one that started it does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from queue import Queue
from typing import Any

from finetune.errors import FinetuneError
from finetune.labelling.label import LabelError, Task
from finetune.labelling.levels import PROGRAMS
from finetune.labelling.programs import Program, open_program


def main() -> None:
    """Serve until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # batch systems send them to all processes of a job
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: Queue[str] = Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        program = _open(json.loads(lines.get()))
    except FinetuneError as error:
        answer({"fault": str(error)})
        return
    answer({"ready": program.program})
    while True:
        content = json.loads(lines.get())
        answer(_computed(program, Task(**content["task"]), content["forces"]))


def _listen(lines: Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # whoever asked is gone, and a calculation may have hours to go


def _open(setup: dict[str, Any]) -> Program:
    level = PROGRAMS[setup["level"]["program"]].model_validate(setup["level"])
    return open_program(
        level, setup["elements"], setup["threads"], setup["memory"], Path(setup["folder"])
    )


def _computed(program: Program, task: Task, forces: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        label = program.compute(task, forces)
    except LabelError as error:
        return {"reason": str(error)}
    except Exception as error:  # programs raise whatever they like; the next task goes on
        text = " ".join(str(error).split())[:300]
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return {"reason": reason}
    seconds = round(time.perf_counter() - begin, 4)
    return asdict(replace(label, program=program.program, seconds=seconds))
