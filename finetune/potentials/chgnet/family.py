"""The CHGNet family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune.potentials.chgnet.settings import ChgnetSettings
from finetune.potentials.family import Family, Format

if TYPE_CHECKING:
    import torch

    from finetune.potentials.archive import Content
    from finetune.potentials.chgnet.potential import ChgnetPotential
    from finetune.potentials.family import Weights
    from finetune.potentials.published import Published


class ChgnetFamily(Family):
    """CHGNet, whose networks are those of the chgnet package."""

    Settings = ChgnetSettings
    title = "CHGNet"
    citation = (
        "B. Deng, P. Zhong, K. Jun, J. Riebesell, K. Han, C. J. Bartel, G. Ceder, CHGNet as a "
        "pretrained universal neural network potential for charge-informed atomistic modelling, "
        "Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3"
    )
    packages = ("chgnet",)
    groups = {
        "readout": ("mlp.*",),
        "interactions": ("*_layers.*",),
        "embedding": ("*_embedding.*",),
        "basis": ("*_basis_expansion.*", "bond_weights_*"),
    }

    def build(
        self, settings: ChgnetSettings, dtype: torch.dtype, head: str | None = None
    ) -> ChgnetPotential:
        """See `Family.build`."""
        from finetune.potentials.chgnet.potential import ChgnetPotential

        return ChgnetPotential.build(settings, dtype, head)

    def example(self) -> ChgnetSettings:
        """See `Family.example`."""
        return ChgnetSettings(
            atomic_numbers=(1, 6, 7, 8),
            atomic_energies=(-3.4, -8.2, -8.1, -8.4),
            atom_fea_dim=8,
            bond_fea_dim=8,
            angle_fea_dim=8,
            num_radial=7,
            num_angular=5,
            n_conv=3,
            atom_conv_hidden_dim=8,
            bond_conv_hidden_dim=8,
            mlp_hidden_dims=(8, 8),
            atom_graph_cutoff=4.5,
        )

    def assemble(
        self, settings: ChgnetSettings, weights: Weights, dtype: torch.dtype, head: str | None
    ) -> tuple[ChgnetPotential, Weights]:
        """See `Family.assemble`; weights that no energy depends on are zero where not stored."""
        from finetune.potentials.chgnet.potential import assemble

        return assemble(settings, weights, dtype, head)

    def recognises(self, root: object) -> bool:
        """See `Family.recognises`."""
        from finetune.potentials.chgnet.checkpoint import is_chgnet

        return is_chgnet(root)

    def read(self, content: Content) -> tuple[ChgnetSettings, Weights]:
        """See `Family.read`."""
        from finetune.potentials.chgnet.checkpoint import read_checkpoint

        return read_checkpoint(content)

    def formats(self) -> Mapping[str, Format]:
        """See `Family.formats`."""
        from finetune.potentials.chgnet.checkpoint import write_checkpoint

        return {"chgnet": Format(".pth.tar", write_checkpoint, "CHGNet.from_file of chgnet")}

    def published(self) -> Mapping[str, Published]:
        """See `Family.published`."""
        from finetune.potentials.chgnet.published import published

        return published()
