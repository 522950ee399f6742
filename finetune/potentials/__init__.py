"""Potentials: contract, opening, storage, reference energies, domain; a room for each family."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "adapter_folder": (
            "AdapterRecord Origin adapters_needed locate_adapter read_adapter reference_record "
            "structure_of weight_digests write_record"
        ),
        "archive": "read_archive",
        "catalogue": "covering entries fetch names published",
        "committee": "CommitteePotential CommitteeRecord mean read_committee share write_committee",
        "description": "describe",
        "direct.potential": "DirectPotential",
        "domain": "Domain FarFromTrainingWarning",
        "errors": "GRADIENT_ROWS ROWS Array Errors Indices LabelledPredictions errors predict",
        "equivariant": "quiet_import",
        "family": ("Family Format MatrixStack UNNAMED families family register_family versions"),
        "loading": (
            "Foundation ancestors known_elements level_of_theory lineage lineage_labels "
            "load_foundation locate"
        ),
        "opening": "recognised",
        "potential": (
            "Edges FamilyPotential Interaction Potential WrappedPotential block choose_head "
            "edges_within innermost plain_name"
        ),
        "settings": "FamilySettings",
        "storage": "CONFIG family_potential read_config",
    },
)
