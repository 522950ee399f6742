"""The code in the docs runs, and links lead somewhere."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import finetune
from finetune.commands import app

ROOT = Path(finetune.__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        shortened = block.replace("train.epochs=20", "train.epochs=2").replace(
            "output=runs", f"output={tmp_path}"
        )
        exec(shortened, names)
    assert (tmp_path / "short" / "report.html").is_file()
    assert (tmp_path / "torque" / "report.html").is_file()
    suite = names["TestNetTorque"]()  # type: ignore[operator]
    checks = [getattr(suite, name) for name in dir(suite) if name.startswith("test_")]
    assert len(checks) >= 9
    for check in checks:
        check()


@pytest.mark.slow
def test_exports_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["train.epochs=1", "data.train=data/ccsdt/ethanol/train.xyz@:10"]
    finetune.run("quickstart", small)
    committee = ["committee={members: 2, labels: bootstrap}", "output=runs/committee"]
    finetune.run("quickstart", [*small, *committee])
    alone = ["losses.pitc.weight=0", "losses.pisc.weight=0"]
    finetune.run("ethanol-weak-losses", [*small, *alone])
    text = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    assert len(names["found"]) == len(names["frames"]) == 60
    for command in re.findall(r"^piwsl-finetune (export .*)$", text, flags=re.MULTILINE):
        done = CliRunner().invoke(app, command.split())
        assert done.exit_code == 0, done.output


def test_every_option_of_a_recipe_is_documented() -> None:
    from finetune.recipe.plugins import adapters, losses
    from finetune.recipe.recipe import Recipe
    from finetune.recipe.sections import DataRecipe, TrainRecipe

    pages = ("recipes.md", "losses.md", "adapters.md")
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in pages)
    for name in Recipe.model_fields:
        assert f"`{name}" in text, name
    for name in TrainRecipe.model_fields:
        assert f"`train.{name}`" in text, name
    for name in DataRecipe.model_fields:
        assert f"`data.{name}`" in text, name
    for registry in (losses, adapters):
        for name in registry.builtin:
            assert f"`{name}`" in text, name
            for option in registry.options(name).model_fields:
                assert f"`{option}" in text or option in {"kind", "huber_delta"}, option


def test_tables_are_those_of_the_stored_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    tables = importlib.import_module("make_tables")
    for page in tables.TABLES:
        assert tables.page(page) == (ROOT / "docs" / page).read_text(encoding="utf-8"), page


RESULTS = sorted((ROOT / "tests" / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_stored_results_are_of_the_foundation_that_is_shipped(path: Path) -> None:
    shipped = json.loads((ROOT / "data/foundation/tiny-xtb-hcno/config.json").read_text())
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["foundation"] == shipped["fingerprint"]


def test_every_benchmark_has_its_stored_result() -> None:
    benchmarks = {path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
    shared = {"records", "trials", "mace_run_train"}  # the last writes to weak_losses.json
    further = {"stability_3000"}  # stability at another temperature
    assert {path.stem for path in RESULTS} == benchmarks - shared | further
