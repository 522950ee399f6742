"""The page on adapters of one's own: its code works, without touching the package."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import finetune
import finetune.testing
from finetune.core.errors import FoundationError
from finetune.potentials.description import describe
from finetune.recipe.plugins import adapters
from tests import pages
from tests.conftest import recipe_for

ROOT = Path(finetune.__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "custom_adapters.md"
SUITES = ("TestScaleShift", "TestShiftAlone", "TestResidual")
WITH_RUNS = {"test_a_run_is_resumed_opened_and_exported", "test_two_processes_train_as_one"}
CHECKS = sorted(name for name in dir(finetune.testing.AdapterSuite) if name.startswith("test_"))


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pages.module(PAGE, tmp_path_factory.mktemp("page"), "test_my_adapters") as found:
        yield found


@pytest.mark.parametrize(
    ("suite", "check"),
    [
        pytest.param(suite, check, marks=[pytest.mark.slow] * (check in WITH_RUNS or alone))
        for suite in SUITES
        for check in CHECKS
        for alone in (suite == "TestShiftAlone" and "merging" not in check,)
    ],
)
def test_the_suite_holds_for_the_page_s_adapters(page: ModuleType, suite: str, check: str) -> None:
    getattr(getattr(page, suite)(), check)()


@pytest.fixture(scope="module")
def trained(
    page: ModuleType, tmp_path_factory: pytest.TempPathFactory, workspace: Path
) -> dict[str, Any]:
    """The names that the page's run defines."""
    folder = tmp_path_factory.mktemp("trained")
    (code,) = (code for code in blocks("python") if "finetune.run(" in code)
    recipe = folder / "quickstart.yaml"
    recipe.write_text(recipe_for(workspace, folder / "unused").dump(), encoding="utf-8")
    for given, short in (
        ('"quickstart"', repr(str(recipe))),
        ("epochs=5", "epochs=1"),
        ("output=runs", f"output={folder}"),
    ):
        assert given in code
        code = code.replace(given, short)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_page_s_run(trained: dict[str, Any]) -> None:
    result = trained["result"]
    (adapter,) = finetune.load_foundation(result.folder).adapters
    assert adapter == {"kind": "residual", "width": 8, "seed": 0}
    assert any("cannot be merged" in note for note in result.notes)
    assert (result.folder / "adapter" / "adapter.safetensors").is_file()
    assert isinstance(trained["calculator"], finetune.PotentialCalculator)
    told = dict(describe(str(result.folder)))
    assert told["adapter"].startswith("residual; trained: network.0 72, network.2 8; ")
    assert told["  network.0"] == "72"
    assert "  readouts.0" in told


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("shift", "residual")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", *SLOW])
def test_a_next_run_goes_on_from_what_cannot_be_merged(
    kind: str, trained: dict[str, Any], tmp_path: Path, workspace: Path
) -> None:
    recipe = recipe_for(
        workspace,
        tmp_path / "second",
        foundation=str(trained["result"].folder),
        adapter={"kind": kind},
        train={"epochs": 1, "learning_rate": 1e-4},
    )
    result = finetune.run(recipe)
    opened = finetune.load_foundation(result.folder)
    kinds = ["residual", *(["residual"] if kind == "residual" else [])]
    assert [item["kind"] for item in opened.adapters] == kinds
    found = finetune.evaluate(result.folder, workspace / "test.xyz").finetuned
    assert result.test is not None
    assert found.energy_mae == pytest.approx(result.test.finetuned.energy_mae)


COMMANDS = """
import json, sys
from typer.testing import CliRunner
from finetune.commands import app

found = []
for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments)
    found.append([done.exit_code, done.output])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_an_entry_point_makes_them_known_to_every_command(tmp_path: Path, workspace: Path) -> None:
    """In a process that imports nothing of them itself."""
    pages.write(PAGE, tmp_path)
    (points,) = blocks("toml")
    distribution = tmp_path / "my_adapters-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: my-adapters\nVersion: 1\n")
    group = re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", points).replace('"', "")
    (distribution / "entry_points.txt").write_text(group)
    given = recipe_for(workspace, tmp_path / "run", train={"epochs": 1}).model_dump(mode="json")
    path, exported = tmp_path / "recipe.yaml", tmp_path / "out.model"
    path.write_text(json.dumps({**given, "adapter": {"kind": "residual"}}))
    commands = [
        ["validate", str(path)],
        ["run", str(path), "--plain"],
        ["export", str(tmp_path / "run"), "--to", str(exported)],
        ["validate", str(path), "adapter.widht=3", "output=other"],
        ["schema"],
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"},
    )
    validated, ran, refused, misspelt, schema = json.loads(done.stdout.splitlines()[-1])
    assert validated[0] == 0, validated
    assert "trained: network.0 " in validated[1]
    assert ran[0] == 0, ran
    assert "cannot be merged into the potential's own layers" in ran[1]
    assert refused[0] == 2
    assert "'residual'" in refused[1] and "Traceback" not in refused[1]
    assert not exported.exists()
    assert misspelt[0] == 2 and "Did you mean 'width'" in misspelt[1]
    assert "ResidualOptions" in schema[1] or '"residual"' in schema[1]


def test_a_bundle_without_its_adapter_says_what_is_missing(
    trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained["result"].folder
    monkeypatch.delitem(adapters._registered, "residual")
    with pytest.raises(FoundationError, match="needs the adapter 'residual'.*import the module"):
        finetune.load_calculator(folder)
