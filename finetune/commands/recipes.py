"""The shipped recipes, and what a recipe may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from finetune.commands.shared import user_errors
from finetune.core.errors import RunFolderError


def recipes(
    name: Annotated[str, Argument(help="Recipe to print or copy; none lists all.")] = "",
    to: Annotated[Path | None, Option("--to", help="Copy the recipe to this file.")] = None,
) -> None:
    """List the shipped recipes, print one, or copy it to make it your own."""
    from finetune.core import resources

    with user_errors():
        if not name:
            for shipped, path in resources.recipes().items():
                lines = path.read_text(encoding="utf-8").splitlines()
                comment = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
                print(f"{shipped:28} {comment}")
            return
        text = resources.recipe(name).read_text(encoding="utf-8")
        if to is None:
            print(text, end="")
            return
        if to.exists():
            raise RunFolderError(f"'{to}' exists. Choose another name.")
        to.write_text(text, encoding="utf-8")
    print(f"wrote {to}")


def schema(
    labels: Annotated[
        bool, Option("--label", help="Of recipes for `label` instead of `run`.")
    ] = False,
) -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from finetune.labelling.recipe import LabelRecipe
    from finetune.recipe.schema import recipe_schema

    print(json.dumps(LabelRecipe.model_json_schema() if labels else recipe_schema(), indent=2))
