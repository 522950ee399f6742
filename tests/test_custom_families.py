"""The page on families of one's own: its code works, without touching the package."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import finetune
import finetune.testing
from finetune.testing.families import ADAPTERS
from tests import pages

ROOT = Path(finetune.__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "custom_families.md"
CHECKS = sorted(name for name in dir(finetune.testing.FamilySuite) if name.startswith("test_"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pages.module(PAGE, tmp_path_factory.mktemp("page"), "test_my_family") as found:
        yield found


@pytest.mark.parametrize("check", CHECKS)
def test_the_page_s_suite_passes(page: ModuleType, check: str) -> None:
    suite = page.TestSymmetry()
    if check == "test_adapters_can_be_attached":
        for kind in ADAPTERS:
            suite.test_adapters_can_be_attached(kind)
    else:
        getattr(suite, check)()


def test_the_page_s_script_runs(
    page: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert page.__file__ is not None
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(Path(page.__file__).with_name("use.py")))
    assert (tmp_path / "tuned" / "report.html").is_file()
    printed = capsys.readouterr().out
    assert "-115" in printed or "-31" in printed, printed
