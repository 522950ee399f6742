"""Structures and their labels: reading, checks, stores, splits, graphs and batches."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "distances": "farthest fractional full_cell nearest",
        "duplicates": "TOLERANCE clusters",
        "graphs": "ENERGY_DTYPE GraphBatch batches concatenate graph",
        "labels": "QUANTITIES names_of",
        "reading": "Reader find_files read_structures",
        "splitting": "bootstrap hold_out",
        "store": "SUFFIXES check_suffix",
        "structures": (
            "Coverage Joined LazySequence Structure View check_geometry check_sizes coverage "
            "fingerprint from_atoms geometry_hash mapped some to_atoms without_labels"
        ),
        "writing": "XYZ check_name check_no_folder write_parts write_structures",
    },
)
