"""MACE architectures at small width: each part once."""

from itertools import product

ENERGIES = ((-1.3, -10.3, -14.8, -20.4), (-1.4, -10.4, -14.9, -20.5))
"""eV; small, so that energies can be compared to 1e-10 eV: real ones leave two digits less."""
HEADS: dict[str, object] = {
    "heads": ("dft", "cc"),
    "atomic_energies": ENERGIES,
    "atomic_inter_scale": (1.5, 1.2),
    "atomic_inter_shift": (-0.2, 0.1),
}
DENSITY = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
NONLINEAR = {
    "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
    "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
}
BLOCKS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)
IRREPS = ("4x0e", "4x0e+4x1o", "2x0e+2x1o+2x2e")
CHARGE_AND_SPIN = {
    "total_spin": {
        **{"type": "categorical", "per": "graph", "in_dim": 1, "emb_dim": 8},
        **{"num_classes": 11, "offset": 0},
    },
    "total_charge": {
        **{"type": "categorical", "per": "graph", "in_dim": 1, "emb_dim": 8},
        **{"num_classes": 21, "offset": 10},
    },
}
CONTINUOUS = {
    "total_charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4},
}
ARCHITECTURES: dict[str, dict[str, object]] = {
    **{
        f"L={degree}, correlation {correlation}": {
            "hidden_irreps": IRREPS[degree],
            "correlation": correlation,
            "avg_num_neighbors": 6.123,
        }
        for degree, correlation in product((0, 1, 2), (2, 3))
    },
    **{f"{block} first": {"interaction_cls_first": block} for block in BLOCKS},
    **{f"{block} later": {"interaction_cls": block} for block in BLOCKS},
    **{
        f"{radial}, {transform}": {
            "radial_type": radial,
            "distance_transform": transform,
            # MACE takes Chebyshev polynomials of the length in Å, which grow without bound
            "num_bessel": 2 if radial == "chebyshev" else 4,
        }
        for radial, transform in product(
            ("bessel", "gaussian", "chebyshev"), ("None", "Agnesi", "Soft")
        )
    },
    "one interaction": {"num_interactions": 1},
    "three interactions, MACE, correlation by layer": {
        "num_interactions": 3,
        "architecture": "MACE",
        "correlation": (2, 2, 1),
    },
    "MACE, ZBL": {"architecture": "MACE", "pair_repulsion": True},
    "MACE, two heads": {"architecture": "MACE", **HEADS},
    "ZBL, Agnesi, density blocks, no gate": {
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        **DENSITY,
        "gate": "None",
    },
    "nonlinear blocks, edge irreps, bias readout, no cutoff in the basis": {
        **NONLINEAR,
        "readout_cls": "NonLinearBiasReadoutBlock",
        "apply_cutoff": False,
        "edge_irreps": "2x0e+2x1o",
        "use_edge_irreps_first": True,
        "gate": "tanh",
    },
    "two heads, agnostic product, SO(3)": {
        **HEADS,
        "use_agnostic_product": True,
        "use_so3": True,
        "hidden_irreps": "4x0e + 4x1e",
    },
    "two heads, bias readout": {**HEADS, "readout_cls": "NonLinearBiasReadoutBlock"},
    "last readout only, irreps of the last layer kept": {
        "use_last_readout_only": True,
        "keep_last_layer_irreps": True,
    },
    "full coupling coefficients": {"use_reduced_cg": False, "correlation": 3},
    "charge and spin": {"embedding_specs": CHARGE_AND_SPIN},
    "charge and spin, readout of the embedding": {
        "embedding_specs": CHARGE_AND_SPIN,
        "use_embedding_readout": True,
    },
    "continuous charge, MACE": {"embedding_specs": CONTINUOUS, "architecture": "MACE"},
}
"""Every part that MACE offers, most of them alone."""

FAST = {
    "ZBL, Agnesi, density blocks, no gate",
    "nonlinear blocks, edge irreps, bias readout, no cutoff in the basis",
    "two heads, agnostic product, SO(3)",
}
"""Those that the fast tests try; the slow tests try all."""
