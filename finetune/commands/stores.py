"""Structures in one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune.commands.data import ENERGY, FORCES, STRESS, EnergyKey, ForcesKey, StressKey, convert
from finetune.commands.shared import user_errors


def store(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Labelled structures.")],
    to: Annotated[Path, typer.Option("--to", help="HDF5 file to write, e.g. train.h5.")],
    energy_key: EnergyKey = ENERGY,
    forces_key: ForcesKey = FORCES,
    stress_key: StressKey = STRESS,
) -> None:
    """Put structures and labels into one HDF5 file: `data convert` to a name ending in .h5."""
    with user_errors():
        from finetune.data.store_writing import check_suffix

        check_suffix(to)
    convert(files, to, energy_key, forces_key, stress_key)
