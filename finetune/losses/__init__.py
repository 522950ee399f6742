"""Losses, supervised and weakly supervised (PITC, PISC, …), and what displaces structures."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "frozen_foundation": "FrozenFoundation",
        "loss": "BASE Loss LossContext Request Site TotalLoss",
    },
)
