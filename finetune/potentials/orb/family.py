"""The ORB family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune.potentials.family import Family, Format
from finetune.potentials.orb.settings import OrbSettings

if TYPE_CHECKING:
    import torch

    from finetune.potentials.archive import Content
    from finetune.potentials.family import Weights
    from finetune.potentials.orb.potential import OrbPotential
    from finetune.potentials.published import Published


class OrbFamily(Family):
    """ORB v3 and OrbMol, direct and conservative, whose networks are those of orb-models."""

    Settings = OrbSettings
    title = "ORB"
    citation = (
        "B. Rhodes, S. Vandenhaute, V. Šimkus, J. Gin, J. Godwin, T. Duignan, M. Neumann, Orb-v3: "
        "atomistic simulation at scale, arXiv:2504.06231 (2025)"
    )
    packages = ("orb-models",)
    groups = {
        "readout": ("heads.*",),
        "force_head": ("heads.forces.*",),
        "interactions": ("gnn_stacks.*",),
        "embedding": ("atom_emb.*", "_encoder.*", "conditioner.*"),
    }

    def build(
        self, settings: OrbSettings, dtype: torch.dtype, head: str | None = None
    ) -> OrbPotential:
        """See `Family.build`."""
        from finetune.potentials.orb.potential import OrbPotential

        return OrbPotential.build(settings, dtype, head)

    def example(self) -> OrbSettings:
        """See `Family.example`."""
        return OrbSettings(
            atomic_numbers=(1, 6, 7, 8),
            atomic_energies=(-3.4, -8.2, -8.1, -8.4),
            direct=True,
            latent_dim=8,
            message_passing_steps=2,
            base_mlp_hidden_dim=16,
            head_mlp_hidden_dim=8,
        )

    def groups_of(self, settings: OrbSettings) -> Mapping[str, tuple[str, ...]]:
        """See `Family.groups_of`."""
        return {
            name: patterns
            for name, patterns in self.groups.items()
            if settings.direct or name != "force_head"
        }

    def assemble(
        self, settings: OrbSettings, weights: Weights, dtype: torch.dtype, head: str | None
    ) -> tuple[OrbPotential, Weights]:
        """See `Family.assemble`."""
        from finetune.potentials.orb.potential import assemble

        return assemble(settings, weights, dtype, head)

    def recognises(self, root: object) -> bool:
        """See `Family.recognises`."""
        from finetune.potentials.orb.checkpoint import is_orb

        return is_orb(root)

    def read(self, content: Content) -> tuple[OrbSettings, Weights]:
        """See `Family.read`."""
        from finetune.potentials.orb.checkpoint import read_checkpoint

        return read_checkpoint(content)

    def formats(self) -> Mapping[str, Format]:
        """See `Family.formats`."""
        from finetune.potentials.orb.checkpoint import write_checkpoint

        return {"orb": Format(".ckpt", write_checkpoint, "the loaders of orb-models")}

    def published(self) -> Mapping[str, Published]:
        """See `Family.published`."""
        from finetune.potentials.orb.published import published

        return published()
