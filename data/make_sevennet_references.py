"""Reference values of SevenNet: energies, forces and stress by sevenn's own calculator.

The tests of the SevenNet family compare with them. sevenn cannot be installed beside mace-torch, so
this needs an environment of its own:

    python -m venv sevenn-env
    sevenn-env/bin/pip install torch==2.13.0 sevenn==0.13.0
    sevenn-env/bin/python data/make_sevennet_references.py

``tests/potentials/sevennet/references.json`` then holds structures; what the published checkpoints
in the package predict for them, in single precision on the CPU; and the same for small networks
with other settings, whose weights `drawn` repeats anywhere.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import sevenn  # noqa: E402
import torch  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk, fcc111, molecule  # noqa: E402
from ase.spacegroup import crystal  # noqa: E402
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG  # noqa: E402
from sevenn.calculator import SevenNetCalculator  # noqa: E402
from sevenn.model_build import build_E3_equivariant_model  # noqa: E402
from sevenn.util import chemical_species_preprocess  # noqa: E402

FILE = Path(__file__).parent.parent / "tests" / "potentials" / "sevennet" / "references.json"
PACKAGES = ("sevenn", "torch", "e3nn", "torch-geometric", "ase", "numpy")
MEMBERS = {
    "sevennet-0": ("SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth", None),
    "sevennet-0-may2024": ("SevenNet_0__22May2024/checkpoint_sevennet_0.pth", None),
    "sevennet-l3i5": ("SevenNet_l3i5/checkpoint_l3i5.pth", None),
    "sevennet-mf-0-pbe": ("SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", "PBE"),
    "sevennet-mf-0-r2scan": ("SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", "R2SCAN"),
}
ORGANIC = ("ethanol", "methanol", "carbon, primitive", "oxygen atom")


def structures() -> dict[str, Atoms]:
    """Return distorted solids, molecules, a slab and a free atom."""
    dimer = molecule("H2O") + molecule("H2O")
    dimer.positions[3:] += [0.4, 2.9, 0.3]
    gallium = bulk("GaAs", "zincblende", 5.65)
    gallium.set_cell(gallium.cell.array @ [[1.03, 0.02, 0], [0, 0.98, 0.01], [0.03, 0, 1.0]], True)
    rutile = crystal(
        ["Ti", "O"],
        [(0, 0, 0), (0.305, 0.305, 0)],
        spacegroup=136,
        cellpar=[4.594, 4.594, 2.959, 90, 90, 90],
    )
    found = {
        "silicon": bulk("Si", "diamond", 5.43, cubic=True),
        "magnesium oxide": bulk("MgO", "rocksalt", 4.21),
        "sodium chloride": bulk("NaCl", "rocksalt", 5.64, cubic=True),
        "iron": bulk("Fe", "bcc", 2.87, cubic=True),
        "titanium dioxide": Atoms(rutile.numbers, rutile.positions, cell=rutile.cell, pbc=True),
        "gallium arsenide, sheared": gallium,
        "carbon, primitive": bulk("C", "diamond", 3.5),
        "copper slab": fcc111("Cu", (1, 1, 3), vacuum=6.0),
        "ethanol": molecule("CH3CH2OH"),
        "methanol": molecule("CH3OH"),
        "water dimer": dimer,
        "oxygen atom": Atoms("O", positions=[[0.0, 0.0, 0.0]]),
    }
    random = np.random.default_rng(0)
    for atoms in found.values():
        if len(atoms) > 1:
            moved = atoms.positions + random.normal(0.0, 0.05, atoms.positions.shape)
            atoms.positions = moved.round(6)
        atoms.set_cell(atoms.cell.array.round(6))
    return found


def settings() -> dict[str, dict[str, Any]]:
    """Return configurations of small networks, which together use every kind of layer."""
    common = {
        **DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG,
        **chemical_species_preprocess(["H", "C", "N", "O"]),
        "version": version("sevenn"),
        "cutoff": 4.5,
        "channel": 4,
        "lmax": 2,
        "weight_nn_hidden_neurons": [8, 8],
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
        "conv_denominator": 2.5,
        "shift": -3.0,
        "scale": 1.5,
    }
    xplor = {"cutoff_function_name": "XPLOR", "cutoff_on": 3.5}
    rotations = {
        "is_parity": False,
        "lmax_edge": 3,
        "lmax_node": 1,
        "self_connection_type": ["nequip", "linear", "linear"],
        "cutoff_function": xplor,
        "_normalize_sph": False,
        "use_bias_in_linear": True,
        "act_scalar": {"e": "ssp", "o": "tanh"},
        "act_radial": "tanh",
        "weight_nn_hidden_neurons": [8],
        "shift": [-1.0, -2.0, -3.0, -4.0],
        "scale": [1.0, 1.2, 0.9, 1.1],
    }
    manual = {
        "num_convolution_layer": 2,
        "irreps_manual": ["6x0e", "5x0e+2x0o+3x1o+2x1e+1x2e", "6x0e"],
        "self_connection_type": "linear",
        "radial_basis": {
            "radial_basis_name": "bessel",
            "bessel_basis_num": 4,
            "trainable_coeff": False,
        },
        "readout_as_fcn": True,
        "readout_fcn_hidden_neurons": [7, 5],
        "readout_fcn_activation": "elu",
        "conv_denominator": [2.0, 3.0],
        "scale": [1.0, 1.2, 0.9, 1.1],
    }
    channels = {
        "num_convolution_layer": 2,
        "use_modality": True,
        "_number_of_modalities": 2,
        "_modal_map": {"low": 0, "high": 1},
        "use_modal_node_embedding": True,
        "use_modal_self_inter_intro": True,
        "use_modal_self_inter_outro": True,
        "use_modal_output_block": True,
        "use_modal_wise_shift": True,
        "use_modal_wise_scale": True,
        "shift": [[-1.0, -2.0, -3.0, -4.0], [-1.1, -2.2, -3.3, -4.4]],
        "scale": [[1.0, 1.2, 0.9, 1.1], [1.3, 1.4, 1.5, 1.6]],
    }
    return {
        "parity": common,
        "rotations": {**common, **rotations},
        "manual": {**common, **manual},
        "channels": {**common, **channels},
    }


def drawn(names: list[str], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return random numbers for the parameters named, in the order of their names."""
    random = np.random.default_rng(1)
    return {name: random.normal(size=shapes[name]) for name in sorted(names)}


