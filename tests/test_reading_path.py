"""A run is short to read: few frames, and few files, lie between the command and the first loss."""

import inspect
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import finetune
from finetune.commands.training import run
from finetune.losses.supervised import EnergyLoss
from tests.conftest import recipe_for

PACKAGE = str(Path(finetune.__file__).parent)
MOST_FRAMES, MOST_FILES = 8, 50


class FirstLossError(BaseException):
    """Ends the run where the first loss is evaluated."""


def test_from_the_command_to_the_first_loss(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[str] = []
    files: set[str] = set()

    def first_loss(*_: object) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                frames.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
            frame = frame.f_back
        raise FirstLossError

    def called(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        function = code.co_flags & inspect.CO_NEWLOCALS  # not the body of a module or a class
        if event == "call" and function and code.co_filename.startswith(PACKAGE):
            files.add(code.co_filename)

    monkeypatch.setattr(EnergyLoss, "__call__", first_loss)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        recipe_for(workspace, tmp_path / "run", losses={"energy": {}}).dump(), encoding="utf-8"
    )
    sys.setprofile(called)
    try:
        with pytest.raises(FirstLossError):
            run(str(recipe), quiet=True)
    finally:
        sys.setprofile(None)
    assert len(frames) + 1 <= MOST_FRAMES, frames  # and that of the loss itself
    assert len(files) <= MOST_FILES, sorted(files)
