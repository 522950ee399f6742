"""JSON files that describe what is stored: read, checked, and refused in plain words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from finetune.core.errors import FoundationError
from finetune.core.units import Units

Record = TypeVar("Record", bound=BaseModel)


def read_record(
    path: Path, kind: type[Record], check: Callable[[Any], None] = lambda raw: None
) -> Record:
    """Read and validate a JSON file; ``check`` refuses, by a `FoundationError`, another kind."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        check(raw)
        return kind.model_validate(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except ValidationError as error:
        place, reason, _ = first_fault(error)
        raise FoundationError(f"'{path}' is damaged at '{place}': {reason}.") from None


def first_fault(error: ValidationError) -> tuple[str, str, Any]:
    """Return place, reason and value of the first fault."""
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    return place, fault["msg"].removeprefix("Value error, "), fault["input"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Data(_Part):
    valid: str | list[str] | float | None = None
    test: str | list[str] | None = None
    keys: dict[str, str] = Field(default_factory=dict)
    units: Units = Units()


class _Adapter(_Part):
    kind: str = ""


class _Recipe(_Part):
    adapter: _Adapter = _Adapter()
    data: _Data = _Data()


class _Origin(_Part):
    name: str
    fingerprint: str
    head: str | None = None


class _Known(_Part):
    """The entries that are read again; all others are free."""

    foundation: _Origin | None = None
    recipe: _Recipe = _Recipe()
    compositions: list[str] | None = None


def checked(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata unchanged; refuse, by a `ValueError`, entries that a run does not write."""
    try:
        _Known.model_validate({**metadata, "foundation": metadata.get("foundation") or None})
    except ValidationError as error:
        place, reason, _ = first_fault(error)
        raise ValueError(f"its entry '{place}' is not what a run writes: {reason}") from None
    return dict(metadata)


Metadata = Annotated[dict[str, Any], AfterValidator(checked)]
"""The type of ``metadata`` in a record."""
