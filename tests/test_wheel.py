"""The wheel, installed into an empty folder, lists, finds and runs what a checkout does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("piwsl_finetune-*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def installed(site: Path, cwd: Path, *arguments: str) -> str:
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import finetune;"
        f"assert finetune.__file__.startswith({str(site)!r}), finetune.__file__;"
        "from finetune.commands import app; app(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_but_the_package_is_installed(site: Path) -> None:
    assert {path.name for path in site.iterdir() if "dist-info" not in path.name} <= {
        "finetune",
        "bin",
    }
    assert not (site / "cli.py").exists()


@pytest.mark.slow
def test_the_shipped_recipe_runs_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    assert "quickstart.yaml" in installed(site, tmp_path, "recipes")
    overrides = ["train.epochs=1", "data.train=data/ccsdt/ethanol/train.xyz@:5"]
    output = installed(site, tmp_path, "run", "recipes/quickstart.yaml", *overrides)
    assert "force MAE (components)" in output
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
