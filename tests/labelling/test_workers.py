"""Calculations side by side give what one after the other gives, and do not meet."""

import pickle
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.core.executors import Worker, WorkerDiedError
from finetune.data.reading import read_structures
from tests.labelling.springs import XTB, assert_springs, pool_of, springs

pytest.importorskip("tblite")


def test_a_worker_that_is_stopped_as_it_starts_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, made, stopping = Worker({}, quiet=True, polite=False), [], []
    start = subprocess.Popen

    def slow_start(*given: Any, **options: Any) -> Any:
        stopping.append(threading.Thread(target=worker.stop))
        stopping[0].start()
        made.append(start(*given, **options))
        return made[0]

    monkeypatch.setattr(subprocess, "Popen", slow_start)
    with pytest.raises(WorkerDiedError, match="it was given up"):
        worker.do(pickle.dumps((time.sleep, (60,), {})))
    stopping[0].join()
    worker.close()
    assert made[0].returncode == -signal.SIGKILL
    with pytest.raises(WorkerDiedError, match="it was given up"):
        worker.do(pickle.dumps((time.sleep, (60,), {})))
    assert len(made) == 1


def test_several_workers_give_what_one_gives(molecules: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        finetune.label(
            {"structures": str(molecules), "level": XTB, "output": f"{tmp_path}/{workers}.xyz"},
            [f"workers={workers}"],
        )
    assert (tmp_path / "1.xyz").read_text() == (tmp_path / "2.xyz").read_text()


def test_workers_have_their_threads_and_compute_side_by_side(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 6), tmp_path / "a.xyz"
    finetune.label(springs(pool, output, 0.5, workers=3, threads=2))
    assert_springs(read_structures(output))
    lines = output.with_suffix(".log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["2"] * 6
    assert not (tmp_path / "a.xyz.files").exists()


@pytest.mark.slow
def test_programs_that_work_with_files_do_not_meet(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 6, (2, 3)), tmp_path / "a.xyz"
    recipe = springs(pool, output, workers=3, forces=False)
    recipe["level"] = {"program": "ase", "calculator": "tests.labelling.file_calculator.Springs"}
    found = finetune.label(recipe)
    for item in read_structures(output):
        assert item.energy == pytest.approx((item.positions**2).sum())
    assert [failure.index for failure in found.failures] == [6, 7]
    for failure in found.failures:  # no answer is none, not that of the structure before
        (place,) = re.findall(r"its files: (a\.xyz\.files/failed-\w+)", failure.reason)
        left = sorted(path.name for path in (tmp_path / place).iterdir())
        assert left == ["springs.in", "springs.log"]
        said = (tmp_path / place / "springs.log").read_text()
        assert ("no basis for He" in said) == (failure.index == 6)
