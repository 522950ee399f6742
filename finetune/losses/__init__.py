"""Losses: supervised ones on labels, weakly supervised ones on displaced copies.

Importing this package is cheap; implementations are imported when a run needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.registry import Registry

if TYPE_CHECKING:
    from finetune.losses.base import Loss

_OPTIONS = "finetune.losses.options"

losses: Registry[Loss] = Registry(
    kind="loss",
    group="piwsl_finetune.losses",
    builtin={
        "energy": ("finetune.losses.supervised:EnergyLoss", f"{_OPTIONS}:EnergyOptions"),
        "forces": ("finetune.losses.supervised:ForcesLoss", f"{_OPTIONS}:ForcesOptions"),
        "stress": ("finetune.losses.supervised:StressLoss", f"{_OPTIONS}:StressOptions"),
        "pitc": ("finetune.losses.taylor:TaylorLoss", f"{_OPTIONS}:TaylorOptions"),
        "second_difference": (
            "finetune.losses.curvature:SecondDifferenceLoss",
            f"{_OPTIONS}:SecondDifferenceOptions",
        ),
        "strain": ("finetune.losses.strain:StrainLoss", f"{_OPTIONS}:StrainOptions"),
        "replay": ("finetune.losses.replay:ReplayLoss", f"{_OPTIONS}:ReplayOptions"),
        "pisc": ("finetune.losses.spatial:SpatialLoss", f"{_OPTIONS}:SpatialOptions"),
    },
)

register_loss = losses.register
