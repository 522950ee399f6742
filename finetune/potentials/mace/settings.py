"""Settings of a MACE: the arguments of its constructor, without its weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune.potentials.settings import LONGEST, FamilySettings, elements_row

FURTHER_INPUTS = ("total_charge", "total_spin")
Gate = Literal["silu", "tanh", "abs", "None"]


class MaceSettings(FamilySettings):
    """Constructor arguments of a MACE, without its weights.

    Names are those of `mace.modules.MACE`; classes are given by name and irreps as strings.
    ``atomic_energies`` (eV), ``atomic_inter_scale`` and ``atomic_inter_shift`` hold one entry for
    each head.
    """

    architecture: Literal["MACE", "ScaleShiftMACE"] = "ScaleShiftMACE"
    r_max: float = Field(gt=0, le=LONGEST, description="cutoff, Å")
    num_bessel: int = Field(8, ge=1)
    num_polynomial_cutoff: int = Field(6, ge=2)
    max_ell: int = Field(3, ge=0)
    interaction_cls: str = "RealAgnosticResidualInteractionBlock"
    interaction_cls_first: str = "RealAgnosticResidualInteractionBlock"
    num_interactions: int = Field(2, ge=1)
    hidden_irreps: str
    MLP_irreps: str = "16x0e"
    avg_num_neighbors: float = Field(gt=0)
    atomic_numbers: tuple[int, ...] = Field(min_length=1)
    atomic_energies: tuple[tuple[float, ...], ...] = Field(min_length=1)
    correlation: int | tuple[int, ...] = 3
    gate: Gate = "silu"
    radial_MLP: tuple[int, ...] = (64, 64, 64)  # noqa: N815 (MACE's name)
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    pair_repulsion: bool = False
    apply_cutoff: bool = True
    use_reduced_cg: bool = True
    use_so3: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    edge_irreps: str | None = None
    use_edge_irreps_first: bool = False
    readout_cls: str = "NonLinearReadoutBlock"
    keep_last_layer_irreps: bool = False
    heads: tuple[str, ...] = ("Default",)
    atomic_inter_scale: tuple[float, ...] = (1.0,)
    atomic_inter_shift: tuple[float, ...] = (0.0,)
    embedding_specs: dict[str, dict[str, str | int | bool]] | None = Field(
        None, description="further inputs by name (total_charge, total_spin) and their embeddings"
    )
    use_embedding_readout: bool = False

    def head_names(self) -> tuple[str, ...]:
        """See `FamilySettings.head_names`."""
        return self.heads

    def description(self) -> list[tuple[str, str]]:
        """Return the architecture as lines of a table: names and values."""
        later = [self.interaction_cls] * (self.num_interactions - 1)
        interactions = [self.interaction_cls_first, *later]
        rows = [
            ("architecture", self.architecture),
            ("cutoff", f"{self.r_max:g} Å"),
            ("hidden irreps", self.hidden_irreps),
            ("edge irreps", self.edge_irreps or ""),
            ("spherical harmonics", f"to degree {self.max_ell}"),
            ("correlation", str(self.correlation)),
            ("interactions", ", ".join(interactions)),
            ("radial basis", f"{self.num_bessel} {self.radial_type}"),
            ("distance transform", self.distance_transform),
            ("pair repulsion", "ZBL" if self.pair_repulsion else "none"),
            ("further inputs", ", ".join(self.embedding_specs or {})),
            ("heads", ", ".join(self.heads)),
            elements_row(self.atomic_numbers),
        ]
        return [(label, value) for label, value in rows if value]

    def elements_known(self) -> tuple[int, ...]:
        """See `FamilySettings.elements_known`."""
        return self.atomic_numbers

    def identity(self) -> str:
        """See `FamilySettings.identity`."""
        later = ("embedding_specs", "use_embedding_readout")
        return self.model_dump_json(exclude={name for name in later if not getattr(self, name)})
