"""Checks of data, each once: on data alone, or against a potential."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "agreement": "against agreement findings",
        "labels": "Read",
        "data_warnings": "unmatched_inputs",
        "requirements": (
            "check_adapted check_direct_forces check_elements check_labels check_single "
            "chosen_monitor foreign_compositions has_label"
        ),
    },
)
