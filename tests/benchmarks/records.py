"""Results of a benchmark in one JSON file, so that a benchmark that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from finetune.core.files import write_atomically


class Records:
    """Named results, written after each.

    Args:
        path: JSON file.
        settings: What every result depends on, ready for JSON.

    Raises:
        SystemExit: If the file holds results that were computed with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._content = self._stored()

    def _stored(self) -> dict[str, Any]:
        if self._path.is_file():
            stored: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            for key, value in self._settings.items():
                if stored.get(key) != value:
                    raise SystemExit(f"{self._path} has {key} = {stored.get(key)}, not {value}.")
            return stored
        return {**self._settings, "runs": {}}

    def __contains__(self, name: str) -> bool:
        return name in self._content["runs"]

    def __getitem__(self, name: str) -> Any:
        return self._content["runs"][name]

    def keep(self, name: str, result: Any) -> None:
        """Add a result and write the file, with what other processes have added to it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            self._content = self._stored()
            self._content["runs"][name] = result
            text = json.dumps(self._content, indent=1, ensure_ascii=False) + "\n"
            write_atomically(self._path, text.encode())
