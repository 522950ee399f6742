"""Base of every option class; imports no torch, so recipes validate at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


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
