"""Memory does not grow over a long run."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import finetune
from finetune.training.loop import Trainer
from tests.conftest import recipe_for


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")
def test_memory_is_that_of_the_process_alone() -> None:
    """A process inherits the largest size of the one that started it in what getrusage says."""
    ballast = b"x" * 2**30
    code = "import torch; from finetune.devices import peak_memory as peak; "
    code += "print(peak(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    assert 2**24 < int(done.stdout) < len(ballast)


@pytest.mark.slow
def test_two_thousand_steps_take_no_more_memory_than_two_hundred(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident: dict[int, int] = {}
    step = Trainer._step

    def watched(self: Trainer, pieces: object) -> None:
        step(self, pieces)  # type: ignore[arg-type]
        resident[self.progress.step] = psutil.Process().memory_info().rss

    monkeypatch.setattr(Trainer, "_step", watched)
    finetune.run(recipe_for(workspace, tmp_path / "run", train={"epochs": 700, "max_steps": 2000}))
    assert max(resident) == 1999
    growth = (resident[1999] - resident[200]) / 2**20
    print(f"resident size grew by {growth:.1f} MiB between steps 200 and 2,000")
    assert growth < 20
