"""Compute labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from typer import Argument, Option

from finetune.commands.shared import (
    AsJson,
    Overwrite,
    Plain,
    Quiet,
    again,
    tell,
    tell_json,
    tell_written,
    user_errors,
)
from finetune.core.errors import RecipeError

_OVERRIDE = re.compile(r"[a-z_]+(\.\w+)*=.*", re.DOTALL)
Word = str | None
Number = int | None
Switch = bool | None
SHOWN = 20
"""How many failures are printed; all are in the record."""


def label(
    inputs: Annotated[
        list[str] | None,
        Argument(
            metavar="[RECIPE] [FILE…] [KEY=VALUE…]",
            help="A recipe (.yaml), files to label, overrides of the recipe.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[Path | None, Option("--to", help="File to write: .xyz or .h5.")] = None,
    program: Annotated[Word, Option(help="pyscf, tblite or ase.", show_default="pyscf")] = None,
    method: Annotated[
        Word, Option(help="ccsd(t), ccsd, mp2, hf, a functional; GFN1-xTB, GFN2-xTB.")
    ] = None,
    basis: Annotated[Word, Option(help="Basis set, e.g. cc-pvtz.")] = None,
    frozen_core: Annotated[
        Switch, Option("--frozen-core/--all-electrons", help="For mp2 and coupled cluster.")
    ] = None,
    density_fitting: Annotated[
        Switch, Option("--density-fitting/--no-density-fitting", help="Faster; see docs/label.md.")
    ] = None,
    calculator: Annotated[
        Word, Option(help="Dotted path of an ASE calculator. Its code is run.")
    ] = None,
    charge: Annotated[Number, Option(help="Total charge where the files do not say it.")] = None,
    spin: Annotated[
        Number, Option(help="Multiplicity 2S + 1 where the files do not say it.")
    ] = None,
    forces: Annotated[
        Switch, Option("--forces/--energies-only", help="By default forces if they are analytic.")
    ] = None,
    isolated_atoms: Annotated[
        Switch, Option("--isolated-atoms/--no-isolated-atoms", help="Label free atoms too.")
    ] = None,
    workers: Annotated[Number, Option(help="Number of parallel calculations.")] = None,
    threads: Annotated[Number, Option(help="Threads of each calculation.")] = None,
    memory: Annotated[Number, Option(help="MB for each calculation (PySCF).")] = None,
    skip_faulty: Annotated[
        bool, Option("--skip-faulty", help="Leave out structures that cannot be read.")
    ] = False,
    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Compute failed structures again.")
    ] = False,
    collect: Annotated[
        bool, Option("--collect", help="Write what is computed so far; compute nothing.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Compute energies and forces with PySCF, tblite or an ASE calculator. Resumes after a stop."""
    console = Console(stderr=as_json)
    level: dict[str, Any] = {
        "program": program or ("ase" if calculator else None),
        "method": method,
        "basis": basis,
        "frozen_core": frozen_core,
        "density_fitting": density_fitting,
        "calculator": calculator,
    }
    given: dict[str, Any] = {
        "output": None if to is None else str(to),
        "level": {key: value for key, value in level.items() if value is not None},
        "charge": charge,
        "spin": spin,
        "forces": forces,
        "isolated_atoms": isolated_atoms,
        "workers": workers,
        "threads": threads,
        "memory": memory,
        "faulty": "skip" if skip_faulty else None,
    }
    options = {key: value for key, value in given.items() if value not in (None, {})}
    with user_errors(again("--retry-failed")):
        from finetune.core.counter import Counter
        from finetune.labelling.recipe import LabelRecipe, read_yaml
        from finetune.labelling.run import label as label_files

        recipe, files, overrides = _sorted(inputs or [])
        if files:
            options["structures"] = files
        content: Any = {"level": {}} if recipe is None else read_yaml(recipe)
        where = "the recipe" if recipe is None else f"'{recipe}'"
        if recipe is None and "structures" not in options:
            raise RecipeError(
                "name what to label: piwsl-finetune label FILE… --to labelled.xyz, or a recipe "
                "(docs/label.md)."
            )
        if recipe is None and to is None and not any(o.startswith("output=") for o in overrides):
            raise RecipeError("name the file to write: --to labelled.xyz (or .h5).")
        found = label_files(
            LabelRecipe.parse(content, overrides, where, options),
            overwrite=overwrite,
            retry_failed=retry_failed,
            collect=collect,
            recipe_folder=None if recipe is None else Path(recipe).parent,
            counter=Counter(None if quiet else console, plain),
        )
    if as_json:
        tell_json(found.as_dict())
        return
    for note in found.notes:
        tell(console, note)
    for failure in found.failures[:SHOWN]:
        number = "" if failure.index is None else f"structure {failure.index} "
        tell(console, f"failed: {number}({failure.where}): {failure.reason}")
    if found.failures:
        more = len(found.failures) - SHOWN
        rest = f" ({more} more are listed in {found.output}.json)" if more > 0 else ""
        failed = f"warning: {len(found.failures)} without a label{rest}"
        tell(console, f"{failed}; --retry-failed computes them again.")
    tell(console, f"{found.labelled} structures at {found.level} ({found.program})")
    if found.reference_energies:
        energies = ", ".join(f"{s}: {e:.6f}" for s, e in found.reference_energies.items())
        tell(console, f"reference_energies: {{{energies}}}")
        tell_written(console, str(found.atoms))
    tell_written(console, found.output)


def _sorted(inputs: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """Return the recipe, the files and the overrides among the inputs."""
    recipes = [item for item in inputs if item.endswith((".yaml", ".yml")) and "=" not in item]
    overrides = [item for item in inputs if _OVERRIDE.fullmatch(item) and not Path(item).exists()]
    if len(recipes) > 1:
        raise RecipeError(f"one recipe at a time, not {' and '.join(recipes)}.")
    files = [item for item in inputs if item not in recipes and item not in overrides]
    return (recipes[0] if recipes else None), files, overrides
