"""Units: of labels, with factors to eV and Å, and of predictions.

Inside the package energies are eV, lengths Å, forces eV/Å, stress eV/Å³ with ASE's sign (positive
under tension). A batch holds B structures with N atoms in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from finetune.core.errors import RecipeError
from finetune.core.options import Options, explain

if TYPE_CHECKING:
    import torch

_ENERGIES = {
    **{"ev": "eV", "mev": "meV", "kcal/mol": "kcal/mol", "kj/mol": "kJ/mol"},
    **dict.fromkeys(("hartree", "ha"), "Hartree"),
    **dict.fromkeys(("rydberg", "ry"), "Rydberg"),
}
_LENGTHS = {
    **dict.fromkeys(("å", "a", "ang", "angstrom", "ångström"), "Å"),
    **dict.fromkeys(("bohr", "a0"), "Bohr"),
    **{"nm": "nm", "pm": "pm"},
}
_PRESSURES = {"tpa": "TPa", "gpa": "GPa", "kbar": "kbar", "bar": "bar", "pa": "Pa"}


class Units(Options):
    """What geometries and labels are in; None is eV and Å, or what the file's format says.

    A minus sign in front of the unit of forces, stress or virial turns their sign:
    ``-Hartree/Bohr`` are gradients, ``-kbar`` is stress that is positive under compression, ``-eV``
    a virial that is +V times the stress.
    """

    energy: str | None = Field(None, description="eV, meV, Hartree, kcal/mol, kJ/mol, Rydberg")
    length: str | None = Field(None, description="of positions and cells: Å, Bohr, nm, pm")
    forces: str | None = Field(None, description="energy/length of the above where not given")
    stress: str | None = Field(None, description="energy/length³ of the above, or GPa, kbar")
    virial: str | None = Field(None, description="of −V times stress: an energy, that above")

    @field_validator("*")
    @classmethod
    def _usual_name(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value is None else _usual_name(str(info.field_name), value)

    def over(self, others: Units | None) -> Units:
        """Return these units with what they leave open taken from others, each by itself."""
        return others.model_copy(update=self.model_dump(exclude_none=True)) if others else self

    def filled(self, others: Units | None = None) -> Units:
        """Return these units over others, with the rest from eV, Å, and what follows from them."""
        given = self.over(others)
        energy, length = given.energy or "eV", given.length or "Å"
        forces = given.forces or f"{energy}/{length}"
        stress = given.stress or f"{energy}/{length}³"
        return Units(
            energy=energy, length=length, forces=forces, stress=stress, virial=given.virial
        )

    def factors(self) -> dict[str, float]:
        """Return what each quantity is multiplied by to be in eV, Å, eV/Å, eV/Å³ and eV."""
        return _factors(self)


@lru_cache
def _factors(given: Units) -> dict[str, float]:
    units = given.filled()
    assert units.energy and units.length and units.forces and units.stress
    scale = _scales()
    energy, _, length = units.forces.lstrip("-").rpartition("/")
    stress, virial = units.stress.lstrip("-"), units.virial or units.energy
    density, _, cubed = stress.rpartition("/")
    pressure = scale[stress] if not density else scale[density] / scale[cubed[:-1]] ** 3
    return {
        "energy": scale[units.energy],
        "length": scale[units.length],
        "forces": (-1 if units.forces.startswith("-") else 1) * scale[energy] / scale[length],
        "stress": (-1 if units.stress.startswith("-") else 1) * pressure,
        "virial": (-1 if virial.startswith("-") else 1) * scale[virial.lstrip("-")],
    }


@lru_cache
def _scales() -> dict[str, float]:
    """Return every unit by its usual name in eV, Å or eV/Å³."""
    from ase import units

    return {
        **{"eV": 1.0, "meV": 1e-3, "Hartree": units.Hartree, "Rydberg": units.Rydberg},
        **{"kcal/mol": units.kcal / units.mol, "kJ/mol": units.kJ / units.mol},
        **{"Å": 1.0, "Bohr": units.Bohr, "nm": 10.0, "pm": 0.01},
        **{"GPa": units.GPa, "kbar": 0.1 * units.GPa, "bar": 1e-4 * units.GPa},
        **{"Pa": 1e-9 * units.GPa, "TPa": 1e3 * units.GPa},
    }


def parse_units(given: Sequence[str]) -> Units:
    """Read units written as ``quantity=unit``.

    Raises:
        RecipeError: For a quantity or a unit that is unknown, or a quantity that is given twice.
    """
    pairs = [item.partition("=") for item in given]
    names = [name.strip() for name, _, _ in pairs]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise RecipeError(f"--units: {twice[0]} is there twice.")
    try:
        return Units.model_validate({name.strip(): unit.strip() for name, _, unit in pairs})
    except ValidationError as error:
        raise RecipeError(explain(error, Units, "--units")) from None


def _usual_name(quantity: str, given: str) -> str:
    """Return the usual name of a unit."""
    signed = quantity in ("forces", "stress", "virial")
    plain = given.strip().removeprefix("-") if signed else given.strip()
    sign = "-" if plain != given.strip() else ""
    energy, _, length = plain.rpartition("/")
    found: tuple[str | None, ...]
    if quantity in ("energy", "virial"):
        found, examples = (
            (_ENERGIES.get(plain.lower()),),
            "eV, meV, Hartree, kcal/mol, kJ/mol or Rydberg",
        )
    elif quantity == "length":
        found, examples = (_LENGTHS.get(plain.lower()),), "Å, Bohr, nm or pm"
    elif quantity == "stress" and plain.lower() in _PRESSURES:
        return sign + _PRESSURES[plain.lower()]
    else:
        power = ("³", "^3", "**3") if quantity == "stress" else ("",)
        ending = next((end for end in power if length.endswith(end)), None)
        bare = None if ending is None else length.removesuffix(ending).lower()
        found = (_ENERGIES.get(energy.lower()), _LENGTHS.get(bare or ""))
        examples = "eV/Å³, GPa or -kbar" if quantity == "stress" else "eV/Å or Hartree/Bohr"
    if None in found:
        raise ValueError(f"'{given}' is not a unit of {quantity}; use {examples}")
    return sign + "/".join(map(str, found)) + ("³" if quantity == "stress" else "")


FORCE_UNIT, STRESS_UNIT = "eV/Å", "eV/Å³"


def energy_unit(normalise: str) -> str:
    """Return the unit of energies that are taken ``per_atom`` or ``per_structure``."""
    return "eV/atom" if normalise == "per_atom" else "eV"


def readable(value: float, unit: str) -> tuple[float, str]:
    """Return a value and its unit as people read them: meV for eV, GPa for eV/Å³."""
    if unit == STRESS_UNIT:
        return value / _scales()["GPa"], "GPa"
    return (1000 * value, f"m{unit}") if unit.startswith("eV") else (value, unit)


@dataclass(frozen=True)
class Prediction:
    """What a potential predicts for a batch.

    Attributes:
        energy: Total energies ``[B]``, eV, float64.
        node_energy: Atomic energies ``[N]``, eV, float64; they add up to ``energy``.
        forces: ``[N, 3]``, eV/Å, or None where they were not asked for.
        stress: ``[B, 3, 3]``, eV/Å³, or None; zero for structures without a full cell.
        gradient_forces: −dE/dr ``[N, 3]``, eV/Å, or None where it was not asked for. They differ
            from ``forces`` where a head of its own predicts those.
    """

    energy: torch.Tensor
    node_energy: torch.Tensor
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None
    gradient_forces: torch.Tensor | None = None
