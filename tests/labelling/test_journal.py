"""Nothing that was computed is lost, nothing that failed is hidden, levels are not mixed."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase import Atoms

import finetune
from finetune.core.errors import DataError
from finetune.data.reading import read_structures
from finetune.labelling.journal import Journal
from finetune.labelling.recipe import AseLevel, identity
from finetune.labelling.task import Label
from tests.labelling.springs import SLOW, XTB, assert_springs, computed, pool_of, springs

pytest.importorskip("tblite")


@pytest.mark.slow
def test_failures_are_listed_kept_and_retried(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2, (2, 3, 4, 5)), tmp_path / "a.xyz"
    found = finetune.label(springs(pool, output, workers=2))
    assert found.labelled == 2
    assert_springs(read_structures(output))
    reasons = {failure.index: failure.reason for failure in found.failures}
    assert list(reasons) == [2, 3, 4, 5]
    for index, text in ((2, "not converge"), (3, "killed"), (4, "RuntimeError"), (5, "NaN")):
        assert text in reasons[index]
    assert f"'{pool}', structure 3" in found.failures[1].where
    record = json.loads((tmp_path / "a.xyz.json").read_text())
    assert [failure["index"] for failure in record["failures"]] == [2, 3, 4, 5]
    assert len(computed(output)) == 6
    again = finetune.label(springs(pool, output))
    assert (again.computed, again.failures) == (0, found.failures)
    retried = finetune.label(springs(pool, output), retry_failed=True)
    assert (retried.computed, retried.failures) == (4, found.failures)
    pool_of(pool, 4)  # more of them, and those that failed taken out
    more = finetune.label(springs(pool, output))
    assert (more.computed, more.labelled, more.failures) == (2, 4, ())
    ase.io.write(pool, Atoms([4], [[1.0, 0.0, 0.0]]))
    with pytest.raises(DataError, match=r"none of 1 structure has a label.*RuntimeError"):
        finetune.label(springs(pool, tmp_path / "none.xyz"))
    assert not (tmp_path / "none.xyz").exists()


def test_damage_of_a_journal_costs_a_calculation_not_a_label(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 3), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    journal = tmp_path / "a.xyz.journal"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"energy": ', b'"energy": 9')
    journal.write_bytes(b"\n".join(lines))
    mended = finetune.label(springs(pool, output))
    assert mended.computed == 1
    assert_springs(read_structures(output))
    journal.write_bytes(b"x" + journal.read_bytes())
    with pytest.raises(DataError, match="does not begin like a journal"):
        finetune.label(springs(pool, output))
    assert finetune.label(springs(pool, output), overwrite=True).computed == 3


def test_failures_alone_are_no_labels_of_another_level(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 1), tmp_path / "a.xyz"
    wrong = springs(pool, output)
    wrong["level"]["calculator"] = f"{SLOW.rpartition('.')[0]}.Broken"
    with pytest.raises(DataError, match=r"none of 1 structure has a label.*out of order"):
        finetune.label(wrong)
    assert finetune.label(springs(pool, output)).computed == 1
    with pytest.raises(DataError, match="another level of theory"):
        finetune.label(wrong)


def test_the_case_of_a_basis_set_makes_no_other_level(molecules: Path, tmp_path: Path) -> None:
    level = {"method": "hf", "basis": "STO-3G"}
    given = {"structures": f"{molecules}@1:2", "level": level, "output": str(tmp_path / "a.xyz")}
    assert finetune.label(given).computed == 1
    assert finetune.label({**given, "level": {**level, "basis": "sto-3g"}}).computed == 0


def test_more_cycles_are_the_same_level(molecules: Path, tmp_path: Path) -> None:
    recipe = {"structures": f"{molecules}@:2", "level": XTB, "output": f"{tmp_path}/a.xyz"}
    with pytest.raises(DataError, match="none of 2 structures has a label.*converge"):
        finetune.label(recipe, ["level.max_cycles=1"])
    with pytest.raises(DataError, match="converge"):
        finetune.label(recipe)
    assert finetune.label(recipe, retry_failed=True).labelled == 2


def level_with(arguments: dict[str, Any]) -> dict[str, Any]:
    return identity(AseLevel(program="ase", calculator=SLOW, arguments=arguments))


def test_the_case_of_a_path_makes_another_level_of_an_ase_calculator(tmp_path: Path) -> None:
    first = Journal.open(tmp_path / "journal", level_with({"model": "A.pt"}))
    first.add_label("key", asdict(Label(energy=1.0)), False)
    with pytest.raises(DataError, match=r"another level of theory \(arguments .*A.pt.*a.pt"):
        Journal.open(first.path, level_with({"model": "a.pt"}))
    assert Journal.open(first.path, level_with({"model": "A.pt"})).labels == first.labels


@pytest.mark.parametrize("value", [math.inf, math.nan, [-math.inf, {"x": "A"}]])
def test_arguments_are_the_same_level_when_they_are_read_again(value: Any, tmp_path: Path) -> None:
    passed_on = json.loads(json.dumps(level_with({"x": value})))
    assert repr(passed_on["arguments"]) == repr({"x": value})
    first = Journal.open(tmp_path / "journal", level_with({"x": value, "y": 1}))
    first.add_label("key", asdict(Label(energy=1.0)), False)
    assert Journal.open(first.path, level_with({"y": 1, "x": value})).labels == first.labels
    with pytest.raises(DataError, match="another level of theory"):
        Journal.open(first.path, level_with({"x": None, "y": 1}))
