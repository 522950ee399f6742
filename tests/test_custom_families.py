"""The page on families of one's own: its code works, without touching the package."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

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


def test_the_page_s_script_runs(tmp_path: Path) -> None:
    pages.write(PAGE, tmp_path)
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "tuned" / "report.html").is_file()
    assert "-115" in done.stdout or "-31" in done.stdout, done.stdout
