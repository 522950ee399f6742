"""Work through independent jobs, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from finetune.core.errors import FinetuneError, RunStoppedError, reason
from finetune.core.interruption import StopSignals
from finetune.studies.trial_training import check_signals

POLL = 0.5
"""Seconds between looks at signals and at the parent process."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: What it is called when it is done.
        function: Does it; of a module, so that another process finds it.
        arguments: Its arguments, which can be pickled.
    """

    name: str
    function: Callable[..., str]
    arguments: tuple[Any, ...]


def work_through(
    jobs: Sequence[Job], processes: int, signals: StopSignals, say: Callable[[str], None]
) -> None:
    """Do all jobs; say of each what its function returns.

    With several processes, each has its share of the cores. When a job fails or a signal comes, the
    others are asked to stop.

    Args:
        jobs: What to do, in this order.
        processes: How many at a time; 1 works in this process.
        signals: Those that came in so far.
        say: Told of each job that is done.

    Raises:
        RunStoppedError: On a signal, and where a job ends as of no memory: it can be done again.
        FinetuneError: What a job raised.
    """
    done = (f"{number}/{len(jobs)} " for number in range(1, len(jobs) + 1))
    if processes == 1:
        for job in jobs:
            check_signals(signals)
            told = _done(job)
            say(f"{next(done)}{job.name}: {told}")
        return
    waiting = list(jobs)
    running: dict[Connection, tuple[Job, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                connection, process = _start(waiting[0], processes)
                running[connection] = (waiting.pop(0), process)
            ready = wait(list(running), timeout=POLL)
            for connection in [item for item in running if item in ready]:
                job, process = running.pop(connection)
                told = _outcome(job, connection, process)
                say(f"{next(done)}{job.name}: {told}")
            check_signals(signals)
    finally:
        for _, process in running.values():
            process.terminate()
        for connection, (_, process) in running.items():
            process.join()
            connection.close()


def _start(job: Job, processes: int) -> tuple[Connection, BaseProcess]:
    import torch

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    threads = max(torch.get_num_threads() // processes, 1)
    process = context.Process(target=_work, args=(job, there, threads, os.getpid()))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()  # inherits what is blocked: Ctrl-C is for the parent, which asks it to stop
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    return here, process


def _outcome(job: Job, connection: Connection, process: BaseProcess) -> str:
    """Return what a job's function returned.

    Raises:
        FinetuneError: What it raised, or that its process died.
    """
    try:
        fault, code, told = connection.recv()
    except EOFError:
        process.join()
        raise RunStoppedError(
            f"the process of {job.name} died with code {process.exitcode} (out of memory?)."
        ) from None
    finally:
        connection.close()
    process.join()
    if not fault:
        return str(told)
    raise RunStoppedError(told, code) if fault == "stopped" else FinetuneError(told)


def _done(job: Job) -> str:
    """Do a job; return what its function returns.

    Raises:
        RunStoppedError: On a signal, and for what PyTorch raises, such as no memory on a GPU.
        FinetuneError: What else the function raised, naming the job.
    """
    try:
        return job.function(*job.arguments)
    except RunStoppedError:
        raise
    except FinetuneError as error:
        raise type(error)(f"{job.name}: {error}") from error
    except RuntimeError as error:
        raise RunStoppedError(f"{job.name}: {reason(error).rstrip('.')}.") from error


def _work(job: Job, connection: Connection, threads: int, parent: int) -> None:
    """Do a job in a process of its own."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    try:
        outcome = ("", 0, _done(job))
    except RunStoppedError as error:
        outcome = ("stopped", error.exit_code, str(error))
    except (FinetuneError, OSError) as error:
        outcome = ("failed", 2, str(error))
    except Exception as error:
        told = f"{job.name} ended with {type(error).__name__}: {reason(error).rstrip('.')}."
        connection.send(("stopped", 2, told))
        raise
    connection.send(outcome)
    connection.close()


def _stop_with(parent: int) -> None:
    """Stop this process politely when its parent is gone, as after a kill."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
