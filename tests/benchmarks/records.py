"""Results of a benchmark in one JSON file, so that a benchmark that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.files import write_atomically


class Records:
    """Named results, written after each.

    Args:
        path: JSON file; results that were computed with other settings are dropped.
        settings: What every result depends on, ready for JSON.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = {**settings, "runs": {}}
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if all(stored.get(key) == value for key, value in settings.items()):
                self._content = stored

    def __contains__(self, name: str) -> bool:
        return name in self._content["runs"]

    def __getitem__(self, name: str) -> Any:
        return self._content["runs"][name]

    def keep(self, name: str, result: Any) -> None:
        """Add a result and write the file."""
        self._content["runs"][name] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self._path, text.encode())
