"""Build hook: ship recipes and data inside the wheel; a checkout uses its own."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = ("recipes", "data/foundation", "data/ccsdt", "data/sic")


class ShippedFiles(BuildHookInterface[Any]):
    """Adds the files that users list, copy and run to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the shipped folders, unless the wheel is an editable one."""
        if version == "standard":
            build_data["force_include"].update(
                {folder: f"finetune/shipped/{folder}" for folder in SHIPPED}
            )
