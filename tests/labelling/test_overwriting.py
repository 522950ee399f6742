"""What is there goes only where it is to, and once there is something in its place."""

from pathlib import Path

import pytest

import finetune
from finetune.errors import DataError, FinetuneError
from tests.labelling.springs import pool_of, springs


def test_overwriting_by_mistake_loses_no_label(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    pool, output = pool_of(tmp_path / "pool.xyz", 3), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    wrong = {**springs(pool, output), "level": {"method": "hf", "basis": "no-such-basis"}}
    with pytest.raises(FinetuneError, match="no basis set"):
        finetune.label(wrong, overwrite=True)
    assert finetune.label(springs(pool, output)).computed == 0
    assert not list(tmp_path.glob("*.before"))


def test_an_output_that_was_edited_is_not_replaced(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    output.write_text(output.read_text() + "\n")
    with pytest.raises(DataError, match="not as this command left it"):
        finetune.label(springs(pool, output))
    assert finetune.label(springs(pool, output), overwrite=True).computed == 2
