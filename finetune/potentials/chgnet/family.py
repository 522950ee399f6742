"""The CHGNet family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Content
from finetune.potentials.chgnet.checkpoint import is_chgnet, read_checkpoint, write_checkpoint
from finetune.potentials.chgnet.potential import UNUSED, ChgnetPotential
from finetune.potentials.chgnet.settings import ChgnetSettings
from finetune.potentials.family import Family, Format
from finetune.potentials.potential import choose_head


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

    def build(self, settings: Any, dtype: torch.dtype, head: str | None = None) -> ChgnetPotential:
        """See `Family.build`."""
        choose_head(ChgnetPotential.heads, head)
        return ChgnetPotential.build(settings, dtype)

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
        self,
        settings: Any,
        weights: dict[str, torch.Tensor],
        dtype: torch.dtype,
        head: str | None,
    ) -> tuple[ChgnetPotential, dict[str, torch.Tensor]]:
        """See `Family.assemble`; weights that no energy depends on are zero where not stored."""
        with torch.random.fork_rng(devices=[]):
            potential = self.build(settings, dtype, head)
        own = {name: item for name, item in weights.items() if not name.startswith(UNUSED)}
        for name, tensor in potential.unused.items():
            stored = weights.get(f"{UNUSED}{name}", torch.zeros_like(tensor))
            if stored.shape != tensor.shape:
                raise FoundationError(
                    f"the stored weight '{UNUSED}{name}' has the shape {tuple(stored.shape)}, not "
                    f"{tuple(tensor.shape)}. Get a fresh copy."
                )
            potential.unused[name] = stored.detach().to("cpu", dtype, copy=True)
        return potential, own

    def recognises(self, root: object) -> bool:
        """See `Family.recognises`."""
        return is_chgnet(root)

    def read(self, content: Content) -> tuple[ChgnetSettings, dict[str, torch.Tensor]]:
        """See `Family.read`."""
        return read_checkpoint(content)

    def formats(self) -> Mapping[str, Format]:
        """See `Family.formats`."""
        purpose = "what CHGNet.from_file of the chgnet package opens"
        return {"chgnet": Format(".pth.tar", write_checkpoint, purpose)}  # type: ignore[arg-type]
