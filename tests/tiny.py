"""Small untrained MACE potentials."""

from typing import Any

from finetune.potentials.mace.family import MaceFamily
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.mace.settings import MaceSettings
from finetune.testing.analytic import small_potential


def tiny_settings(**changes: object) -> MaceSettings:
    """Return settings of a two-interaction MACE for H, C, N, O; ``changes`` replace fields."""
    return MaceSettings.model_validate({**MaceFamily().example().model_dump(), **changes})


def tiny_mace(seed: int = 0, *given: Any, **changes: Any) -> MacePotential:
    """Return an untrained MACE; see `finetune.testing.small_potential`."""
    found = small_potential("mace", seed, *given, **changes)
    assert isinstance(found, MacePotential)
    return found
