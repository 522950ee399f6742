"""Several processes that compute labels side by side, each with threads and memory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from queue import Queue, SimpleQueue
from typing import Any

from finetune.core.errors import FinetuneError, RecipeError
from finetune.labelling.programs import Program, open_program
from finetune.labelling.recipe import PROGRAMS
from finetune.labelling.task import LabelError, Task


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


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from finetune.labelling.workers import main; main()"
)
PATIENCE = 0.2
"""Seconds between looks at whether a signal came."""


class Worker:
    """One process; it starts at the first task, and anew after it has died.

    Args:
        setup: What `finetune.labelling.workers` is set up with.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup = setup
        self.process: subprocess.Popen[str] | None = None
        self.closed = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the worker lives)

    def compute(self, task: Task, forces: bool) -> dict[str, Any]:
        """Return a label, or a ``reason``, as plain data.

        Raises:
            RecipeError: If the program cannot be opened.
        """
        if self.process is None:
            self._start()
        reply = self._ask({"task": asdict(task), "forces": forces})
        if reply is None:
            return {"reason": self._epitaph()}
        self._errors.seek(0)
        self._errors.truncate()  # its end is only looked at after a death
        return reply

    def close(self) -> None:
        """End the process, whatever it does."""
        self.closed.set()
        if self.process is not None:
            self.process.kill()
            self._bury(self.process)
        self._errors.close()

    def _start(self) -> None:
        threads = dict.fromkeys(_THREADS, str(self.setup["threads"]))
        here = [os.path.abspath(part) for part in sys.path]
        paths = json.dumps([*here, *([cwd] if (cwd := os.getcwd()) not in here else [])])
        if self.closed.is_set():
            return
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the process that hands out the tasks
        )
        if self.closed.is_set():  # while it started, when `close` saw no process
            self.process.kill()
            self._bury(self.process)
            return
        reply = self._ask(self.setup)
        if reply is None:
            raise FinetuneError(f"labels cannot be computed: {self._epitaph()}")
        if "fault" in reply:
            raise RecipeError(reply["fault"])

    def _ask(self, content: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            return None
        try:
            self.process.stdin.write(json.dumps(content) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (OSError, ValueError):  # the latter where `close` came in between
            return None
        return json.loads(line) if line.endswith("\n") else None

    @staticmethod
    def _bury(process: subprocess.Popen[str]) -> int:
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what could not be sent to it
                if pipe is not None:
                    pipe.close()
        return process.wait()

    def _epitaph(self) -> str:
        """Say how the process ended, and forget it."""
        if self.process is None or self.closed.is_set():
            return "it was given up"
        code = self._bury(self.process)
        self.process = None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self._errors.seek(0)
        self._errors.truncate()
        if code == -signal.SIGKILL:
            return (
                "the process that computed it was killed (SIGKILL), which is what systems do when "
                "memory runs out: fewer --workers, or a machine with more memory"
            )
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the process that computed it ended ({ended}){': ' + last[:200] if last else ''}"


def compute_all(
    tasks: Sequence[Task],
    forces: bool,
    setup: Mapping[str, Any],
    workers: int,
    stopped: Callable[[], bool],
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yield tasks with what came of them, as they are done.

    Args:
        tasks: In the order in which they are begun.
        forces: Whether forces are wanted.
        setup: ``level``, ``elements``, ``threads``, ``memory``, ``folder``.
        workers: How many are at work at once.
        stopped: Whether to begin no further one; those begun are waited for.

    Raises:
        RecipeError: If the program cannot be opened.
        FinetuneError: If it dies as it is opened.
    """
    count = max(min(workers, len(tasks)), 1)
    folder = Path(setup["folder"])
    crew = [Worker({**setup, "folder": str(folder / f"worker-{i + 1}")}) for i in range(count)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in crew:
        idle.put(worker)

    def compute(task: Task) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.compute(task, forces)
        finally:
            idle.put(worker)

    rest = iter(tasks)
    running: dict[Future[dict[str, Any]], Task] = {}
    with ThreadPoolExecutor(count) as pool:
        try:
            while True:
                while not stopped() and len(running) < count and (task := next(rest, None)):
                    running[pool.submit(compute, task)] = task
                if not running:
                    return
                for done in wait(running, PATIENCE, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()
        finally:
            for worker in crew:
                worker.close()
            for place in (*(Path(worker.setup["folder"]) for worker in crew), folder):
                with suppress(OSError):  # calculators make one even where they leave nothing
                    place.rmdir()
