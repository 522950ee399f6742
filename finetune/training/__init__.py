"""The training loop: batches, steps of an optimiser, validation, checkpoints, records."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "batches": "Processes TrainingData",
        "checkpoints": "GO_ON",
        "loop": "Trainer TrainingOutcome",
        "optimisers.optimiser": "count_by_group parameter_groups",
        "records": (
            "Plain Record Reporter Several Silent check_installed monitored reporter_for "
            "trackers validation_loss"
        ),
    },
)
