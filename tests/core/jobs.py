"""Jobs for worker processes; nothing that takes long is imported."""

import os
import time
from pathlib import Path

from finetune.core.process import StopSignals


def die(code: int) -> None:
    print("the last words")
    os._exit(code)


def until_asked(path: Path) -> str:
    """Work until SIGTERM is noted."""
    with StopSignals() as signals:
        path.write_text(str(os.getpid()))
        while signals.received is None:
            time.sleep(0.01)
    path.write_text(f"asked by {signals.received.name}")
    return "stopped"


def until_told(path: Path, end: Path) -> str:
    """Note a signal, and work on until a file is there."""
    with StopSignals() as signals:
        path.write_text(str(os.getpid()))
        while signals.received is None or not end.exists():
            time.sleep(0.01)
    path.write_text("saved")
    return "stopped"
