"""What a test is asked for and cannot do is said, before it begins."""

from pathlib import Path

import ase.io
import pytest
from ase.build import molecule

import finetune
from finetune.core.errors import DataError
from finetune.evaluation import scans
from finetune.evaluation.trajectory import Settings


def test_a_tag_that_no_structure_has_is_refused(workspace: Path) -> None:
    with pytest.raises(DataError, match="no structure has a 'config' to name its subset"):
        finetune.evaluate(
            workspace / "foundation", workspace / "test.xyz", subset_key="config", dtype="float32"
        )


def test_a_reference_of_other_atoms_is_refused(workspace: Path, tmp_path: Path) -> None:
    for name in ("CH4", "H2O"):
        ase.io.write(tmp_path / f"{name}.xyz", molecule(name))
    with pytest.raises(DataError, match="no structure of the reference has the same atoms"):
        finetune.md(
            workspace / "foundation",
            tmp_path / "CH4.xyz",
            reference=tmp_path / "H2O.xyz",
            settings=Settings(length=0.001),
            to=tmp_path / "md",
        )
    assert not (tmp_path / "md").exists()


def test_forgetting_says_what_it_lacks(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, water = workspace / "foundation", tmp_path / "H2O.xyz"
    ase.io.write(water, molecule("H2O"))
    alone = finetune.scan(path, water, only=("forgetting",), to=tmp_path / "a")
    assert alone.note == scans.NO_BASELINE and alone.forgetting == {}
    other = workspace / "foundation" / ".." / "foundation"  # the same under another name
    asked = []
    monkeypatch.setattr(scans, "elsewhere", lambda *given: asked.append(given) or [])
    found = finetune.scan(path, water, only=("forgetting",), against=other, to=tmp_path / "b")
    assert found.note == scans.NONE_AWAY and set(found.forgetting) == {"as given"}
    assert asked == [([1, 6, 7, 8], ["H2O"])]
