"""Checkpoints on disk: safetensors, JSON and a manifest of their checksums, two generations.

A checkpoint is a folder ``step-00000120``. It is written under another name, synced and renamed,
and only then is the one before the one before it removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from finetune.errors import RunFolderError
from finetune.files import write_folder
from finetune.run_files import STATE, STATE_MANIFEST, STATE_TENSORS

GENERATIONS = 2
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a training run after a step.

    Attributes:
        tensors: Weights, averages and moments by name.
        state: Everything else, as JSON values.
        faults: What was wrong with newer checkpoints that were passed over.
    """

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    faults: tuple[str, ...] = ()


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep: int = GENERATIONS,
) -> None:
    """Write the checkpoint of a step into ``folder`` and remove all but the newest ``keep``.

    Raises:
        OSError: If it cannot be written; those that were there are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    contents = {STATE_TENSORS: save_tensors(whole), STATE: json.dumps(state).encode()}
    manifest = {
        "format_version": VERSION,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    name = f"step-{step:08d}"
    write_folder(folder / name, {**contents, STATE_MANIFEST: json.dumps(manifest).encode()})
    for stale in folder.glob(".step-*"):  # left by a kill while writing
        shutil.rmtree(stale, ignore_errors=True)
    later = [path for path in _generations(folder) if path.name > name]
    for path in [*later, *_generations(folder)[len(later) + keep :]]:
        shutil.rmtree(path, ignore_errors=True)


def read(folder: Path) -> Checkpoint | None:
    """Read the newest whole checkpoint; None where there is none at all.

    Raises:
        RunFolderError: If there are checkpoints and all of them are damaged, saying how.
    """
    faults: list[str] = []
    for path in _generations(folder):
        try:
            tensors, state = _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            faults.append(f"the checkpoint '{path}' is damaged ({error})")
            continue
        return Checkpoint(tensors, state, tuple(faults))
    if faults:
        raise RunFolderError(f"{'; '.join(faults)}. Start again with --overwrite.")
    return None


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    manifest = json.loads((path / STATE_MANIFEST).read_bytes())
    if manifest["format_version"] != VERSION:
        raise ValueError(f"format version {manifest['format_version']}, this release has {VERSION}")
    contents = {name: (path / name).read_bytes() for name in (STATE_TENSORS, STATE)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
            raise ValueError(f"the checksum of {name} differs")
    return load_tensors(contents[STATE_TENSORS]), json.loads(contents[STATE])


def _generations(folder: Path) -> list[Path]:
    """Return the checkpoints, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)
