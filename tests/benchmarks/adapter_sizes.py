"""Parameters and files of every adapter beside the full model.

    python tests/benchmarks/adapter_sizes.py

writes ``tests/benchmarks/results/adapter_sizes.json``, from which ``docs/make_tables.py`` makes the
table in ``docs/adapters.md``. Nothing is trained: sizes do not depend on the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import finetune
from finetune.potentials import storage
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.potential import Potential
from finetune.recipe.plugins import adapters
from tests.tiny import tiny_settings

RESULTS = Path(__file__).parent / "results" / "adapter_sizes.json"
KINDS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "frozen, products.1 and readouts": {"kind": "frozen", "train": ["products.1", "readouts"]},
    "readout": {"kind": "readout"},
    "head": {"kind": "head", "name": "cc"},
    "lora, rank 16": {"kind": "lora", "rank": 16},
    "lora, rank 4": {"kind": "lora", "rank": 4},
    "lora, rank 4, contractions of all orders": {
        "kind": "lora",
        "rank": 4,
        "contractions": "all",
    },
    "lora, rank 4, readouts and products": {
        "kind": "lora",
        "rank": 4,
        "targets": ["readouts", "products"],
    },
    "shift": {"kind": "shift"},
}
MEDIUM = {
    **{"r_max": 6.0, "num_bessel": 10, "max_ell": 3, "hidden_irreps": "128x0e + 128x1o"},
    **{"MLP_irreps": "16x0e", "radial_MLP": (64, 64, 64), "correlation": 3},
    "atomic_numbers": tuple(range(1, 90)),
    "atomic_energies": ((0.0,) * 89,),
}
"""A MACE of the size of the published medium ones: 89 elements, 128 channels."""


def embedded() -> Potential:
    """Return the embedded foundation, in double precision."""
    return finetune.load_foundation("tiny-xtb-hcno").potential


def medium() -> Potential:
    """Return a MACE of the size of the published medium ones, in single precision."""
    return MacePotential.build(tiny_settings(**MEDIUM), torch.float32)


def size(potential: Potential, adapter: dict[str, Any]) -> dict[str, int]:
    """Return what an adapter trains and stores: numbers, and bytes of its weights file."""
    cls = adapters.get(adapter["kind"])
    given = {name: value for name, value in adapter.items() if name != "kind"}
    adapted = cls(cls.Options.model_validate(given)).attach(potential)
    with TemporaryDirectory() as folder:
        adapted.save(Path(folder))
        (file,) = Path(folder).glob("*.safetensors")
        return {
            "trained": sum(item.numel() for item in adapted.trainable_parameters().values()),
            "bytes": file.stat().st_size,
        }


def model_size(potential: Potential) -> dict[str, int]:
    """Return numbers and bytes of the stored model's weights."""
    with TemporaryDirectory() as folder:
        storage.save(potential, Path(folder), {})
        return {
            "parameters": sum(item.numel() for item in potential.parameters()),
            "bytes": (Path(folder) / storage.WEIGHTS).stat().st_size,
        }


def main() -> None:
    """Measure every adapter on both models and write the results."""
    models = {}
    for name, make in {"tiny-xtb-hcno": embedded, "medium": medium}.items():
        models[name] = {
            "model": model_size(make()),
            "adapters": {title: size(make(), adapter) for title, adapter in KINDS.items()},
        }
        print(json.dumps(models[name], indent=2))
    fingerprint = finetune.load_foundation("tiny-xtb-hcno").fingerprint
    found = {"foundation": fingerprint, "models": models}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
