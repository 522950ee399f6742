"""Memory does not grow over a long run."""

from pathlib import Path

import psutil
import pytest

import finetune
from finetune.training.loop import Trainer
from tests.conftest import recipe_for


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
