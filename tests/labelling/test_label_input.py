"""Recipes and arguments that cannot be meant are refused in one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune.commands import app
from finetune.core.errors import FinetuneError, RecipeError
from finetune.labelling.recipe import LabelRecipe
from tests.labelling.springs import XTB, pool_of

pytest.importorskip("tblite")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": {"program": "tblit"}}, "Did you mean 'tblite'?"),
        ({"level": {"program": "tblite", "basis": "x"}}, "level.basis: unknown key"),
        ({"level": {"method": "hf", "frozen_core": 1.5}}, "level.frozen_core"),
        ({"level": {"basis": ""}}, "level.basis: name a basis set"),
        ({"level": "hf"}, "level: write `level:"),
        ({"structures": []}, "structures: name at least one file"),
        ({"structures": "nowhere.xyz"}, "no structure file 'nowhere.xyz'"),
        ({"workers": 0}, "workers: must be at least 1"),
        ({"forces": "yes please"}, "forces"),
        ({"isolated_atoms": ["Xx"]}, "'Xx' is not an element"),
        ({"charge": 0.5}, "charge: must be a whole number"),
        ({"output": "labels.txt"}, "does not tell the format"),
        ({"output": "."}, "is a folder. Name a file to write"),
        ({"output": "folder.xyz"}, "e.g. 'folder.xyz/structures.xyz'"),
        ({"output": "no/such/folder/a.xyz"}, "there is no folder"),
        ({"output": "pool.xyz"}, "is an input: name another"),
        ({"output": "mine.xyz"}, "is not as this command left it"),
        (
            {"forces": True, "level": {"method": "mp2", "density_fitting": True}},
            "not available",
        ),
        ({"level": {"program": "ase", "calculator": "EMT"}}, "level.calculator"),
        ({"level": {"program": "ase", "calculator": "no.such.thing"}}, "cannot be imported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool_of(tmp_path / "pool.xyz", 1)
    (tmp_path / "mine.xyz").write_text("mine")
    (tmp_path / "folder.xyz").mkdir()
    recipe = {"structures": "pool.xyz", "level": XTB, "output": "a.xyz", **changes}
    Path("label.yaml").write_text(json.dumps(recipe))
    done = CliRunner().invoke(app, ["label", "label.yaml"])
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    left = {path.name for path in tmp_path.iterdir()} - {"a.xyz.journal"}
    assert left == {"pool.xyz", "mine.xyz", "folder.xyz", "label.yaml"}
    assert not list((tmp_path / "folder.xyz").iterdir())
    assert (tmp_path / "mine.xyz").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to label"),
        (["pool.xyz"], "name the file to write"),
        (["a.yaml", "b.yaml"], "one recipe at a time"),
        (["missing.yaml"], "no recipe at 'missing.yaml'"),
        (["quickstart.yaml"], "for `piwsl-finetune run`"),
        (["pool.xyz", "--to", "a.xyz", "levl.method=hf"], "Did you mean 'level'?"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("foundation: x\n")
    done = CliRunner().invoke(app, ["label", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_options_of_another_program_are_dropped_with_it() -> None:
    recipe = {"structures": "a", "output": "b.xyz", "level": {"method": "hf", "basis": "sto-3g"}}
    found = LabelRecipe.parse(recipe, ["level.program=tblite"])
    assert found.level.name == "GFN2-xTB"
    with pytest.raises(FinetuneError):
        LabelRecipe.parse(recipe, ["level"])
    with pytest.raises(RecipeError, match="unknown key"):
        LabelRecipe.parse({**recipe, "foo": 1})
