"""Kills and signals lose at most what is in progress."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import finetune
from finetune.data.reading import read_structures
from tests.labelling.springs import ROOT, assert_springs, computed, pool_of, springs


def command(recipe: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "finetune", "label", str(recipe), "--plain"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def begun(output: Path, count: int) -> None:
    deadline = time.time() + 600
    while len(computed(output)) < count:
        assert time.time() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_kill_loses_what_is_in_progress_alone(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 9), tmp_path / "a.xyz"
    recipe = tmp_path / "label.yaml"
    recipe.write_text(json.dumps(springs(pool, output, 0.3, workers=2)))
    with command(recipe) as process:
        begun(output, 5)
        process.kill()
    assert not output.exists()
    journal = output.with_name("a.xyz.journal")
    stored = len(journal.read_bytes().splitlines()) - 1
    assert stored >= len(computed(output)) - 2
    with journal.open("ab") as file:
        file.write(b'0123456789abcdef {"key": "cut sh')
    time.sleep(0.5)  # workers end with the one that they work for
    before = len(computed(output))
    done = finetune.label(json.loads(recipe.read_text()))
    assert (done.labelled, done.failures) == (9, ())
    assert "1 damaged line of" in done.notes[0]
    assert len(computed(output)) == before + done.computed <= 9 + 2
    assert_springs(read_structures(output))


def test_a_signal_waits_for_what_is_begun_and_says_how_to_go_on(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 9), tmp_path / "a.xyz"
    recipe = tmp_path / "label.yaml"
    recipe.write_text(json.dumps(springs(pool, output, 0.3)))
    with command(recipe) as process:
        begun(output, 2)
        process.send_signal(signal.SIGTERM)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopping: waiting for calculations in progress" in shown
    assert f"resume with  piwsl-finetune label {recipe}" in errors
    stored = len(computed(output))
    assert f"{stored} of 9 computed" in errors
    some = finetune.label(json.loads(recipe.read_text()), collect=True)
    assert (some.labelled, some.computed) == (stored, 0)
    assert some.failures[0].reason == "not computed yet."
    assert finetune.label(json.loads(recipe.read_text())).computed == 9 - stored


@pytest.mark.slow
def test_a_signal_to_all_processes_makes_no_failures(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 9), tmp_path / "a.xyz"
    recipe = tmp_path / "label.yaml"
    recipe.write_text(json.dumps(springs(pool, output, 0.3)))
    with command(recipe) as process:
        begun(output, 2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            process.kill()
            pytest.skip("the system does not tell the children of a process")
        threads = children.parent.parent.iterdir()
        found = [int(c) for t in threads for c in (t / "children").read_text().split()]
        assert found
        for number in (*found, process.pid):
            os.kill(number, signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    done = finetune.label(json.loads(recipe.read_text()))
    assert (done.labelled, done.failures) == (9, ())
    assert len(computed(output)) == 9
