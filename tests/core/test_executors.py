"""How jobs end: what they raise and the death of their process; a diverging run is an outcome."""

import json
import operator
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune.core.errors import DataError, RunStoppedError, TrainingError
from finetune.core.executors import (
    Job,
    ThisProcess,
    WorkerDiedError,
    WorkerProcesses,
    result_of,
    work_through,
    worker_name,
)
from finetune.core.process import StopSignals
from finetune.studies import comparison
from tests.conftest import recipe_for
from tests.core.jobs import die, until_asked, until_told


def results(jobs: list[Job], executor: Executor, at_once: int = 1) -> dict[str, Any]:
    finished = work_through(jobs, executor, at_once, StopSignals().check)
    return {job.name: result_of(job, future) for job, future in finished}


def raising(error: Exception) -> Callable[..., NoReturn]:
    def function(*_: Any, **__: Any) -> NoReturn:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("CUDA out of memory.\nTried to allocate"), r"^it: CUDA out of memory\.$"),
        (RuntimeError(), r"^it: RuntimeError\.$"),
    ],
)
def test_what_pytorch_raises_stops_with_its_first_line(error: Exception, told: str) -> None:
    with pytest.raises(RunStoppedError, match=told):
        results([Job("it", raising(error))], ThisProcess())


def test_what_a_process_did_not_expect_is_told_by_its_parent() -> None:
    with (
        WorkerProcesses(1) as executor,
        pytest.raises(RunStoppedError, match="it ended with ZeroDivisionError: division by zero"),
    ):
        results([Job("it", operator.truediv, (1, 0))], executor)


def test_errors_keep_their_kind_and_name_the_job(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^it: no labels\.$"):
        results([Job("it", raising(DataError("no labels.")))], ThisProcess())
    with WorkerProcesses(1) as executor, pytest.raises(FileNotFoundError) as told:
        results([Job("it", os.rmdir, (str(tmp_path / "gone"),))], executor)
    assert told.value.filename == str(tmp_path / "gone")


def test_a_job_that_dies_takes_no_other_with_it_and_says_how_it_died() -> None:
    jobs = [Job(str(code), die, (code,)) for code in (3, 4)]
    jobs[1:1] = [Job(name, operator.mul, (name, 2)) for name in "abc"]
    found: dict[str, Any] = {}
    with WorkerProcesses(2, quiet=True) as executor:
        for job, future in work_through(jobs, executor, 2, lambda: False):
            died = isinstance(future.exception(), WorkerDiedError)
            found[job.name] = str(future.exception()) if died else future.result()
    ended = "the process that computed it ended (exit code {}): the last words"
    assert found == {
        **{name: 2 * name for name in "abc"},
        **{str(code): ended.format(code) for code in (3, 4)},
    }


def test_workers_have_names_and_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(f"name {n}", worker_name) for n in range(4)]
    with WorkerProcesses(2, threads=3) as executor:
        names = set(results(jobs, executor, 2).values())
        assert names <= {"worker-1", "worker-2"}
        assert results([Job("it", os.getenv, ("OMP_NUM_THREADS",))], executor) == {"it": "3"}


def test_ctrl_c_is_left_to_the_parent() -> None:
    with WorkerProcesses(1) as executor:
        process = executor.submit(os.getpid).result()
        future = executor.submit(time.sleep, 0.5)
        for number in (signal.SIGINT, signal.SIGTERM):  # as batch systems send them to all
            os.kill(process, number)
        assert future.result() is None
        assert executor.submit(os.getpid).result() == process


def test_jobs_are_asked_to_stop_and_waited_for_when_the_work_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "said"
    with WorkerProcesses(1, polite=True) as executor:
        future = executor.submit(until_asked, path)
        while not path.exists() or not path.read_text():
            assert not future.done()
            time.sleep(0.01)
    assert path.read_text() == "asked by SIGTERM"
    assert future.result() == "stopped"
    with WorkerProcesses(1, polite=True) as executor:
        future = executor.submit(time.sleep, 60)
        executor.submit(time.sleep, 60)
    with pytest.raises(WorkerDiedError, match="given up"):  # it does not listen to signals
        future.result()


def test_a_job_that_has_noted_a_signal_is_waited_for(tmp_path: Path) -> None:
    path, end = tmp_path / "said", tmp_path / "end"
    with WorkerProcesses(1, polite=True) as executor:
        executor.submit(until_told, path, end)
        while not path.exists() or not path.read_text():
            time.sleep(0.01)
        os.kill(int(path.read_text()), signal.SIGTERM)  # as batch systems send it to all
        threading.Timer(1.0, end.touch).start()
    assert path.read_text() == "saved"


@pytest.mark.parametrize("text", ["keeps diverging\nlook", ""])
def test_only_a_run_that_diverges_is_an_outcome(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, path = recipe_for(tmp_path, tmp_path / "run").written(), tmp_path / "seed-0.json"
    monkeypatch.setattr(comparison, "run", raising(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        comparison.run_arm(content, str(path))
    assert not path.exists()
    monkeypatch.setattr(comparison, "run", raising(TrainingError(text)))
    assert comparison.run_arm(content, str(path)).startswith("failed")
    assert json.loads(path.read_text()) == {"fault": text.split("\n")[0] or "TrainingError"}
