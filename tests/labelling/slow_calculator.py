"""A calculator that takes its time, fails and dies where a test wants it to."""

import os
import signal
import time
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes


class Slow(Calculator):
    """Springs to the origin; the number of the first atom decides what happens."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, seconds: float = 0.0, log: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.seconds, self.log = seconds, log
        self.converged = True

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{atoms.positions[0, 0]:.3f} {os.environ['OMP_NUM_THREADS']}\n")
        print("chatter that must not be taken for an answer", flush=True)
        time.sleep(self.seconds)
        first = atoms.numbers[0]
        self.converged = bool(first != 2)
        if first == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if first == 4:
            raise RuntimeError("no such\nthing")
        if first == 6 and properties == ["forces"]:
            raise RuntimeError("no slope")
        self.results = {
            "energy": float(np.nan if first == 5 else (atoms.positions**2).sum()),
            "forces": -2.0 * atoms.positions,
        }
        if first == 6:
            del self.results["forces"]  # so that they are asked for by themselves


class Broken(Slow):
    """Fails at whatever it is asked."""

    def calculate(self, *given: Any, **options: Any) -> None:
        raise RuntimeError("out of order")


def energies_only() -> Calculator:
    """Return a calculator without forces."""
    made = Slow()
    made.implemented_properties = ["energy"]
    return made
