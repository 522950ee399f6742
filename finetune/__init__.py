"""piwsl-finetune: fine-tune pretrained interatomic potentials on sparse ab initio labels.

    import finetune

    result = finetune.run("quickstart.yaml", ["train.epochs=50"])
    atoms.calc = finetune.load_calculator(result.folder)

Heavy libraries are imported when a name that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.adapters import register_adapter
from finetune.errors import FinetuneError
from finetune.losses import register_loss
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.adapters.base import AdaptedPotential, Adapter
    from finetune.assessment import evaluate, md, report, scan
    from finetune.comparison.compare import compare
    from finetune.comparison.result import ComparisonResult
    from finetune.export.calculator import (
        CommitteeCalculator,
        PotentialCalculator,
        load_calculator,
    )
    from finetune.export.switching import AdaptedFoundation
    from finetune.foundation.loading import Foundation, load_foundation
    from finetune.foundation.potential import Potential
    from finetune.foundation.wrapped import WrappedPotential
    from finetune.labelling.outcome import LabelResult
    from finetune.labelling.run import label
    from finetune.losses.base import Loss
    from finetune.result import Comparison, RunResult
    from finetune.tuning.result import TuningResult
    from finetune.tuning.tune import tune
    from finetune.workflow import run, validate

__version__ = "0.1.0"

_LAZY = {
    "AdaptedFoundation": "finetune.export.switching",
    "AdaptedPotential": "finetune.adapters.base",
    "Adapter": "finetune.adapters.base",
    "CommitteeCalculator": "finetune.export.calculator",
    "Comparison": "finetune.result",
    "ComparisonResult": "finetune.comparison.result",
    "Foundation": "finetune.foundation.loading",
    "LabelResult": "finetune.labelling.outcome",
    "Loss": "finetune.losses.base",
    "Potential": "finetune.foundation.potential",
    "PotentialCalculator": "finetune.export.calculator",
    "RunResult": "finetune.result",
    "TuningResult": "finetune.tuning.result",
    "WrappedPotential": "finetune.foundation.wrapped",
    "compare": "finetune.comparison.compare",
    "evaluate": "finetune.assessment",
    "md": "finetune.assessment",
    "label": "finetune.labelling.run",
    "report": "finetune.assessment",
    "scan": "finetune.assessment",
    "load_calculator": "finetune.export.calculator",
    "load_foundation": "finetune.foundation.loading",
    "run": "finetune.workflow",
    "tune": "finetune.tuning.tune",
    "validate": "finetune.workflow",
}

__all__ = [
    "AdaptedFoundation",
    "AdaptedPotential",
    "Adapter",
    "CommitteeCalculator",
    "Comparison",
    "ComparisonResult",
    "FinetuneError",
    "Foundation",
    "LabelResult",
    "Loss",
    "Potential",
    "PotentialCalculator",
    "Recipe",
    "RunResult",
    "TuningResult",
    "WrappedPotential",
    "compare",
    "evaluate",
    "label",
    "load_calculator",
    "load_foundation",
    "md",
    "register_adapter",
    "register_loss",
    "report",
    "run",
    "scan",
    "tune",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'finetune' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
