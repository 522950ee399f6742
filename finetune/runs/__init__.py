"""One run, from recipe to run folder (`fine_tuning.fine_tune`); stages and committees."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "preparation": "Preparation check_draw",
        "result": "RunResult",
        "validation": "measured",
        "workflow": "read_recipe run validate validate_stages",
    },
)
