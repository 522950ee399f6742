"""The family of SevenNet potentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune.potentials.family import Family, Format
from finetune.potentials.sevennet.settings import SevenNetSettings

if TYPE_CHECKING:
    import torch

    from finetune.potentials.archive import Content
    from finetune.potentials.family import Weights
    from finetune.potentials.published import Published
    from finetune.potentials.sevennet.potential import SevenNetPotential


class SevenNetFamily(Family):
    """NequIP's layers, pretrained on inorganic crystals (Park et al., 2024), one or more channels.

    The network is built from e3nn's layers: sevenn, which needs another e3nn than mace-torch does,
    is neither needed nor used.
    """

    Settings = SevenNetSettings
    title = "SevenNet"
    citation = (
        "Y. Park, J. Kim, S. Hwang, S. Han, Scalable Parallel Algorithm for Graph Neural Network "
        "Interatomic Potentials in Molecular Dynamics Simulations, J. Chem. Theory Comput. 20, "
        "4857 (2024), doi 10.1021/acs.jctc.4c00190; of models with several channels also J. Kim "
        "et al., Data-Efficient Multifidelity Training for High-Fidelity Machine Learning "
        "Interatomic Potentials, J. Am. Chem. Soc. 147, 1042 (2025), doi 10.1021/jacs.4c14455"
    )
    packages = ("e3nn",)
    groups = {
        "embedding": ("edge_embedding", "onehot_to_feature_x"),
        "interactions": ("[0-9]*",),
        "radial": ("edge_embedding", "*_convolution.weight_nn"),
        "readout": ("reduce_input_to_hidden", "reduce_hidden_to_energy", "readout_FCN"),
    }

    def build(
        self, settings: SevenNetSettings, dtype: torch.dtype, head: str | None = None
    ) -> SevenNetPotential:
        """See `Family.build`."""
        from finetune.potentials.sevennet.network import construct
        from finetune.potentials.sevennet.potential import SevenNetPotential

        return SevenNetPotential(settings, construct(settings, dtype), head)

    def assemble(
        self, settings: SevenNetSettings, weights: Weights, dtype: torch.dtype, head: str | None
    ) -> tuple[SevenNetPotential, Weights]:
        """See `Family.assemble`: the network as it was when ``head`` was trained."""
        from finetune.potentials.sevennet.potential import assemble

        return assemble(settings, weights, dtype, head)

    def example(self) -> SevenNetSettings:
        """See `Family.example`: two layers with parity."""
        return SevenNetSettings(
            cutoff=4.0,
            atomic_numbers=(1, 6, 7, 8),
            irreps=("4x0e", "4x0e+3x1o+2x2e", "4x0e"),
            edge_degree=2,
            num_bessel=5,
            radial_MLP=(8, 8),
            self_connections=("nequip", "linear"),
            denominators=(2.0, 2.0),
            shift=((-13.0, -1030.0, -1480.0, -2040.0),),
            scale=((1.5, 1.5, 1.5, 1.5),),
        )

    def recognises(self, root: object) -> bool:
        """See `Family.recognises`: a checkpoint, or an object of sevenn's own."""
        from finetune.potentials.archive import Record

        if isinstance(root, Record):
            return root.path.split(".")[0] == "sevenn"
        return isinstance(root, dict) and {"config", "model_state_dict"} <= root.keys()

    def read(self, content: Content) -> tuple[SevenNetSettings, Weights]:
        """See `Family.read`."""
        from finetune.potentials.sevennet.conversion import read_checkpoint

        return read_checkpoint(content)

    def formats(self) -> Mapping[str, Format]:
        """See `Family.formats`."""
        from finetune.potentials.sevennet import writing

        return {
            "sevennet": Format(
                ".pth", writing.checkpoint, "sevenn's calculator and training", single=True
            ),
            "lammps": Format(".pt", writing.lammps, writing.LAMMPS, single=True),
        }

    def published(self) -> Mapping[str, Published]:
        """See `Family.published`."""
        from finetune.potentials.sevennet.published import published

        return published()
