"""What ends a job is told; what diverges is an outcome, and nothing else is."""

import json
import operator
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune.core.errors import DataError, RunStoppedError, TrainingError
from finetune.core.interruption import StopSignals
from finetune.studies import arm_work as work
from finetune.studies.executors import Job, _outcome, _start, work_through
from tests.conftest import recipe_for


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
        work_through([Job("it", raising(error), ())], 1, StopSignals(), print)


def test_what_a_process_did_not_expect_is_told_by_its_parent() -> None:
    jobs = [Job("it", operator.truediv, (1, 0))]
    with pytest.raises(RunStoppedError, match="it ended with ZeroDivisionError: division by zero"):
        work_through(jobs, 2, StopSignals(), print)


def test_what_a_job_raises_names_it() -> None:
    jobs = [Job("it", raising(DataError("no labels.")), ())]
    with pytest.raises(DataError, match=r"^it: no labels\.$"):
        work_through(jobs, 1, StopSignals(), print)


def test_ctrl_c_is_left_to_the_parent() -> None:
    job = Job("it", time.sleep, (0.5,))
    connection, process = _start(job, 2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert _outcome(job, connection, process) == "None"


@pytest.mark.parametrize("text", ["keeps diverging\nlook", ""])
def test_only_a_run_that_diverges_is_an_outcome(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, path = recipe_for(tmp_path, tmp_path / "run").written(), tmp_path / "seed-0.json"
    monkeypatch.setattr(work, "run", raising(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        work.run_arm(content, str(path))
    assert not path.exists()
    monkeypatch.setattr(work, "run", raising(TrainingError(text)))
    assert work.run_arm(content, str(path)).startswith("failed")
    assert json.loads(path.read_text()) == {"fault": text.split("\n")[0] or "TrainingError"}