def fill(model: torch.nn.Module) -> None:
    """Give a network the weights that the tests give theirs."""
    fixed = ("denominator", "rescale_atomic_energy.shift", "rescale_atomic_energy.scale")
    weights = {name: item for name, item in model.named_parameters() if not name.endswith(fixed)}
    values = drawn(list(weights), {name: tuple(item.shape) for name, item in weights.items()})
    with torch.no_grad():
        for name, item in weights.items():
            value = torch.from_numpy(values[name])
            if name.endswith("coeffs"):
                value = item.double() * (1 + 0.05 * value)
            item.copy_(value)


def predict(calculator: SevenNetCalculator, atoms: Atoms) -> dict[str, Any]:
    """Return energy per atom (eV), forces (eV/Å) and, of a crystal, stress (eV/Å³; Voigt)."""
    atoms = atoms.copy()
    atoms.calc = calculator
    found: dict[str, Any] = {
        "energy_per_atom": round(atoms.get_potential_energy() / len(atoms), 8),
        "forces": atoms.get_forces().astype(float).round(8).tolist(),
    }
    if atoms.pbc.all():
        found["stress"] = atoms.get_stress().astype(float).round(9).tolist()
    return found


def main() -> None:
    """Write all reference values."""
    torch.set_num_threads(1)
    frames = structures()
    folder = Path(sevenn.__file__).parent / "pretrained_potentials"
    published = {}
    for name, (member, channel) in MEMBERS.items():
        calculator = SevenNetCalculator(str(folder / member), modal=channel, device="cpu")
        published[name] = {
            "member": f"sevenn/pretrained_potentials/{member}",
            "sha256": hashlib.sha256((folder / member).read_bytes()).hexdigest(),
            "channel": channel,
            "predictions": {key: predict(calculator, atoms) for key, atoms in frames.items()},
        }
    networks = {}
    for name, config in settings().items():
        model = build_E3_equivariant_model(config)
        fill(model)
        networks[name] = {"config": config, "predictions": {}}
        for channel in config.get("_modal_map", {"": 0}):
            calculator = SevenNetCalculator(model, "model_instance", "cpu", channel or None)
            networks[name]["predictions"][channel] = {
                key: predict(calculator, frames[key]) for key in ORGANIC
            }
    content = {
        "provenance": {
            "made by": "data/make_sevennet_references.py",
            "date": date.today().isoformat(),
            "device and precision": "CPU, single precision, one thread",
            "packages": {package: version(package) for package in PACKAGES},
        },
        "structures": {
            name: {
                "numbers": atoms.numbers.tolist(),
                "positions": atoms.positions.tolist(),
                "cell": atoms.cell.array.tolist(),
                "pbc": atoms.pbc.tolist(),
            }
            for name, atoms in frames.items()
        },
        "published": published,
        "networks": networks,
    }
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
