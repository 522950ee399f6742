"""What a person sees while a run goes on."""

import io

import pytest
from rich.console import Console

from finetune.training.records import Bar, Plain, Reporter, Silent, reporter_for

RECORD = {
    "epoch": 7,
    "train/loss": 1.54e-5,
    "loss/energy": 1.2e-5,
    "loss/pitc": 3.4e-6,
    "loss/cells": 0.0,
    "loss/own": 5e-7,
    "residual/energy": 0.00346,
    "residual/pitc": 0.0058,
    "residual/cells": 0.01,
    "units": {"energy": "eV/atom", "pitc": "eV", "cells": "eV/Å³"},
    "valid/energy_per_atom_mae": 0.00212,
    "valid/forces_mae": 0.0541,
}


def shown(reporter: Reporter, console: Console) -> str:
    with reporter:
        reporter.say("a path with [brackets]")
        reporter.start(20)
        reporter.epoch(RECORD)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_bar_has_epoch_time_left_losses_and_errors_in_eighty_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    text = shown(Bar(console), console)
    for part in ("7/20", "left", "loss 1.54e-05", "energy 3.46 meV/atom", "pitc 5.8 meV"):
        assert part in text
    assert "cells 1.6 GPa" in text
    assert "own 5.00e-07" in text  # a loss of one's own that names no unit
    assert "valid E 2.12 meV/atom" in text
    assert "54.10 meV/Å" in text
    assert "[brackets]" in text


def test_logs_are_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=80)
    text = shown(Plain(console), console)
    assert "epoch 7/20  loss 1.54e-05  energy 3.46 meV/atom" in text
    assert "\x1b" not in text
    assert text.count("\n") == 2


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"),
    [(True, False, Bar), (False, False, Plain), (True, True, Silent)],
)
def test_the_reporter_suits_the_console(terminal: bool, quiet: bool, kind: type) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert type(reporter_for(console, quiet)) is kind
