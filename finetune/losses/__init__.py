"""Losses, supervised and weakly supervised (PITC, PISC, …), and what displaces structures."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "context": "BASE LossContext Request Site",
        "frozen_foundation": "FrozenFoundation",
        "loss": "Loss TotalLoss",
    },
)
