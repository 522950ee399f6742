"""JSON files that hold what a potential or an adapter is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from finetune.errors import FoundationError

Record = TypeVar("Record", bound=BaseModel)


def read_record(
    path: Path, kind: type[Record], check: Callable[[Any], None] = lambda raw: None
) -> Record:
    """Read and validate a JSON file.

    Args:
        path: File to read.
        kind: What it becomes.
        check: Refuses content that is of another kind altogether.

    Raises:
        FoundationError: If the file is missing, damaged or of another kind.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        check(raw)
        return kind.model_validate(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        reason = fault["msg"].removeprefix("Value error, ")
        raise FoundationError(f"'{path}' is damaged at '{place}': {reason}.") from None
