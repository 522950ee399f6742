"""Say what is wrong in a recipe, with the nearest known key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, Tag, ValidationError

from finetune.errors import suggestion


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn a pydantic error into one line per fault, with the nearest known key."""
    told = lines(error, model)
    count = sum(line.startswith("  ") for line in told.splitlines())
    return f"{where} has {count} fault{'' if count == 1 else 's'}:\n{told}"


def lines(error: ValidationError, model: type[BaseModel], within: str = "") -> str:
    """Return one line for each fault of an option class.

    Args:
        error: What pydantic found.
        model: The option class.
        within: Dotted key of the recipe that holds the options.
    """
    found = []
    for fault in error.errors():
        if fault["type"] == "value_error" and fault["msg"].startswith(_TOLD):
            found.append(fault["msg"].removeprefix(_TOLD.removesuffix("  ")))
            continue
        parts = [within, *(str(part) for part in fault["loc"])]
        # tags of unions, and pydantic's names of types, are not for the user
        location = ".".join(part for part in parts if part and not _INTERNAL.search(part))
        if fault["type"] == "extra_forbidden":
            known = _keys_at(model, fault["loc"][:-1])
            nearest = suggestion(str(fault["loc"][-1]), known)
            found.append(f"  {location}: unknown key.{nearest} Known: {', '.join(known)}.")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = "" if "\n" in message or fault["type"] == "value_error" else _shown(fault)
            mapping = isinstance(fault["input"], dict) and None in fault["input"].values()
            hint = _HINT if mapping and fault["type"] != "missing" else ""
            place = f"{location}: " if location else ""
            found.append(f"  {place}{message}{shown}{hint}")
    return "\n".join(dict.fromkeys(found))


_TOLD = "Value error,   "
"""How a fault begins that is a list of lines already."""
_INTERNAL = re.compile(r"^\(|[\[\]']")


_HINT = " YAML reads a value that ends in a colon as a mapping: quote it, 'FILE@100:'."


def _shown(fault: Any) -> str:
    if fault["type"] == "missing":
        return ""
    text = repr(fault["input"])
    return f" (got {text if len(text) < 60 else text[:57] + '…'})"


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the keys known where a fault is; the location may hold tags of unions."""
    for place, part in enumerate(location):
        field = model.model_fields.get(str(part))
        if field is not None:
            tag = location[place + 1] if place + 1 < len(location) else None
            model = _model_of(field.annotation, tag) or model
    return list(model.model_fields)


def _model_of(annotation: Any, tag: Any) -> type[BaseModel] | None:
    """Find the option class in an annotation: the only one, or the one with the tag."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    tags = [item.tag for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Tag)]
    if tags and tag not in tags:
        return None
    found = (_model_of(inner, tag) for inner in get_args(annotation))
    return next((item for item in found if item is not None), None)
