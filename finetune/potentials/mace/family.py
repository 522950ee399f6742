"""The family of MACE potentials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.potentials.family import Family, Format, MatrixStack
from finetune.potentials.mace.settings import MaceSettings

if TYPE_CHECKING:
    import torch

    from finetune.potentials.archive import Content
    from finetune.potentials.family import Weights
    from finetune.potentials.mace.potential import MacePotential
    from finetune.potentials.published import Published


class MaceFamily(Family):
    """Higher-order equivariant message passing (I. Batatia et al., NeurIPS 2022)."""

    Settings = MaceSettings
    title = "MACE"
    citation = (
        "I. Batatia et al., MACE: Higher Order Equivariant Message Passing Neural Networks, "
        "NeurIPS 2022, arXiv 2206.07697"
    )
    packages = ("mace-torch",)
    groups = {
        "embedding": ("node_embedding", "radial_embedding"),
        "interactions": ("interactions.*",),
        "products": ("products.*",),
        "readout": ("readouts.*",),
    }

    def build(
        self, settings: MaceSettings, dtype: torch.dtype, head: str | None = None
    ) -> MacePotential:
        """See `Family.build`."""
        from finetune.potentials.mace.potential import MacePotential

        return MacePotential.build(settings, dtype, head)

    def assemble(
        self, settings: MaceSettings, weights: Weights, dtype: torch.dtype, head: str | None
    ) -> tuple[MacePotential, Weights]:
        """See `Family.assemble`: the model as it was when ``head`` was trained."""
        from finetune.potentials.mace.potential import assemble

        return assemble(settings, weights, dtype, head)

    def example(self) -> MaceSettings:
        """See `Family.example`: two interactions."""
        return MaceSettings(
            r_max=4.0,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=2,
            hidden_irreps="4x0e + 4x1o",
            MLP_irreps="4x0e",
            radial_MLP=(8, 8),
            correlation=2,
            avg_num_neighbors=6.0,
            atomic_numbers=(1, 6, 7, 8),
            atomic_energies=((-13.0, -1030.0, -1480.0, -2040.0),),
            atomic_inter_scale=(1.5,),
            atomic_inter_shift=(-0.2,),
        )

    def recognises(self, root: object) -> bool:
        """See `Family.recognises`: a model that `torch.save` pickled."""
        from finetune.potentials.archive import Record

        return isinstance(root, Record) and root.path.split(".")[0] == "mace"

    def read(self, content: Content) -> tuple[MaceSettings, Weights]:
        """See `Family.read`."""
        from finetune.potentials.mace.conversion import read_model

        return read_model(content)

    def read_trusted(self, path: Path) -> tuple[MaceSettings, Weights]:
        """See `Family.read_trusted`."""
        from finetune.potentials.mace.trusted import read_trusted

        return read_trusted(path)

    def accelerate(self, potential: MacePotential, kind: str) -> MacePotential:
        """See `Family.accelerate`: layers of cuEquivariance or OpenEquivariance."""
        from finetune.potentials.mace import acceleration

        chosen = acceleration.choose(kind, potential.device)
        return potential if chosen == "none" else acceleration.accelerate(potential, chosen)

    def plain(self, potential: MacePotential) -> MacePotential:
        """See `Family.plain`."""
        from finetune.potentials.mace import acceleration

        return acceleration.plain(potential)

    def formats(self) -> Mapping[str, Format]:
        """See `Family.formats`."""
        from finetune.potentials.mace import exports

        return {
            "mace": Format(".model", exports.model, "MACE's calculator and LAMMPS converter"),
            "lammps": Format(".pt", exports.torchscript, "LAMMPS, pair_style mace"),
            "lammps-mliap": Format(".pt", exports.mliap, "LAMMPS, pair_style mliap unified"),
        }

    def published(self) -> Mapping[str, Published]:
        """See `Family.published`."""
        from finetune.potentials.mace.published import published

        return published()

    def matrix_stacks(self) -> Mapping[type, MatrixStack]:
        """See `Family.matrix_stacks`: symmetric contractions; the highest order is the main one."""
        from finetune.potentials.mace.potential import (
            HIGHEST,
            contraction_class,
            contraction_weights,
        )

        return {contraction_class(): MatrixStack(contraction_weights, HIGHEST)}
