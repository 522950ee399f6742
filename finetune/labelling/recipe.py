"""The recipe of `piwsl-finetune label`: which structures, at which level of theory, how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from ase.data import atomic_numbers
from omegaconf import OmegaConf
from pydantic import ConfigDict, Field, ValidationError, field_validator

from finetune.core.errors import RecipeError, suggestion, system_errors
from finetune.core.options import Options, explain, lines
from finetune.core.units import Units
from finetune.recipe.recipe import overridden
from finetune.recipe.recipe import read_yaml as read_mapping
from finetune.recipe.sections import LabelKeys

NAMES = {"hf": "HF", "mp2": "MP2", "ccsd": "CCSD", "ccsd(t)": "CCSD(T)"}
"""Wave function methods; any other name is a functional."""
_TIGHT_BINDING = {name.lower(): name for name in ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")}
"""Methods of tblite, which is the program where none is named."""


class PyscfLevel(Options):
    """Molecules with PySCF: Hartree-Fock, MP2, CCSD, CCSD(T), density functionals."""

    program: Literal["pyscf"] = "pyscf"
    method: str = Field(
        "ccsd(t)", min_length=1, description="hf, mp2, ccsd, ccsd(t), or a functional of libxc"
    )
    basis: str | dict[str, str] = Field(
        "cc-pvdz", description="name, or names by element with a `default`; with its ECPs"
    )
    frozen_core: bool | Annotated[int, Field(ge=0, le=10_000)] = Field(
        True, description="for mp2 and coupled cluster: PySCF's core orbitals, or their number"
    )
    density_fitting: bool = False
    auxiliary_basis: str | None = Field(None, description="for density fitting; PySCF's choice")
    reference: Literal["auto", "unrestricted"] = Field(
        "auto", description="auto: restricted for singlets, otherwise unrestricted"
    )
    stability: bool = Field(
        False, description="follow instabilities of the mean field; always done for free atoms"
    )
    grid: int = Field(3, ge=0, le=9, description="level of PySCF's grids for functionals")
    scf_tolerance: float = Field(1e-10, gt=0, le=1e-4, description="Hartree")
    cc_tolerance: float = Field(1e-8, gt=0, le=1e-4, description="Hartree")
    max_cycles: int = Field(100, ge=1, le=100_000, description="of each iteration")

    @field_validator("method")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        name = value.strip().lower()
        if name in _TIGHT_BINDING:
            raise ValueError(
                f"{_TIGHT_BINDING[name]} is a method of tblite: set level.program=tblite (command: "
                "--program tblite)"
            )
        return name if name in NAMES else value.strip()

    @field_validator("frozen_core", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if not isinstance(value, int):
            raise ValueError("must be true, false or a number of orbitals")
        return value

    @field_validator("basis")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not value or "" in ([value] if isinstance(value, str) else value.values()):
            raise ValueError("name a basis set, e.g. cc-pvtz, or {default: cc-pvtz, I: def2-tzvp}")
        return value

    @property
    def correlated(self) -> bool:
        """Whether the method goes beyond a mean field."""
        return self.method in NAMES and self.method != "hf"

    @property
    def name(self) -> str:
        """The level of theory as labels carry it."""
        parts = [f"{NAMES.get(self.method, self.method)}/{_basis(self.basis)}"]
        if self.correlated:
            frozen = self.frozen_core
            number = "frozen core" if frozen is True else f"{frozen} orbitals frozen"
            parts.append(number if frozen else "all electrons")
        if self.density_fitting:
            parts.append("density fitting")
        return ", ".join(parts)

    @property
    def without_forces(self) -> str:
        """Why the level has no analytic forces; empty if it has."""
        if self.correlated and self.density_fitting:
            return f"PySCF has no exact gradient of {NAMES[self.method]} with density fitting"
        return ""

    def tags(self) -> dict[str, str | float]:
        """Return tags that each label has besides the name of the level."""
        found: dict[str, str | float] = {"method": self.method, "basis": _basis(self.basis)}
        if self.density_fitting:
            found["auxiliary_basis"] = self.auxiliary_basis or "default"
        return found


class TbliteLevel(Options):
    """GFN1-xTB and GFN2-xTB with tblite, periodic or not."""

    without_forces: ClassVar[str] = ""
    program: Literal["tblite"]
    method: Literal["GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"] = "GFN2-xTB"
    accuracy: float = Field(1.0, gt=0, le=1000, description="tblite's; smaller is tighter")
    electronic_temperature: float = Field(300.0, ge=0, le=1e5, description="K")
    max_cycles: int = Field(250, ge=1, le=100_000)

    @field_validator("method", mode="before")
    @classmethod
    def _spelling(cls, value: Any) -> Any:
        spelt = _TIGHT_BINDING.get(value.strip().lower()) if isinstance(value, str) else None
        return spelt or value

    @property
    def name(self) -> str:
        """See `PyscfLevel.name`."""
        warm = self.electronic_temperature
        return self.method if warm == 300 else f"{self.method}, electrons at {warm:g} K"

    def tags(self) -> dict[str, str | float]:
        """See `PyscfLevel.tags`."""
        return {"method": self.method}


class AseLevel(Options):
    """Any ASE calculator, by the dotted path of its class or of a function that returns one.

    The path is imported and called: it runs code that the recipe names.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")  # arguments may be infinite

    without_forces: ClassVar[str] = ""
    program: Literal["ase"]
    calculator: str = Field(
        pattern=r"^\w+(\.\w+)+$", description="e.g. ase.calculators.emt.EMT, or mymodule.make"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
    level_of_theory: str | None = Field(
        None, description="name of the level in the labels; by default the path of the calculator"
    )
    energy: Literal["energy", "free_energy"] = Field(
        "energy", description="free_energy: the one that forces derive from, with smeared electrons"
    )
    charge_parameter: str | None = Field(
        None, description="parameter of the calculator for the total charge; or `info`"
    )
    spin_parameter: str | None = Field(
        None, description="parameter for the multiplicity 2S + 1; or `info`"
    )
    atom_cell: float | None = Field(
        None, gt=1, le=1000, description="Å, cubic periodic cell for free atoms, for periodic codes"
    )

    @property
    def name(self) -> str:
        """See `PyscfLevel.name`."""
        return self.level_of_theory or self.calculator

    def tags(self) -> dict[str, str | float]:
        """See `PyscfLevel.tags`."""
        return {"calculator": self.calculator}


Level = PyscfLevel | TbliteLevel | AseLevel
PROGRAMS: dict[str, type[Level]] = {"pyscf": PyscfLevel, "tblite": TbliteLevel, "ase": AseLevel}


def identity(level: Level) -> dict[str, Any]:
    """Return what decides the labels of a level; the number of cycles does not."""
    return level.model_dump(mode="json", exclude={"max_cycles"})


def _basis(basis: str | dict[str, str]) -> str:
    if isinstance(basis, str):
        return basis
    rest = [f"{symbol}: {name}" for symbol, name in basis.items() if symbol != "default"]
    return " ".join([*([basis["default"]] if "default" in basis else []), f"({', '.join(rest)})"])


class LabelRecipe(Options):
    """What to label, and how; see `docs/label.md`."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    structures: str | tuple[str, ...] = Field(
        description="files, folders, patterns or lists of them; existing labels are ignored"
    )
    level: PyscfLevel | TbliteLevel | AseLevel
    output: str = Field(min_length=1, description="file to write: .xyz or .h5")
    keys: LabelKeys = Field(LabelKeys(), description="names of charge and spin in the files")
    units: Units = Field(Units(), description="unit of lengths in the files")
    faulty: Literal["stop", "skip"] = Field(
        "stop", description="whether an unusable structure is an error or is left out"
    )
    charge: int | None = Field(
        None, ge=-1000, le=1000, description="total charge of structures whose file does not say it"
    )
    spin: int | None = Field(
        None, ge=1, le=1000, description="multiplicity 2S + 1 where the file does not say it"
    )
    forces: Literal["auto"] | bool = Field(
        "auto", description="auto: if analytic; true: fail without them; false: energies only"
    )
    isolated_atoms: bool | tuple[str, ...] = Field(
        False, description="label free atoms too, for reference_energies: all elements, or a list"
    )
    workers: int = Field(1, ge=1, le=4096, description="number of parallel calculations")
    threads: int = Field(1, ge=1, le=4096, description="threads of each calculation")
    memory: Annotated[int, Field(ge=100, le=10**8)] = Field(
        4000, description="MB for each calculation, used by PySCF"
    )

    @field_validator("level", mode="before")
    @classmethod
    def _by_program(cls, value: Any) -> Any:
        if isinstance(value, (PyscfLevel, TbliteLevel, AseLevel)):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("write `level: {program: pyscf, method: ccsd(t), basis: cc-pvtz}`")
        tight_binding = str(value.get("method", "")).strip().lower() in _TIGHT_BINDING
        program = value.get("program", "tblite" if tight_binding else "pyscf")
        if program not in PROGRAMS:
            near = suggestion(str(program), PROGRAMS)
            raise ValueError(f"no program '{program}': choose {', '.join(PROGRAMS)}.{near}")
        try:
            return PROGRAMS[program].model_validate({**value, "program": program})
        except ValidationError as error:
            raise ValueError(lines(error, PROGRAMS[program], "level")) from None

    @field_validator("structures", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value in ("", [], ()):
            raise ValueError("name at least one file")
        return value

    @field_validator("isolated_atoms")
    @classmethod
    def _elements(cls, value: Any) -> Any:
        for symbol in value if isinstance(value, tuple) else ():
            if not atomic_numbers.get(symbol):
                raise ValueError(f"'{symbol}' is not an element")
        return value

    @classmethod
    @system_errors()
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> LabelRecipe:
        """Read a recipe file and apply dotted overrides (``level.basis=cc-pvtz``)."""
        return cls.parse(read_yaml(path), overrides, f"'{path}'")

    @classmethod
    def parse(
        cls,
        mapping: Any,
        overrides: Sequence[str] = (),
        where: str = "the recipe",
        options: Mapping[str, Any] | None = None,
    ) -> LabelRecipe:
        """Validate a mapping after applying dotted overrides and ``options``, which have priority.

        ``where`` is its name in messages. Raises RecipeError with a line for each fault.
        """
        plain = overridden(mapping, overrides, where, _of_program, options)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise RecipeError(explain(error, cls, where)) from None


@system_errors()
def read_yaml(path: str | Path) -> Any:
    """Return the recipe for labels in a YAML file."""
    loaded = read_mapping(path)
    if "foundation" in loaded or "losses" in loaded:
        raise RecipeError(
            f"'{path}' is a recipe for `piwsl-finetune run`. A recipe for labels has structures, "
            "level and output: see docs/label.md."
        )
    return loaded


def _of_program(recipe: Any, changes: Any) -> Any:
    """Return a recipe without the options of a program that the overrides replace."""
    before, after = OmegaConf.select(recipe, "level"), OmegaConf.select(changes, "level.program")
    if after and OmegaConf.is_dict(before) and before.get("program", "pyscf") != after:
        OmegaConf.update(recipe, "level", {}, merge=False)
    return recipe
