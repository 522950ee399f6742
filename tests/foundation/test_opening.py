"""MACE files open as what they are, or say what in them is not understood."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.graphs import GraphBatch, concatenate
from finetune.errors import FoundationError
from finetune.foundation import opening
from finetune.foundation.loading import load_foundation
from finetune.foundation.mace import MacePotential, construct
from finetune.foundation.storage import load, save
from finetune.testing import tiny_settings

HEADS = {
    "heads": ("dft", "cc"),
    "atomic_energies": ((-13.0, -1030.0, -1480.0, -2040.0), (-14.0, -1031.0, -1481.0, -2041.0)),
    "atomic_inter_scale": (1.5, 1.2),
    "atomic_inter_shift": (-0.2, 0.1),
}
NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
ARCHITECTURES: dict[str, dict[str, object]] = {
    "ScaleShiftMACE, L=1, correlation 2, Bessel": {"avg_num_neighbors": 6.123},
    "L=0, correlation 3": {"hidden_irreps": "4x0e", "correlation": 3},
    "L=2, three interactions": {
        "hidden_irreps": "2x0e + 2x1o + 2x2e",
        "num_interactions": 3,
        "max_ell": 2,
    },
    "one interaction": {"num_interactions": 1},
    "MACE, Gaussian, correlation by layer": {
        "architecture": "MACE",
        "radial_type": "gaussian",
        "correlation": (2, 1),
    },
    "Chebyshev, Agnesi": {"radial_type": "chebyshev", "distance_transform": "Agnesi"},
    "Soft, ZBL, gate tanh": {
        "distance_transform": "Soft",
        "pair_repulsion": True,
        "gate": "tanh",
    },
    "density blocks, no gate": {
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "gate": "None",
    },
    "non-residual and attention blocks": {
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "interaction_cls": "RealAgnosticAttResidualInteractionBlock",
    },
    "nonlinear blocks, edge irreps, bias readout, no cutoff in the basis": {
        "interaction_cls_first": NONLINEAR,
        "interaction_cls": NONLINEAR,
        "readout_cls": "NonLinearBiasReadoutBlock",
        "apply_cutoff": False,
        "edge_irreps": "2x0e+2x1o",
        "use_edge_irreps_first": True,
    },
    "two heads, agnostic product, SO(3)": {
        **HEADS,
        "use_agnostic_product": True,
        "use_so3": True,
        "hidden_irreps": "4x0e + 4x1e",
    },
    "last readout only, irreps of the last layer kept": {
        "use_last_readout_only": True,
        "keep_last_layer_irreps": True,
    },
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_opened_file_predicts_what_was_saved(
    name: str, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    changes = ARCHITECTURES[name]
    head = "cc" if "heads" in changes else None
    model = construct(tiny_settings(**changes), torch.float64)
    torch.save(model, tmp_path / "some.model")
    opened = load_foundation(tmp_path / "some.model", head=head)
    batch = concatenate(mixed_graphs)
    expected = MacePotential(tiny_settings(**changes), model.eval(), head)(batch, stress=True)
    found = opened.potential(batch, stress=True)
    for quantity in ("energy", "forces", "stress"):
        torch.testing.assert_close(
            getattr(found, quantity), getattr(expected, quantity), atol=1e-10, rtol=0
        )
    assert not opened.potential.training
    assert opened.location == str(tmp_path / "some.model")


def test_mace_itself_predicts_the_same(
    plain: torch.nn.Module, saved: bytes, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    batch = concatenate(mixed_graphs)
    opened = load_foundation(write(tmp_path / "tiny.model", saved)).potential
    element = opened.element_index(batch.numbers)
    shifts = batch.cell[batch.structure[batch.edge_index[0]]]
    data = {
        "positions": batch.positions.clone().requires_grad_(True),
        "cell": batch.cell.reshape(-1, 3),
        "node_attrs": torch.nn.functional.one_hot(element, 4).double(),
        "edge_index": batch.edge_index,
        "unit_shifts": batch.unit_shifts,
        "shifts": torch.einsum("ei,eij->ej", batch.unit_shifts, shifts),
        "batch": batch.structure,
        "ptr": torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(batch.atoms, 0)]),
    }
    expected = plain(data)
    found = opened(batch)
    torch.testing.assert_close(found.energy, expected["energy"], atol=1e-9, rtol=0)
    torch.testing.assert_close(found.forces, expected["forces"], atol=1e-10, rtol=0)


def test_single_precision_opens_in_both_precisions(
    tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    single = construct(tiny_settings(r_max=3.3), torch.float32)
    torch.save(single, tmp_path / "single.model")
    torch.save(single.double(), tmp_path / "doubled.model")
    batch = concatenate(mixed_graphs)
    expected = MacePotential(tiny_settings(r_max=3.3), single)(batch)
    for name, dtype in (
        ("single", torch.float64),
        ("doubled", torch.float32),
    ):
        potential = load_foundation(tmp_path / f"{name}.model", dtype).potential
        found = potential(batch.to(torch.device("cpu"), dtype))
        assert potential.cutoff == 3.3
        assert potential.dtype == dtype
        torch.testing.assert_close(found.energy, expected.energy, atol=1e-4, rtol=0)


def test_what_was_opened_is_stored_and_opened_again(
    saved: bytes, tmp_path: Path, built_before: None
) -> None:
    opened = load_foundation(write(tmp_path / "tiny.model", saved))
    config = save(opened.potential, tmp_path / "stored", {})
    assert config.fingerprint == opened.fingerprint
    assert load(tmp_path / "stored")[1].fingerprint == opened.fingerprint
    assert opened.metadata == {}


def test_a_file_from_before_the_newer_options_opens(
    plain: torch.nn.Module, saved: bytes, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    model: Any = torch.load(io.BytesIO(saved), weights_only=False)
    for name in ("heads", "use_reduced_cg", "use_so3", "use_agnostic_product", "apply_cutoff"):
        delattr(model, name)
    for block in model.interactions:
        del block.cueq_config, block.oeq_config, block.edge_irreps, block.radial_MLP
    for product in model.products:
        del product.use_agnostic_product, product.cueq_config
        for contraction in product.symmetric_contractions.contractions:
            del contraction._buffers["weights_max_zeroed"]
    del model.readouts[1].num_heads
    energies = model.atomic_energies_fn
    energies.atomic_energies = energies.atomic_energies[0]
    cutoff = model.radial_embedding.cutoff_fn
    cutoff.p = cutoff.p.double()
    torch.save(model, tmp_path / "older.model")
    batch = concatenate(mixed_graphs)
    expected = MacePotential(tiny_settings(), copy.deepcopy(plain))(batch)
    found = load_foundation(tmp_path / "older.model").potential(batch)
    torch.testing.assert_close(found.energy, expected.energy, atol=1e-10, rtol=0)


def test_heads_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = construct(tiny_settings(**HEADS), torch.float64)
    torch.save(model, tmp_path / "heads.model")
    monkeypatch.setattr(opening, "construct", lambda *_: copy.deepcopy(model))
    assert load_foundation(tmp_path / "heads.model", head="cc").potential.references()[1] == -14.0
    with pytest.raises(FoundationError, match="choose one of dft, cc"):
        load_foundation(tmp_path / "heads.model")
    with pytest.raises(FoundationError, match="no head 'xx'"):
        load_foundation(tmp_path / "heads.model", head="xx")


def _set(name: str, value: object) -> Callable[[torch.nn.Module], None]:
    *path, last = name.split(".")

    def change(model: torch.nn.Module) -> None:
        target: Any = model.get_submodule(".".join(path))
        if last in target._buffers:
            target._buffers[last] = value
        elif last in target._parameters:
            target._parameters[last] = value
        else:
            setattr(target, last, value)

    return change


WEIGHT = torch.nn.Parameter(torch.full((16,), float("nan"), dtype=torch.float64))
SHORT = torch.nn.Parameter(torch.ones(9, dtype=torch.float64))
BASIS = torch.tensor([0.7, 1.6, 2.4, 3.1], dtype=torch.float64)
CHANGED: dict[str, tuple[str, object, str]] = {
    "weights that are not finite": ("products.0.linear.weight", WEIGHT, "NaN or infinite"),
    "weights of another shape": ("interactions.0.linear_up.weight", SHORT, "linear_up.weight"),
    "another basis": ("radial_embedding.bessel_fn.bessel_weights", BASIS, "bessel_weights"),
    "trained basis": (
        "radial_embedding.bessel_fn.trained",
        torch.nn.Parameter(BASIS),
        "bessel_fn.trained.*not understood",
    ),
    "a part of its own": ("les", torch.nn.Linear(1, 1), "'les'.*not understood"),
    "joint embedding": ("joint_embedding", torch.nn.Linear(1, 1), "'joint_embedding'"),
    "an attribute of its own": ("polar", 3, "3 at 'polar'"),
    "another number": ("interactions.1.avg_num_neighbors", 7.0, "7.0 .* where 6.0"),
    "another activation": (
        "interactions.0.conv_tp_weights.layer0.act.f",
        torch.nn.functional.gelu,
        "gelu",
    ),
    "a wrong cutoff": ("radial_embedding.cutoff_fn.r_max", torch.tensor(-1.0), "'r_max' = -1.0"),
    "an unknown transform": (
        "radial_embedding.distance_transform",
        torch.nn.Linear(1, 1),
        "distance transform 'Linear'",
    ),
    "elements twice": ("atomic_numbers", torch.tensor([1, 1, 7, 8]), "distinct elements"),
    "too few references": (
        "atomic_energies_fn.atomic_energies",
        torch.zeros(1, 3),
        "do not match its 4 elements",
    ),
    "a forged width": ("interactions.0.radial_MLP", [10**6, 10**6], "at least 1000"),
    "a negative width": ("interactions.0.radial_MLP", [10**5, 10**5, -(10**6)], "not positive"),
    "a forged basis": ("radial_embedding.out_dim", 10**15, "but holds"),
    "a forged degree": ("spherical_harmonics._lmax", 11, "'max_ell' of 11"),
    "a forged correlation": (
        "products.0.symmetric_contractions.contractions.0.correlation",
        99,
        "'correlation' of 99",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_not_understood_is_named(
    what: str, saved: bytes, plain: torch.nn.Module, tmp_path: Path, built_before: None
) -> None:
    name, value, message = CHANGED[what]
    model = torch.load(io.BytesIO(saved), weights_only=False)
    _set(name, value)(model)
    torch.save(model, tmp_path / "changed.model")
    with pytest.raises(FoundationError, match=rf"changed\.model' .*{message}"):
        load_foundation(tmp_path / "changed.model")
