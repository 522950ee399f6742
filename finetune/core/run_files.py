"""What a run writes into its folder, by name, and what is none of it."""

from __future__ import annotations

import re
from pathlib import Path

RECIPE, ENVIRONMENT, METRICS, REPORT = (
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "report.html",
)
BUNDLE, ADAPTER, RESULT = "model", "adapter", "result.json"
ADAPTER_RECORD = "adapter.json"
CHECKPOINTS = "checkpoints"
STAGES, MEMBERS, COMMITTEE = "stages", "members", "committee.json"
EVALUATION, STABILITY, SCANS = "evaluation", "stability", "scans"
CURVE, TENSORBOARD, WANDB = "learning-curve.png", "tensorboard", "wandb"
STATE_TENSORS, STATE, STATE_MANIFEST = "state.safetensors", "state.json", "manifest.json"
_FOLDERS = {BUNDLE, ADAPTER, CHECKPOINTS}
FILES = {
    *(RECIPE, ENVIRONMENT, METRICS, REPORT, RESULT, CURVE, COMMITTEE),
    *("config.json", "model.safetensors", ADAPTER_RECORD, "adapter.safetensors"),
    *("adapter_config.json", "adapter_model.safetensors", "training-set.safetensors"),
    *(STATE_TENSORS, STATE, STATE_MANIFEST, f".{STABILITY}.lock"),
}
_WITHIN = {
    EVALUATION: r"evaluation\.json|(statistics|structures)\.csv|(parity|calibration)\.png",
    STABILITY: r"stability\.json|nv[et]-.*K-structure\d+-replica\d+\.(traj|json|cut|state\.npz)",
    SCANS: r"scans\.json|(dimer|bond|torsion|volume|labelled)\.png",
    TENSORBOARD: r"events\.out\.tfevents\..+",
    WANDB: r"\.?wandb",
    **dict.fromkeys((STAGES, MEMBERS), r"\..+\.lock"),
}
"""All that a run and its tests write: a folder that holds anything else is never replaced."""
_UNFINISHED = re.compile(r"\.(.+)\.\w{8}(\.earlier)?")
"""What a kill leaves of a file or folder while it is written."""


def foreign(folder: Path, within: str = "") -> str | None:
    """Return the relative name of something that no run has written, top level first, or None."""
    items = sorted(folder.iterdir())
    for item in items:
        if not _ours(item, within):
            return item.name
    for item in items:
        if item.is_dir() and not item.is_symlink() and within != WANDB:  # it names files freely
            part = item.name if not within and item.name in _WITHIN else within
            found = foreign(item, "" if within in (STAGES, MEMBERS) else part)
            if found:
                return f"{item.name}/{found}"
    return None


def _ours(item: Path, within: str) -> bool:
    """Return whether a run, or a test in the part of it that ``within`` names, writes this."""
    folder = item.is_dir() and not item.is_symlink()
    unfinished = _UNFINISHED.fullmatch(item.name)
    name = unfinished[1] if unfinished else item.name
    if within:
        return bool(re.fullmatch(_WITHIN[within], name)) or (folder and within != WANDB)
    if folder:
        return name in {*_WITHIN, *_FOLDERS} or item.name.startswith(("step-", ".step-"))
    return name in FILES
