"""``tiny-xtb-hcno-direct``: energies and a head for forces, started from ``tiny-xtb-hcno``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import mace  # noqa: F401  (has to come before e3nn)
import numpy as np
import torch
from mace.tools.compile import disable_e3nn_codegen
from safetensors.torch import load_file

from finetune.potentials.direct.potential import ForceHead
from finetune.potentials.mace.settings import MaceSettings

from .dataset import load
from .evaluation import bands, errors, setting
from .export import ONE_HEAD
from .model import R_MAX, architecture, build
from .predictions import predict

CHANNELS = 64
FURTHER = {"keep_last_layer_irreps": True}


class DirectModel(torch.nn.Module):
    """A MACE that keeps the vectors of its last layer, and a head for forces; no TorchScript."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.channels = CHANNELS
        self.base = build(kwargs, codegen=False)
        contractions = [item.symmetric_contractions for item in self.base.products]
        irreps = "+".join(str(item.irreps_out) for item in contractions)
        with disable_e3nn_codegen(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.force_head = ForceHead(irreps, CHANNELS)

    @property
    def atomic_energies_fn(self) -> torch.nn.Module:
        """The reference energies, as MACE calls them."""
        return self.base.atomic_energies_fn

    def forward(self, data: dict[str, torch.Tensor], training: bool = False) -> dict[str, Any]:
        """Return what a MACE does, the forces being the head's."""
        found = self.base(data, training=training, compute_force=False)
        return found | {"forces": self.force_head(found["node_feats"])}


def arguments(foundation: Path) -> dict[str, Any]:
    """Return the keyword arguments of the foundation, with the vectors of its last layer kept."""
    settings = json.loads((foundation / "config.json").read_text(encoding="utf-8"))["settings"]
    given = MaceSettings.model_validate(settings).model_dump(mode="json")
    given |= {"num_elements": len(given["atomic_numbers"])}
    single = {name: given[name][0] for name in ONE_HEAD}
    return {name: (given | single)[name] for name in architecture([], 0.0)} | FURTHER


def start(model: DirectModel, foundation: Path) -> None:
    """Give the model the foundation's weights; those that lead to vectors alone stay new."""
    stored = load_file(foundation / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.base.named_parameters():
            if name in stored:
                known = stored[name].flatten()  # paths to scalars come first
                parameter.view(-1)[: len(known)].copy_(known)


def evaluate(model: DirectModel, work: Path, seed: int) -> dict[str, Any]:
    """Errors of the head and of −dE/dr on molecules never seen, and how far the two differ."""
    data = load(work / "configurations", R_MAX)
    chosen = data.splits(seed)["test"]
    energies, head = predict(model, data, chosen)  # type: ignore[arg-type]
    _, gradient = predict(model.base, data, chosen)
    sizes = data.n_atoms[chosen]
    difference = 1e3 * np.abs(head - gradient)
    inconsistency = {
        name: float(difference[np.repeat(mask, sizes)].mean())
        for name, selected in bands(data).items()
        if (mask := selected[chosen]).any()
    }
    return setting(model, data, seed) | {
        "head": errors(data, chosen, energies, head),
        "gradient": errors(data, chosen, energies, gradient),
        "inconsistency_mev_per_angstrom": inconsistency,
    }
