"""Write a SevenNet as a checkpoint of sevenn, and for LAMMPS through sevenn's own program."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ase.data import chemical_symbols

from finetune.core.errors import FoundationError
from finetune.potentials.archive import write_archive
from finetune.potentials.sevennet.network import unfilled
from finetune.potentials.sevennet.potential import SevenNetPotential
from finetune.potentials.sevennet.settings import SevenNetSettings

VERSION = "0.12.0"
"""The release of sevenn whose form of checkpoints is written; later ones read it, too."""
LAMMPS = (
    "LAMMPS, pair_style e3gnn; needs sevenn: without it, export sevennet and run "
    "'sevenn get_model FILE.pth' where sevenn is installed"
)
"""What the format is for, and what it needs."""


def checkpoint(
    potential: SevenNetPotential, dtype: torch.dtype, metadata: Mapping[str, Any]
) -> bytes:
    """Return a checkpoint that sevenn opens, with all heads.

    sevenn computes in single precision, so the weights are written in it, whatever ``dtype`` is.
    ``metadata`` become an entry of the zip archive that the file is, which sevenn ignores. Raises
    FoundationError if an adapter has added parameters that a SevenNet does not have.
    """
    settings = potential.settings
    network = unfilled(settings, torch.float32)
    potential.fill(network)
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for index, denominator in enumerate(settings.denominators):
        tensors[f"{index}_convolution.denominator"] = torch.tensor([denominator])
    several = len(settings.heads) > 1
    for name, rows in (("shift", settings.shift), ("scale", settings.scale)):
        values = torch.tensor(rows, dtype=torch.float32)
        tensors[f"rescale_atomic_energy.{name}"] = values if several else values[0]
    content = {
        "config": configuration(settings),
        "model_state_dict": tensors,
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "epoch": 0,
    }
    return write_archive(content, metadata)


def configuration(settings: SevenNetSettings) -> dict[str, Any]:
    """Return the settings as sevenn's checkpoints hold them: builtin types alone."""
    several = len(settings.heads) > 1
    shift, scale = ([list(row) for row in rows] for rows in (settings.shift, settings.scale))
    cutoff: dict[str, Any] = {
        "cutoff_function_name": "poly_cut",
        "poly_cut_p_value": settings.polynomial_power,
    }
    if settings.cutoff_function == "XPLOR":
        cutoff = {"cutoff_function_name": "XPLOR", "cutoff_on": settings.xplor_onset}
    basis: dict[str, Any] = {
        "radial_basis_name": "bessel",
        "bessel_basis_num": settings.num_bessel,
    }
    if not settings.trained_bessel:
        basis["trainable_coeff"] = False
    numbers = settings.atomic_numbers
    found: dict[str, Any] = {
        "version": VERSION,
        "_model_type": "E3_equivariant_model",
        "dtype": "single",
        "chemical_species": [chemical_symbols[number] for number in numbers],
        "_chemical_species_by_atomic_number": list(numbers),
        "_number_of_species": len(numbers),
        "_type_map": {number: index for index, number in enumerate(numbers)},
        "cutoff": settings.cutoff,
        "channel": _first_multiplicity(settings),
        "irreps_manual": [irreps.replace(" ", "") for irreps in settings.irreps],
        "lmax": settings.edge_degree,
        "lmax_edge": -1,
        "lmax_node": -1,
        "is_parity": settings.parity,
        "num_convolution_layer": len(settings.irreps) - 1,
        "interaction_type": "nequip",
        "self_connection_type": list(settings.self_connections),
        "radial_basis": basis,
        "cutoff_function": cutoff,
        "weight_nn_hidden_neurons": list(settings.radial_MLP),
        "act_radial": settings.radial_activation,
        "act_scalar": {"e": settings.even_scalars, "o": settings.odd_scalars},
        "act_gate": {"e": settings.even_gates, "o": settings.odd_gates},
        "conv_denominator": list(settings.denominators),
        "train_denominator": False,
        "train_shift_scale": False,
        "use_bias_in_linear": settings.bias,
        "readout_as_fcn": settings.readout_MLP is not None,
        "_normalize_sph": settings.unit_vectors,
        "use_modality": several,
        "use_modal_node_embedding": "embedding" in settings.head_layers,
        "use_modal_self_inter_intro": "before" in settings.head_layers,
        "use_modal_self_inter_outro": "after" in settings.head_layers,
        "use_modal_output_block": "readout" in settings.head_layers,
        "use_modal_wise_shift": several,
        "use_modal_wise_scale": several,
        "shift": shift if several else shift[0],
        "scale": scale if several else scale[0],
        "cuequivariance_config": {},
        "use_flash_tp": False,
        "use_oeq": False,
    }
    if settings.readout_MLP is not None:
        found["readout_fcn_hidden_neurons"] = list(settings.readout_MLP)
        found["readout_fcn_activation"] = settings.readout_activation
    if several:
        found["_number_of_modalities"] = len(settings.heads)
        found["_modal_map"] = {name: index for index, name in enumerate(settings.heads)}
    return found


def _first_multiplicity(settings: SevenNetSettings) -> int:
    """Return the channels of the embedding, as sevenn names the width of a network."""
    return int(settings.irreps[0].replace(" ", "").partition("x")[0])


def lammps(potential: SevenNetPotential, dtype: torch.dtype, metadata: Mapping[str, Any]) -> bytes:
    """Return the file that ``pair_style e3gnn`` reads, compiled by sevenn, of the chosen head.

    Weights and computation are in single precision. Raises FoundationError where sevenn is not
    installed, saying how to do it elsewhere.
    """
    content = checkpoint(potential, dtype, metadata)
    head = potential.head_name
    chosen = f" --modal {head}" if head else ""
    refusal = (
        "a SevenNet is compiled for LAMMPS by sevenn, which cannot be installed beside mace-torch: "
        "{reason}. Nothing was written. Use --format sevennet --to FILE.pth, then, in an "
        f"environment with sevenn: sevenn get_model FILE.pth{chosen}"
    )
    if find_spec("sevenn") is None:
        raise FoundationError(refusal.format(reason="it is not there"))
    try:
        deploy = import_module("sevenn.scripts.deploy").deploy
    except Exception as error:  # whatever an incompatible package raises
        raise FoundationError(
            refusal.format(reason=f"it cannot be imported ({type(error).__name__}: {error})")
        ) from error
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "checkpoint.pth", Path(folder) / "deployed.pt"
        source.write_bytes(content)
        deploy(str(source), str(target), head)
        return target.read_bytes()
