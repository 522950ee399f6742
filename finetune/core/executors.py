"""Where jobs run: in this process, or in worker processes whose death costs only one job.

Both places are executors as in `concurrent.futures`, so that another one can stand in for them. A
job is a function of a module with arguments and a result that can be pickled.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import Any

from finetune.core.errors import FinetuneError, RunStoppedError, reason
from finetune.core.process import SIGNALS, StopSignals

PATIENCE = 0.2
"""Seconds between two looks at whether to stop."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_NAME = "PIWSL_FINETUNE_WORKER"
_GIVEN_UP = "it was given up"
_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from finetune.core.executors import serve; serve(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True)
class Job:
    """One piece of work: a function of a module, with arguments and a result to be pickled."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


class WorkerDiedError(RuntimeError):
    """The process of a job ended before the job did; the message says how."""


def work_through(
    jobs: Iterable[Job], executor: Executor, at_once: int, stopped: Callable[[], bool | None]
) -> Iterator[tuple[Job, Future[Any]]]:
    """Yield jobs as they are done, with futures that have their results or errors.

    The next job is taken when fewer than ``at_once`` run. ``stopped`` is asked before each job and
    while waiting: if it is true, no further job begins, and those begun are waited for. What it
    raises ends the work.
    """
    rest = iter(jobs)
    running: dict[Future[Any], Job] = {}
    while True:
        while len(running) < at_once and not stopped() and (job := next(rest, None)) is not None:
            running[executor.submit(job.function, *job.arguments)] = job
        if not running:
            return
        finished = wait(running, PATIENCE, return_when=FIRST_COMPLETED).done
        for future in finished:
            yield running.pop(future), future
        if not finished:
            stopped()


def result_of(job: Job, future: Future[Any]) -> Any:
    """Return what a job returned; what else it raised names the job.

    Raises RunStoppedError if it was stopped, its process died, or PyTorch failed, for example for
    lack of memory on a GPU: it can be done again.
    """
    try:
        return future.result()
    except RunStoppedError:
        raise
    except FinetuneError as error:
        raise type(error)(f"{job.name}: {error}") from error
    except RuntimeError as error:
        raise RunStoppedError(f"{job.name}: {reason(error).rstrip('.')}.") from error


class ThisProcess(Executor):
    """Does each job in this process, when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do a job; return a future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerProcesses(Executor):
    """Processes that each do one job after another; ``threads`` of each are for OpenMP and BLAS.

    A process starts with its first job. Where one dies its job fails with `WorkerDiedError`, and
    another process takes the next job. None of them outlives this process. ``quiet`` keeps what
    they print from the terminal. When the work ends early, ``polite`` asks jobs that catch SIGTERM
    (see `StopSignals`) to stop and waits for them; otherwise the processes are killed.
    """

    def __init__(
        self, count: int, threads: int | None = None, quiet: bool = False, polite: bool = False
    ) -> None:
        environment = dict.fromkeys(_THREADS, str(threads)) if threads else {}
        self._workers = [
            Worker({**environment, _NAME: f"worker-{number}"}, quiet, polite)
            for number in range(1, count + 1)
        ]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(count)  # a thread waits for each process

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a job to the next process that is free."""
        return self._pool.submit(self._do, pickle.dumps((fn, args, kwargs)))

    def _do(self, request: bytes) -> Any:
        worker = self._idle.get()
        try:
            return worker.do(request)
        finally:
            self._idle.put(worker)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not begun and end the processes: see ``polite``."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        if wait:
            self._pool.shutdown()
            for worker in self._workers:
                worker.close()


class Worker:
    """One process of `WorkerProcesses`, with further environment variables."""

    def __init__(self, environment: dict[str, str], quiet: bool, polite: bool) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment
        self._polite = polite
        self._printed = tempfile.TemporaryFile(buffering=0) if quiet else None  # noqa: SIM115
        self._stopped = False
        self._starting = threading.Lock()

    def do(self, request: bytes) -> Any:
        """Do a pickled job; raise what it raises, or WorkerDiedError if its process dies."""
        if self.process is None:
            self._start()
        try:
            self._requests.send_bytes(request)
            result, error = pickle.loads(self._answers.recv_bytes())
        except (OSError, EOFError):
            raise WorkerDiedError(self._epitaph()) from None
        self._last_line()  # what is printed is of interest after a death only
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        """Have the process end: at once, or as soon as its job does."""
        with self._starting:
            self._stopped = True
            if self.process is not None:
                self._requests.close()
                if not self._polite:
                    self.process.kill()

    def close(self) -> None:
        """Wait until the process has ended; call it when no job is under way."""
        if self.process is not None:
            self.process.wait()
            self._answers.close()
        if self._printed is not None:
            self._printed.close()

    def _start(self) -> None:
        here = [os.path.abspath(part) for part in sys.path]
        paths = json.dumps([*here, *([cwd] if (cwd := os.getcwd()) not in here else [])])
        theirs, self._requests = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        handles = (theirs.fileno(), answers.fileno())
        with theirs, answers, self._starting:
            if self._stopped:
                raise WorkerDiedError(_GIVEN_UP)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, paths, *map(str, handles)],
                stdin=subprocess.DEVNULL,
                stdout=self._printed or 2,
                stderr=self._printed,
                env={**os.environ, **self._environment},
                pass_fds=handles,
                start_new_session=True,  # Ctrl-C is for the process that hands out the jobs
            )

    def _epitaph(self) -> str:
        """Say how the process ended, and forget it."""
        if self._stopped or self.process is None:
            return _GIVEN_UP
        code = self.process.wait()
        self.process = None
        self._requests.close()
        self._answers.close()
        last = self._last_line()
        if code == -signal.SIGKILL:
            return (
                "the process that computed it was killed (SIGKILL), usually because memory ran "
                "out: run fewer at a time, or take a machine with more memory"
            )
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the process that computed it ended ({ended}){last}"

    def _last_line(self) -> str:
        """Return the last line that was printed, after a colon, and forget all lines."""
        if self._printed is None:
            return ""
        end = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(end - 1000, 0))
        lines = self._printed.read().decode(errors="replace").split("\n")
        self._printed.seek(0)  # where the process writes on
        self._printed.truncate()
        return next((f": {text[:200]}" for line in lines[::-1] if (text := line.strip())), "")


def worker_name() -> str:
    """Return a name of this process that no other worker has at the same time."""
    return os.environ.get(_NAME) or f"worker-{socket.gethostname()}-{os.getpid()}"


def serve(requests: int, answers: int) -> None:
    """Do the jobs that come in by file descriptors, one after another: what a worker does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # batch systems send them to all processes of a job
    for handle in (requests, answers):
        os.set_inheritable(handle, False)
    jobs: SimpleQueue[bytes | None] = SimpleQueue()
    incoming = Connection(requests, writable=False)
    threading.Thread(target=_listen, args=(incoming, jobs), daemon=True).start()
    outgoing = Connection(answers, readable=False)
    with suppress(BrokenPipeError):  # nobody listens any more
        while (job := jobs.get()) is not None:
            outgoing.send_bytes(_answer(job))


def _listen(requests: Connection, jobs: SimpleQueue[bytes | None]) -> None:
    """Take in jobs until no more can come; then ask a job that catches SIGTERM to stop, or exit."""
    with suppress(EOFError):
        while True:
            jobs.put(requests.recv_bytes())
    jobs.put(None)
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)
    elif not StopSignals.noted:  # a job that has noted a signal is about to stop
        os._exit(0)


def _answer(job: bytes) -> bytes:
    """Do a job; return its result and error, pickled."""
    try:
        function, arguments, named = pickle.loads(job)
        return pickle.dumps((function(*arguments, **named), None))
    except Exception as error:
        if isinstance(error, (FinetuneError, OSError, RuntimeError)):
            with suppress(Exception):
                answer = pickle.dumps((None, error))
                pickle.loads(answer)  # errors may need more than their message
                return answer
        traceback.print_exc()
        why = f"it ended with {type(error).__name__}: {reason(error).rstrip('.')}"
        return pickle.dumps((None, RuntimeError(why)))
