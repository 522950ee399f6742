"""What is there goes only where it is to, and once there is something in its place."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import finetune
from finetune.core.counter import Counter
from finetune.core.errors import DataError, FinetuneError
from finetune.labelling.journal import Journal
from tests.labelling.springs import pool_of, springs

BROKEN = "tests.labelling.slow_calculator.Broken"


def test_overwriting_by_mistake_loses_no_label(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    pool, output = pool_of(tmp_path / "pool.xyz", 3), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    wrong = {**springs(pool, output), "level": {"method": "hf", "basis": "no-such-basis"}}
    with pytest.raises(FinetuneError, match="no basis set"):
        finetune.label(wrong, overwrite=True)
    assert finetune.label(springs(pool, output)).computed == 0
    assert not list(tmp_path.glob("*.before"))


def failing(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "level": {**recipe["level"], "calculator": BROKEN}}


def test_overwriting_with_failures_alone_loses_no_label(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    written, shown = output.read_bytes(), StringIO()
    with pytest.raises(DataError, match="none of 2 structures has a label"):
        finetune.label(
            failing(springs(pool, output)), overwrite=True, counter=Counter(Console(file=shown))
        )
    assert "a.xyz.journal' is as it was" in "".join(shown.getvalue().split("\n"))
    assert not list(tmp_path.glob("*.before"))
    assert output.read_bytes() == written
    assert finetune.label(springs(pool, output)).computed == 0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failed", [False, True])
def test_a_kill_before_the_first_new_label_loses_none(
    failed: bool, overwrite: bool, tmp_path: Path
) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 1), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    journal = tmp_path / "a.xyz.journal"
    content = journal.read_bytes()
    before = journal.rename(tmp_path / "a.xyz.journal.before")
    if failed:
        Journal.open(journal, {"program": "tblite"}).add_failure("key", "no convergence")
    if overwrite:
        with pytest.raises(DataError, match="none of 1 structure has a label"):
            finetune.label(failing(springs(pool, output)), overwrite=True)
    else:
        found = finetune.label(springs(pool, output))
        assert found.computed == 0
        assert "has its former labels again" in found.notes[0]
    assert journal.read_bytes() == content
    assert not before.exists()


@pytest.mark.slow
def test_a_kill_after_the_first_new_label_keeps_the_former_until_the_output_is_there(
    tmp_path: Path,
) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2), tmp_path / "a.xyz"
    recipe = springs(pool, output)
    finetune.label(recipe)
    journal = tmp_path / "a.xyz.journal"
    begun = b"".join(journal.read_bytes().splitlines(keepends=True)[:2])
    before = journal.rename(tmp_path / "a.xyz.journal.before")
    former = before.read_bytes()
    journal.write_bytes(begun)
    for given, overwrite, message in (
        (recipe, True, "Continue without --overwrite, or remove"),
        (failing(recipe), False, "another level of theory"),
    ):
        with pytest.raises(DataError, match=message):
            finetune.label(given, overwrite=overwrite)
        assert (before.read_bytes(), journal.read_bytes()) == (former, begun)
    assert finetune.label(recipe).computed == 1
    assert not before.exists()


def test_an_output_that_was_edited_is_not_replaced(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    output.write_text(output.read_text() + "\n")
    with pytest.raises(DataError, match="not as this command left it"):
        finetune.label(springs(pool, output))
    assert finetune.label(springs(pool, output), overwrite=True).computed == 2
