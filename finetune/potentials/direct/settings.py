"""Settings of a potential with a head for forces."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from finetune.core.options import Options
from finetune.potentials.family import settings_of
from finetune.potentials.settings import FamilySettings

Removed = Literal["nothing", "force", "force_and_torque"]
"""What is taken off the forces of a structure: the net force, and the net torque of a molecule."""


class Base(Options):
    """The potential whose features the head reads: its family and that family's settings."""

    family: str
    settings: SerializeAsAny[FamilySettings]

    @field_validator("settings", mode="before")
    @classmethod
    def _of_its_family(cls, value: Any, info: ValidationInfo) -> Any:
        return settings_of(info.data["family"], value) if "family" in info.data else value


class DirectSettings(FamilySettings):
    """A potential of another family, ``base``, with a head for forces of ``channels`` vectors."""

    base: Base
    channels: int = Field(64, ge=1, le=4096)
    removed: Removed = "force_and_torque"

    def elements_known(self) -> tuple[int, ...]:
        """See `FamilySettings.elements_known`."""
        return self.base.settings.elements_known()

    def description(self) -> list[tuple[str, str]]:
        """See `FamilySettings.description`: that of the base, and the head."""
        less = {"nothing": "", "force": "net force", "force_and_torque": "net force and torque"}
        taken = less[self.removed]
        head = f"predicted by a head (direct) of {self.channels} vectors"
        head += f", {taken} removed" if taken else ""
        return [*self.base.settings.description(), ("forces", head)]

    def identity(self) -> str:
        """See `FamilySettings.identity`."""
        own = self.model_dump_json(exclude={"base"})
        return f"{self.base.family} {self.base.settings.identity()} {own}"
