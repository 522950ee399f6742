"""Potentials: contract, opening, storage, reference energies, domain; a room for each family."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "adapter_folder": (
            "AdapterRecord Origin adapters_needed locate_adapter read_adapter reference_record "
            "structure_of weight_digests write_record"
        ),
        "archive": "METADATA",
        "committee": "CommitteePotential CommitteeRecord mean read_committee share write_committee",
        "description": "describe",
        "domain": "Domain FarFromTrainingWarning",
        "errors": "ROWS Array Errors LabelledPredictions errors predict",
        "loading": (
            "Foundation ancestors entries fetch level_of_theory lineage lineage_labels "
            "load_foundation locate names"
        ),
        "mace.potential": "MacePotential MaceSettings mace_module mace_modules",
        "mace.published": "PUBLISHED",
        "potential": "Interaction Potential WrappedPotential innermost plain_name",
        "storage": "CONFIG mace_inside read_config",
    },
)
