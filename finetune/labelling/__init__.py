"""Ab initio labels: levels of theory, programs, the journal, and which structures to label."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "programs": "open_program",
        "recipe": "LabelRecipe PyscfLevel read_yaml",
        "result": "LabelResult",
        "run": "label",
        "selection": "disagreement farthest_points",
        "task": "Task",
    },
)
