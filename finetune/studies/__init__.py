"""Many runs: tune the settings of a recipe, compare variants of it."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "comparison": "compare",
        "comparison_result": "ComparisonResult",
        "tuning": "tune",
        "tuning_result": "TuningResult",
    },
)
