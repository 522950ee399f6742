"""The recipe of `piwsl-finetune label`: which structures, at which level of theory, how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from omegaconf import OmegaConf
from pydantic import ConfigDict, Field, ValidationError, field_validator

from finetune.errors import RecipeError, suggestion, system_errors
from finetune.explanation import explain, lines
from finetune.labelling.levels import PROGRAMS, AseLevel, PyscfLevel, TbliteLevel
from finetune.options import Options
from finetune.overrides import overridden
from finetune.overrides import read_yaml as read_mapping
from finetune.sections import LabelKeys
from finetune.units import Units


class LabelRecipe(Options):
    """What to label, and how; see `docs/label.md`."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    structures: str | tuple[str, ...] = Field(
        description="files, folders, patterns or lists of them; labels that they have are not read"
    )
    level: PyscfLevel | TbliteLevel | AseLevel
    output: str = Field(min_length=1, description="file to write: .xyz or .h5")
    keys: LabelKeys = Field(LabelKeys(), description="names of charge and spin in the files")
    units: Units = Field(Units(), description="what lengths are in")
    faulty: Literal["stop", "skip"] = Field(
        "stop", description="whether a structure that cannot be used stops all or is left out"
    )
    charge: int | None = Field(None, ge=-1000, le=1000, description="where the file says nothing")
    spin: int | None = Field(
        None, ge=1, le=1000, description="multiplicity 2S + 1, where the file says nothing"
    )
    forces: Literal["auto"] | bool = Field(
        "auto", description="auto: where they are analytic; true: or fail; false: energies only"
    )
    isolated_atoms: bool | tuple[str, ...] = Field(
        False, description="free atoms too, for reference_energies: of the structures, or listed"
    )
    workers: int = Field(1, ge=1, le=4096, description="calculations side by side")
    threads: int = Field(1, ge=1, le=4096, description="of each")
    memory: Annotated[int, Field(ge=100, le=10**8)] = Field(
        4000, description="MB that each calculation of PySCF plans with"
    )

    @field_validator("level", mode="before")
    @classmethod
    def _by_program(cls, value: Any) -> Any:
        if isinstance(value, (PyscfLevel, TbliteLevel, AseLevel)):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("write `level: {program: pyscf, method: ccsd(t), basis: cc-pvtz}`")
        program = value.get("program", "pyscf")
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
                raise ValueError(f"'{symbol}' is no element")
        return value

    @classmethod
    @system_errors()
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> LabelRecipe:
        """Read a recipe file and apply dotted overrides (``level.basis=cc-pvtz``).

        Raises:
            RecipeError: With a line for each fault.
        """
        return cls.parse(read_yaml(path), overrides, f"'{path}'")

    @classmethod
    def parse(
        cls,
        mapping: Any,
        overrides: Sequence[str] = (),
        where: str = "the recipe",
        options: Mapping[str, Any] | None = None,
    ) -> LabelRecipe:
        """Validate a mapping after applying dotted overrides.

        Args:
            mapping: Of a recipe's keys.
            overrides: ``key.sub=value``.
            where: What it is called in messages.
            options: A mapping that goes before both.

        Raises:
            RecipeError: With a line for each fault.
        """
        plain = overridden(mapping, overrides, where, _of_program, options)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise RecipeError(explain(error, cls, where)) from None


@system_errors()
def read_yaml(path: str | Path) -> Any:
    """Return the recipe for labels in a YAML file.

    Raises:
        RecipeError: If there is none.
    """
    loaded = read_mapping(path)
    if "foundation" in loaded or "losses" in loaded:
        raise RecipeError(
            f"'{path}' is a recipe for `piwsl-finetune run`. One for labels has structures, level "
            "and output: see docs/label.md."
        )
    return loaded


def _of_program(recipe: Any, changes: Any) -> Any:
    """Return a recipe without the options of a program that the overrides change."""
    before, after = OmegaConf.select(recipe, "level"), OmegaConf.select(changes, "level.program")
    if after and OmegaConf.is_dict(before) and before.get("program", "pyscf") != after:
        OmegaConf.update(recipe, "level", {}, merge=False)
    return recipe
