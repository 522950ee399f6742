"""The data set on disk: one ``.npz`` file per molecule, written atomically, never twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .molecules import EMPHASISED, PARTNERS, canonical, enumerate_molecules
from .sampling import SamplingError, sample_molecule

#: Conformers (each with its own trajectory) of the molecules in ``EMPHASISED``.
EMPHASIS = 4


def _seed_of(smiles: str, seed: int) -> int:
    digest = hashlib.sha256(f"sampling:{seed}:{smiles}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _path_of(smiles: str, folder: Path) -> Path:
    return folder / f"{hashlib.sha256(smiles.encode()).hexdigest()[:16]}.npz"


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a kill leaves either the old file or the whole new one."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def generate(folder: Path, seed: int, budget_s: float) -> dict[str, float]:
    """Sample every molecule that has no file in ``folder`` yet, for at most ``budget_s``.

    Returns the number of molecules on disk and the wall time of this call in seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clock = folder / "wall_time.json"
    spent = json.loads(clock.read_text(encoding="utf-8")) if clock.exists() else 0.0
    failures: dict[str, str] = {}
    start = time.monotonic()
    try:
        for smiles in tqdm(enumerate_molecules(seed), mininterval=10.0, unit="molecule"):
            if time.monotonic() - start > budget_s:
                break
            path = _path_of(smiles, folder)
            if path.exists():
                continue
            try:
                _sample(smiles, path, seed)
            except SamplingError as error:
                failures[smiles] = str(error)
    finally:
        write_json(folder / "failures.json", failures)
        write_json(clock, spent + time.monotonic() - start)
    return {"molecules": len(list(folder.glob("*.npz"))), "wall_s": time.monotonic() - start}


def _sample(smiles: str, path: Path, seed: int) -> None:
    copies = EMPHASIS if smiles in {canonical(s) for s in EMPHASISED} else 1
    found = sample_molecule(smiles, _seed_of(smiles, seed), PARTNERS, copies)
    arrays: dict[str, NDArray] = found.arrays() | {"smiles": np.array(smiles)}
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        np.savez(handle, **arrays)
    os.replace(temporary, path)
