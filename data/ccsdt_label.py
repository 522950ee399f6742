"""Labelling: a resumable queue of single points, one JSON line per label."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import ccsdt_levels as levels
from ase import Atoms
from ccsdt_sample import load_frames
from ccsdt_systems import ATOM_SPINS, System

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One split at one level, with or without forces."""

    split: str
    level: str
    forces: bool


# Energies come before the dearer forces; "test" fills in energies where no forces are wanted.
STAGES = {
    "energies": tuple(Stage(split, levels.CCSDT, False) for split in ("train", "valid", "scan")),
    "forces": (Stage("test", levels.CCSDT, True),),
    "test": (Stage("test", levels.CCSDT, False),),
    "dft": (Stage("train", levels.PBE0, True),),
}


def labels_path(work: Path, name: str) -> Path:
    """Where the labels of one molecule (or of the isolated atoms) lie."""
    return work / "labels" / f"{name}.jsonl"


def fingerprint(atoms: Atoms) -> str:
    """Hash of the numbers and positions, tying a label to its geometry."""
    text = json.dumps([atoms.numbers.tolist(), atoms.positions.round(8).tolist()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_labels(path: Path) -> dict[tuple[str, str], dict]:
    """Labels by (frame id, level); a label with forces replaces one without."""
    labels: dict[tuple[str, str], dict] = {}
    if not path.exists():
        return labels
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut short by a kill
        key = (entry["frame_id"], entry["level"])
        if key not in labels or labels[key]["forces"] is None:
            labels[key] = entry
    return labels


def append_label(path: Path, frame_id: str, geometry: str, label: levels.Label) -> None:
    """Add one label to the file and flush it; starts a new line after a cut one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"frame_id": frame_id, "geometry": geometry, **label.as_dict()}
    with path.open("a+b") as stream:
        stream.seek(0, 2)
        if stream.tell():
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(entry).encode() + b"\n")


def label_stage(
    system: System, work: Path, stage: Stage, limit: int | None, deadline: float | None
) -> None:
    """Label what the stage still lacks of the first ``limit`` frames.

    Stops at ``deadline``, in seconds since the epoch.
    """
    path = labels_path(work, system.name)
    done = load_labels(path)
    for atoms in load_frames(work, system, stage.split)[:limit]:
        frame_id, geometry = atoms.info["frame_id"], fingerprint(atoms)
        old = done.get((frame_id, stage.level))
        if old and old["geometry"] == geometry and (old["forces"] or not stage.forces):
            continue
        if deadline is not None and time.time() > deadline:
            log.info("deadline reached in %s %s", system.name, stage.split)
            return
        symbols = atoms.get_chemical_symbols()
        try:
            if stage.level == levels.CCSDT:
                label = levels.ccsdt(symbols, atoms.positions, stage.forces)
            else:
                label = levels.pbe0(symbols, atoms.positions)
        except RuntimeError as error:
            log.warning("%s left out: %s", frame_id, error)
            continue
        append_label(path, frame_id, geometry, label)
        log.info("%s %s %.6f eV %.1f s", frame_id, stage.level, label.energy, label.seconds)


def label_atoms(work: Path) -> None:
    """Label the isolated atoms at both levels."""
    path = labels_path(work, "isolated_atoms")
    done = load_labels(path)
    for symbol in ATOM_SPINS:
        for level, compute in (
            (levels.CCSDT, levels.ccsdt_atom),
            (levels.PBE0, levels.pbe0_atom),
        ):
            if (symbol, level) not in done:
                append_label(path, symbol, symbol, compute(symbol))
