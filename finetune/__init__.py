"""piwsl-finetune: fine-tune pretrained interatomic potentials on sparse ab initio labels.

    import finetune

    result = finetune.run("quickstart.yaml", ["train.epochs=50"])
    atoms.calc = finetune.load_calculator(result.folder)

Heavy libraries are imported when a name that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.core.errors import FinetuneError
from finetune.recipe.plugins import register_adapter, register_loss
from finetune.recipe.recipe import Recipe

if TYPE_CHECKING:
    from finetune.adapters.adapter import AdaptedPotential, Adapter
    from finetune.evaluation.dynamics import md
    from finetune.evaluation.evaluation import Comparison, evaluate
    from finetune.evaluation.report_page import report
    from finetune.evaluation.scans import scan
    from finetune.export.calculator import CommitteeCalculator, PotentialCalculator, load_calculator
    from finetune.export.switching import AdaptedFoundation
    from finetune.labelling.result import LabelResult
    from finetune.labelling.run import label
    from finetune.losses.loss import Loss
    from finetune.potentials.family import Family, register_family
    from finetune.potentials.loading import Foundation, load_foundation
    from finetune.potentials.potential import FamilyPotential, Potential, WrappedPotential
    from finetune.potentials.settings import FamilySettings
    from finetune.runs.result import RunResult
    from finetune.runs.workflow import run, validate
    from finetune.studies.comparison import compare
    from finetune.studies.comparison_result import ComparisonResult
    from finetune.studies.tuning import tune
    from finetune.studies.tuning_result import TuningResult

__version__ = "0.1.0"

_LAZY = {
    "AdaptedFoundation": "finetune.export.switching",
    "AdaptedPotential": "finetune.adapters.adapter",
    "Adapter": "finetune.adapters.adapter",
    "CommitteeCalculator": "finetune.export.calculator",
    "Comparison": "finetune.evaluation.evaluation",
    "ComparisonResult": "finetune.studies.comparison_result",
    "Family": "finetune.potentials.family",
    "FamilyPotential": "finetune.potentials.potential",
    "FamilySettings": "finetune.potentials.settings",
    "Foundation": "finetune.potentials.loading",
    "LabelResult": "finetune.labelling.result",
    "Loss": "finetune.losses.loss",
    "Potential": "finetune.potentials.potential",
    "PotentialCalculator": "finetune.export.calculator",
    "RunResult": "finetune.runs.result",
    "TuningResult": "finetune.studies.tuning_result",
    "WrappedPotential": "finetune.potentials.potential",
    "compare": "finetune.studies.comparison",
    "evaluate": "finetune.evaluation.evaluation",
    "md": "finetune.evaluation.dynamics",
    "label": "finetune.labelling.run",
    "report": "finetune.evaluation.report_page",
    "scan": "finetune.evaluation.scans",
    "load_calculator": "finetune.export.calculator",
    "load_foundation": "finetune.potentials.loading",
    "register_family": "finetune.potentials.family",
    "run": "finetune.runs.workflow",
    "tune": "finetune.studies.tuning",
    "validate": "finetune.runs.workflow",
}

__all__ = [
    "AdaptedFoundation",
    "AdaptedPotential",
    "Adapter",
    "CommitteeCalculator",
    "Comparison",
    "ComparisonResult",
    "Family",
    "FamilyPotential",
    "FamilySettings",
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
    "register_family",
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
