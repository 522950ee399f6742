"""What has been computed, one line each, on disk as soon as it is known.

A line is the first 16 digits of a sha256, a space and JSON. The first one names the level of
theory; each further one is the label of a structure, or why it has none. A line that is damaged, or
cut short by a kill, fails its checksum and is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.core.errors import DataError
from finetune.core.files import write_atomically
from finetune.labelling.task import Label

FORMAT, VERSION = "piwsl-finetune/labels", 1


@dataclass
class Journal:
    """Labels, and the reasons of failures, by the key of their task.

    ``asked`` says whether forces were computed too, as far as they are analytic; ``damaged`` counts
    the lines that were ignored.
    """

    path: Path
    labels: dict[str, Label] = field(default_factory=dict)
    asked: dict[str, bool] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    damaged: int = 0

    @classmethod
    def open(cls, path: Path, level: Mapping[str, Any]) -> Journal:
        """Read a journal, or begin one; an undamaged one without labels is begun for a new level.

        Raises DataError if it has labels of another level, or is not a journal.
        """
        found = cls(path)
        if not path.exists():
            return cls._begin(path, level)
        first, *rest = path.read_bytes().split(b"\n")
        header = _content(first)
        if header is None or header.get("format") != FORMAT or header.get("version") != VERSION:
            raise DataError(
                f"'{path}' does not begin like a journal of labels: it is damaged, or another kind "
                "of file. Move it away, choose another output, or add --overwrite."
            )
        for line in filter(None, rest):
            found._take(_content(line))
        before, now = _alike(header["level"]), _alike(level)
        if before != now:
            if not found.labels and not found.damaged:
                return cls._begin(path, level)
            other = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
            other = ["program"] if "program" in other else other
            listed = ", ".join(f"{k} {header['level'].get(k)} → {level.get(k)}" for k in other)
            raise DataError(
                f"'{path}' has labels of another level of theory ({listed}). Choose another "
                "output, or add --overwrite."
            )
        return found

    @classmethod
    def _begin(cls, path: Path, level: Mapping[str, Any]) -> Journal:
        write_atomically(path, _line({"format": FORMAT, "version": VERSION, "level": level}))
        return cls(path)

    def add_label(self, key: str, label: Mapping[str, Any], forces: bool) -> None:
        """Store a label; returns when it is on disk."""
        self._append({"key": key, "label": dict(label), "forces": forces})

    def add_failure(self, key: str, reason: str) -> None:
        """Store why a structure has no label."""
        self._append({"key": key, "reason": reason})

    def lacks(self, key: str, forces: bool, retry: bool) -> bool:
        """Whether a task is still to be computed."""
        if key in self.labels:
            return forces and not self.asked[key] and (retry or key not in self.failures)
        return retry or key not in self.failures

    def _append(self, content: dict[str, Any]) -> None:
        with self.path.open("r+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                cut = file.read(1) != b"\n"
                file.seek(0, os.SEEK_END)
                file.write(b"\n" * cut)
            file.write(_line(content))
            file.flush()
            os.fsync(file.fileno())
        self._take(content)

    def _take(self, content: dict[str, Any] | None) -> None:
        try:
            assert content is not None
            key = content["key"]
            if "label" in content:
                self.labels[key] = Label(**content["label"])
                self.asked[key] = content["forces"]
                self.failures.pop(key, None)
            else:
                self.failures[key] = content["reason"]
        except (AssertionError, KeyError, TypeError):
            self.damaged += 1


def holds_labels(path: Path) -> bool:
    """Whether a journal exists and has at least one label."""
    lines = path.read_bytes().split(b"\n")[1:] if path.is_file() else []
    return any("label" in (_content(line) or {}) for line in lines)


def _alike(level: Mapping[str, Any]) -> dict[str, Any]:
    """Return a level as a file has it, in lower case.

    Arguments of ASE calculators may be paths and names of classes, so they keep their case.
    """
    plain: dict[str, Any] = json.loads(json.dumps(level), parse_constant=str)
    return plain if plain.get("program") == "ase" else _folded(plain)


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return value.casefold()
    return {k: _folded(v) for k, v in value.items()} if isinstance(value, dict) else value


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False).encode()
    return hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"


def _content(line: bytes) -> dict[str, Any] | None:
    digest, _, text = line.partition(b" ")
    if hashlib.sha256(text).hexdigest()[:16].encode() != digest:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
