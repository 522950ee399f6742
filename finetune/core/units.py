"""Units that labels may come in, and what they are in eV and Å."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import Field, ValidationError, field_validator

from finetune.core.errors import RecipeError
from finetune.core.options import Options, explain

ENERGIES = {
    "ev": "eV",
    "mev": "meV",
    "hartree": "Hartree",
    "ha": "Hartree",
    "kcal/mol": "kcal/mol",
    "kj/mol": "kJ/mol",
    "rydberg": "Rydberg",
    "ry": "Rydberg",
}
LENGTHS = {
    **dict.fromkeys(("å", "a", "ang", "angstrom", "ångström"), "Å"),
    **dict.fromkeys(("bohr", "a0"), "Bohr"),
    "nm": "nm",
    "pm": "pm",
}
PRESSURES = {"gpa": "GPa", "kbar": "kbar", "bar": "bar", "pa": "Pa"}


class Units(Options):
    """What geometries and labels are in; None is eV and Å, or what the file's format says.

    A minus sign in front of the unit of forces or stress turns their sign: ``-Hartree/Bohr`` are
    gradients, ``-kbar`` is stress that is positive under compression.
    """

    energy: str | None = Field(None, description="eV, meV, Hartree, kcal/mol, kJ/mol, Rydberg")
    length: str | None = Field(None, description="of positions and cells: Å, Bohr, nm, pm")
    forces: str | None = Field(None, description="energy/length of the above where not given")
    stress: str | None = Field(None, description="energy/length³ of the above, or GPa, kbar")

    @field_validator("energy")
    @classmethod
    def _energy(cls, value: Any) -> Any:
        return None if value is None else energy_name(value)

    @field_validator("length")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return None if value is None else _length_name(value)

    @field_validator("forces")
    @classmethod
    def _forces(cls, value: Any) -> Any:
        return None if value is None else _forces_name(value)

    @field_validator("stress")
    @classmethod
    def _stress(cls, value: Any) -> Any:
        return None if value is None else _stress_name(value)

    def filled(self, fallback: Units | None = None) -> Units:
        """Return these units with what they leave open taken from others, then from eV and Å."""
        fallback = fallback or Units()
        energy = self.energy or fallback.energy or "eV"
        length = self.length or fallback.length or "Å"
        own = self.energy is not None or self.length is not None
        forces = self.forces or (None if own else fallback.forces) or f"{energy}/{length}"
        stress = self.stress or (None if own else fallback.stress) or f"{energy}/{length}³"
        return Units(energy=energy, length=length, forces=forces, stress=stress)

    def factors(self) -> dict[str, float]:
        """Return what each quantity is multiplied by to be in eV, Å, eV/Å and eV/Å³."""
        return _factors(self)


@lru_cache
def _factors(given: Units) -> dict[str, float]:
    units = given.filled()
    assert units.energy and units.length and units.forces and units.stress
    force, stress = units.forces.lstrip("-"), units.stress.lstrip("-")
    per_volume = stress.rpartition("/")
    return {
        "energy": _energy_in_ev(units.energy),
        "length": _length_in_angstrom(units.length),
        "forces": _sign(units.forces)
        * _energy_in_ev(force.rpartition("/")[0])
        / _length_in_angstrom(force.rpartition("/")[2]),
        "stress": _sign(units.stress)
        * (
            _pressure(stress)
            if stress in PRESSURES.values()
            else _energy_in_ev(per_volume[0]) / _length_in_angstrom(per_volume[2][:-1]) ** 3
        ),
    }


def parse_units(given: Sequence[str]) -> Units:
    """Read units written as ``quantity=unit``.

    Raises:
        RecipeError: For a quantity or a unit that is unknown, or a quantity that is there twice.
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


def energy_name(value: str) -> str:
    """Return the usual name of a unit of energy.

    Raises:
        ValueError: If it is unknown.
    """
    found = ENERGIES.get(value.strip().lower())
    if found is None:
        raise ValueError(f"'{value}' is no unit of energy: choose eV, meV, {_known(ENERGIES)}")
    return found


def _length_name(value: str) -> str:
    found = LENGTHS.get(value.strip().lower())
    if found is None:
        raise ValueError(f"'{value}' is no unit of length: choose Å, Bohr, nm or pm")
    return found


def _forces_name(value: str) -> str:
    energy, slash, length = value.strip().removeprefix("-").rpartition("/")
    if not slash or energy.lower() == "kcal" or energy.lower() == "kj":
        raise ValueError(f"'{value}' is no unit of forces: write it like eV/Å or Hartree/Bohr")
    return f"{_minus(value)}{energy_name(energy)}/{_length_name(length)}"


def _stress_name(value: str) -> str:
    plain = value.strip().removeprefix("-")
    if plain.lower() in PRESSURES:
        return _minus(value) + PRESSURES[plain.lower()]
    energy, slash, length = plain.rpartition("/")
    cubed = length.removesuffix("³").removesuffix("^3").removesuffix("**3")
    if not slash or cubed == length:
        raise ValueError(f"'{value}' is no unit of stress: write it like eV/Å³, GPa or -kbar")
    return f"{_minus(value)}{energy_name(energy)}/{_length_name(cubed)}³"


def _known(names: dict[str, str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names.values() if "eV" not in name))


def _minus(value: str) -> str:
    return "-" if value.strip().startswith("-") else ""


def _sign(value: str) -> float:
    return -1.0 if value.startswith("-") else 1.0


def _energy_in_ev(name: str) -> float:
    from ase import units

    return float(
        {
            "eV": 1.0,
            "meV": 1e-3,
            "Hartree": units.Hartree,
            "kcal/mol": units.kcal / units.mol,
            "kJ/mol": units.kJ / units.mol,
            "Rydberg": units.Rydberg,
        }[name]
    )


def _length_in_angstrom(name: str) -> float:
    from ase import units

    return float({"Å": 1.0, "Bohr": units.Bohr, "nm": 10.0, "pm": 0.01}[name])


def _pressure(name: str) -> float:
    from ase import units

    return float({"GPa": 1.0, "kbar": 0.1, "bar": 1e-4, "Pa": 1e-9}[name] * units.GPa)
