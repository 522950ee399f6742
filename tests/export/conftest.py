from pathlib import Path

import pytest

import finetune
from tests.conftest import recipe_for


@pytest.fixture(scope="package")
def run_folder(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    return finetune.run(recipe_for(workspace, folder, train={"epochs": 2})).folder
