"""Names of the foundation potentials that come with the package."""

from __future__ import annotations

from pathlib import Path

from finetune.resources import shipped


def embedded() -> dict[str, Path]:
    """Return the embedded foundation potentials: name -> folder."""
    root = shipped() / "data" / "foundation"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}
