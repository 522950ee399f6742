"""The sizes in the docs are those that adapters have."""

import json
from collections.abc import Callable

import pytest

from finetune.potentials.potential import Potential
from tests.benchmarks.adapter_sizes import KINDS, RESULTS, embedded, medium, model_size, size


@pytest.mark.parametrize(
    ("name", "make"),
    [("tiny-xtb-hcno", embedded), pytest.param("medium", medium, marks=pytest.mark.slow)],
)
def test_sizes_are_as_stored(name: str, make: Callable[[], Potential]) -> None:
    stored = json.loads(RESULTS.read_text())["models"][name]
    assert model_size(make()) == stored["model"]
    assert {title: size(make(), kind) for title, kind in KINDS.items()} == stored["adapters"]
    files = {title: row["bytes"] for title, row in stored["adapters"].items()}
    assert files["lora, rank 4"] < 0.2 * stored["model"]["bytes"]
