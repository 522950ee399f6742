"""Base of every option class; imports no torch, so recipes validate at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Tag, ValidationError, ValidationInfo, field_validator

from finetune.core.errors import suggestion


def merged_deeply(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, the second one's values first; only mappings go deeper."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merged_deeply(below, value) if both else value  # type: ignore[arg-type]
    return merged


def flattened(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys and their values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Options(BaseModel):
    """Unknown keys are errors, numbers are finite, values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        inner = list(value.values()) if isinstance(value, Mapping) else [value]
        types = _types(cls.model_fields[str(info.field_name)].annotation)
        wants_number = bool({int, float} & types) and not {bool, Any} & types
        if wants_number and any(isinstance(item, bool) for item in inner):
            raise ValueError("must be a number, not true or false")
        return value


def _types(annotation: Any) -> set[Any]:
    """Return every type that an annotation is made of."""
    found = {annotation} if isinstance(annotation, type) or annotation is Any else set()
    return found.union(*map(_types, get_args(annotation)))


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn a pydantic error into one line per fault, with the nearest known key."""
    found = lines(error, model)
    count = sum(line.startswith("  ") for line in found.splitlines())
    return f"{where} has {count} fault{'' if count == 1 else 's'}:\n{found}"


def lines(error: ValidationError, model: type[BaseModel], within: str = "") -> str:
    """Return one line for each fault of an option class.

    Args:
        error: What pydantic found.
        model: The option class.
        within: Dotted key of the recipe that holds the options.
    """
    found: list[str] = []
    faults: dict[str, list[Any]] = {}
    for fault in error.errors():
        if fault["type"] == "value_error" and fault["msg"].startswith(_TOLD):
            found.append(fault["msg"].removeprefix(_TOLD.removesuffix("  ")))
            continue
        parts = [within, *(str(part) for part in fault["loc"])]
        location = ".".join(part for part in parts if part and not _INTERNAL.search(part))
        faults.setdefault(location, []).append(fault)
    for location, alternatives in faults.items():
        kinds = [fault["type"] for fault in alternatives]
        is_choice = all(kind in _KINDS or kind == "literal_error" for kind in kinds)
        if is_choice and any(other.startswith(f"{location}.") for other in faults):
            continue  # the form that was meant is explained below
        place = f"{location}: " if location else ""
        if is_choice and len(alternatives) > 1:
            forms = list(dict.fromkeys(_KINDS.get(kind, "") for kind in kinds if kind in _KINDS))
            listed = " or ".join([", ".join(forms[:-1]), forms[-1]] if len(forms) > 1 else forms)
            found.append(
                f"  {place}must be {listed}{_shown(alternatives[0])}{_hint(alternatives[0])}"
            )
            continue
        found += [f"  {place}{_message(fault, model)}" for fault in alternatives]
    return "\n".join(dict.fromkeys(found))


def _message(fault: Any, model: type[BaseModel]) -> str:
    """Return what is wrong in the words of a user."""
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        nearest = suggestion(str(fault["loc"][-1]), known)
        if not known:
            return "unknown key: this kind has no options."
        return f"unknown key.{nearest} Known: {', '.join(known)}."
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return f"{fault['msg'].removeprefix('Value error, ')}{_hint(fault)}"
    if kind in _KINDS:
        message = f"must be {_KINDS[kind]}"
    elif kind in _BOUNDS:
        context = fault["ctx"].items()
        sizes = {name: f"{v:g}" if isinstance(v, float) else v for name, v in context}
        message = _BOUNDS[kind].format(**sizes)
    else:
        message = fault["msg"].replace("Input should be", "must be")
    return f"{message}{_shown(fault)}{_hint(fault)}"


_KINDS = {
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
"""What pydantic's faults of type mean."""
_BOUNDS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} entry",
    "string_too_short": "must not be empty",
}
"""What its faults of size mean."""
_TOLD = "Value error,   "
"""How a fault begins that is a list of lines already."""
_INTERNAL = re.compile(r"^\(|[\[\]']|^(str|int|float|bool|dict|list|tuple|none)$")
"""Tags of unions and pydantic's names of types, which are not for the user."""
_HINT = " YAML reads a value that ends in a colon as a mapping: quote it, 'FILE@100:'."


def _hint(fault: Any) -> str:
    mapping = isinstance(fault["input"], dict) and None in fault["input"].values()
    return _HINT if mapping else ""


def _shown(fault: Any) -> str:
    text = "nothing" if fault["input"] is None else repr(fault["input"])
    if "\n" in text:
        return ""
    return f" (got {text if len(text) < 60 else text[:57] + '…'})"


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the keys known where a fault is; the location may hold tags of unions."""
    for place, part in enumerate(location):
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _model_of(field.annotation, location[place + 1 :]) or model
    return list(model.model_fields)


def _model_of(annotation: Any, below: Sequence[Any]) -> type[BaseModel] | None:
    """Find the option class in an annotation: the only one, or the one whose tag is below."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    tags = [item.tag for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Tag)]
    if tags and not set(tags).intersection(below):
        return None
    found = (_model_of(inner, below) for inner in get_args(annotation))
    return next((item for item in found if item is not None), None)
