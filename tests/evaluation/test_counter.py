"""How far a long measurement is, with and without a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from finetune.core import counter
from finetune.core.counter import Counter
from finetune.evaluation.dynamics import run_all
from tests.evaluation.springs import Springs
from tests.evaluation.test_stability import NVE, NVT, SHORT, water


def test_without_a_terminal_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(counter.time, "monotonic", lambda: now)
    shown = io.StringIO()
    with Counter(Console(file=shown)).start(400) as counted:
        counted.name("first")
        for _ in range(400):
            now += 0.5
            counted.advance(1)
    assert shown.getvalue().splitlines() == [
        "first: 30 % of all, 1 min so far",
        "first: 60 % of all, 2 min so far",
        "first: 90 % of all, 3 min so far",
    ]


def test_a_test_without_a_terminal_tells_of_every_trajectory(tmp_path: Path) -> None:
    shown = []
    for tasks in ([NVE], [NVE, NVT], [NVE, NVT]):
        text = io.StringIO()
        console = Counter(Console(file=text, width=200))
        run_all({"a": Springs()}, {"a": ""}, [water()], [[]], tasks, SHORT, tmp_path, console)
        shown.append(text.getvalue().splitlines())
    assert shown == [
        ["trajectories to run: 1, of 100 steps each", f"a {NVE.name}: held for 0.05 ps"],
        [
            "trajectories to run: 1, of 100 steps each; done before: 1",
            f"a {NVT.name}: held for 0.05 ps",
        ],
        [],
    ]
