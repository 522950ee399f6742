"""What rebuilds the network of a family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ase.data import chemical_symbols
from pydantic import Field, model_validator

from finetune.core.options import Options

LONGEST = 100.0
"""Å: the longest cutoff that is taken for one."""


class FamilySettings(Options, ABC):
    """What rebuilds a network of a family without its weights: plain values, stored as JSON."""

    @abstractmethod
    def elements_known(self) -> tuple[int, ...]:
        """Return the atomic numbers that the network knows."""

    @abstractmethod
    def description(self) -> list[tuple[str, str]]:
        """Return the architecture as lines of a table: names and values."""

    def head_names(self) -> tuple[str, ...]:
        """Return the names of the heads; overridden where there may be several."""
        return ("Default",)

    def identity(self) -> str:
        """Return what a fingerprint covers.

        Settings that later releases add belong to it only where they are used, so that older
        fingerprints stay valid.
        """
        return self.model_dump_json()


class ElementSettings(FamilySettings):
    """Settings with the energies of free atoms: ``atomic_energies`` (eV), of ``atomic_numbers``."""

    most: ClassVar[int]
    """The highest atomic number that the network has an embedding for."""
    atomic_numbers: tuple[int, ...] = Field(min_length=1)
    atomic_energies: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_energy_each(self) -> ElementSettings:
        numbers = self.atomic_numbers
        if len(set(numbers)) != len(numbers) or not all(1 <= z <= self.most for z in numbers):
            raise ValueError(f"atomic_numbers must be different ones from 1 to {self.most}")
        if len(self.atomic_energies) != len(numbers):
            raise ValueError("atomic_energies must have an entry for each of atomic_numbers")
        return self

    def elements_known(self) -> tuple[int, ...]:
        """See `FamilySettings.elements_known`."""
        return self.atomic_numbers


def elements_row(numbers: Sequence[int]) -> tuple[str, str]:
    """Return the line of a table that names the elements, by atomic number."""
    symbols = [chemical_symbols[number] for number in sorted(numbers)]
    return "elements", f"{len(symbols)}: {' '.join(symbols)}"
