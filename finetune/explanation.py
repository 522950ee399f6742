"""Say what is wrong in a recipe, with the nearest known key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, Tag, ValidationError

from finetune.errors import suggestion


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn a pydantic error into one line per fault, with the nearest known key."""
    return f"{where} has {error.error_count()} fault(s):\n{lines(error, model)}"


def lines(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line for each fault of an option class, without saying where it was read."""
    found = []
    for fault in error.errors():
        parts = [str(part) for part in fault["loc"]]
        location = ".".join(part for part in parts if not part.startswith("("))  # tags of unions
        if fault["type"] == "extra_forbidden":
            known = _keys_at(model, fault["loc"][:-1])
            nearest = suggestion(str(fault["loc"][-1]), known)
            found.append(f"  {location}: unknown key.{nearest} Known: {', '.join(known)}.")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = "" if "\n" in message or fault["type"] == "value_error" else _shown(fault)
            hint = (
                _HINT
                if isinstance(fault["input"], dict) and None in fault["input"].values()
                else ""
            )
            found.append(f"  {location or model.__name__}: {message}{shown}{hint}")
    return "\n".join(found)


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
