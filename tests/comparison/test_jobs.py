"""What ends a job is told; what diverges is an outcome, and nothing else is."""

import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune.comparison import work
from finetune.comparison.jobs import Job, work_through
from finetune.errors import RunStoppedError, TrainingError
from finetune.training.interruption import StopSignals
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
