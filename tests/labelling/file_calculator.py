"""A calculator whose program is another process that talks through files of fixed names."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import FileIOCalculator

PROGRAM = r"""
sleep 0.1
read first rest < springs.in
[ $first = He ] && { echo "no basis for He"; exit 1; }
[ $first = Li ] && exit 0
awk '{ sum += $2*$2 + $3*$3 + $4*$4 } END { printf "%.12f", sum }' springs.in > springs.out
"""


class Springs(FileIOCalculator):
    """Springs to the origin; its program fails for He, and leaves no answer for Li."""

    implemented_properties = ["energy"]

    def __init__(self, **options: Any) -> None:
        super().__init__(command=f"{{ {PROGRAM} }} > springs.log", **options)

    def write_input(self, atoms: Atoms, properties: Any = None, system_changes: Any = None) -> None:
        super().write_input(atoms, properties, system_changes)
        rows = zip(atoms.symbols, atoms.positions.tolist(), strict=True)
        lines = [" ".join([symbol, *map(repr, row)]) for symbol, row in rows]
        Path(self.directory, "springs.in").write_text("\n".join(lines) + "\n")

    def read_results(self) -> None:
        self.results = {"energy": float(np.loadtxt(Path(self.directory, "springs.out")))}
