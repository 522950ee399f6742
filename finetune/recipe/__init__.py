"""What a recipe may say: sections, losses, adapters, optimisers, overrides; imports no torch."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "adapter_options": (
            "REFUSED STANDARD AdapterRules ForceHeadOptions FrozenOptions FullOptions HeadOptions "
            "LoraOptions ReadoutOptions ShiftOptions TrainingDefaults"
        ),
        "loss_options": (
            "LARGEST LARGEST_STRAIN PULL SUPERVISED ChosenSize ConsistencyOptions "
            "DisplacementOptions EnergyOptions ExtrapolationOptions ForcesOptions "
            "GradientMatchOptions LossOptions ReplayOptions Schedule SecondDifferenceOptions "
            "SpatialOptions StrainOptions StressOptions TaylorOptions at peak to_be_chosen"
        ),
        "optimisers": "suited used_labels",
        "plugins": "adapter_rules adapters losses register_adapter register_loss",
        "recipe": "INCONSEQUENTIAL Recipe overridden read_values read_yaml",
        "schema": "recipe_schema",
        "sections": "Choices DataRecipe LabelKeys Range TrackRecipe TrainRecipe label_keys",
    },
)
