"""sevenn's checkpoints: written, read, of older releases, damaged and hostile."""

import os
import re
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.export.formats import write_file
from finetune.potentials.sevennet.settings import SevenNetSettings, interactions
from finetune.potentials.sevennet.writing import checkpoint, lammps
from finetune.testing.comparing import difference, distorted_batch, predict
from tests.potentials.sevennet.conftest import (
    FAMILY,
    built,
    channels,
    content_of,
    example,
    loaded,
    read,
    reopened,
    saved,
)

Checkpoint = dict[str, Any]
KINDS = {
    "example": FAMILY.example(),
    "channels": channels(),
    "biases": example(bias=True, trained_bessel=False, num_bessel=3, unit_vectors=False),
    "rotations": example(
        parity=False,
        irreps=("4x0e", "4x0e+3x1e", "4x0e"),
        cutoff_function="XPLOR",
        xplor_onset=3.5,
        even_scalars="ssp",
    ),
    "layers": example(readout_MLP=(5, 3), readout_activation="tanh", radial_MLP=(7,)),
    "universal": example(
        atomic_numbers=tuple(range(119)), shift=((-1.5,) * 119,), scale=((0.5,) * 119,)
    ),
}


def first_head(settings: SevenNetSettings) -> str | None:
    return settings.heads[0] if len(settings.heads) > 1 else None


FAST = {"channels", "rotations"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in FAST)) for kind in KINDS]
)
def test_what_is_written_is_read_again(kind: str) -> None:
    head = first_head(KINDS[kind])
    potential = built(KINDS[kind], head, torch.float32)
    raw = checkpoint(potential, torch.float32, {"name": "mine", "level": "λ"})
    assert content_of(raw).metadata == {"name": "mine", "level": "λ"}
    settings, weights = read(raw)
    assert settings == KINDS[kind]
    for name, parameter in potential.model.named_parameters():
        assert torch.equal(weights[name], parameter), name
    batch = distorted_batch(potential.cutoff).to(torch.device("cpu"), torch.float32)
    assert difference(predict(reopened(raw, head=head), batch), predict(potential, batch)) < 1e-6


def test_a_file_holds_nothing_but_tensors_and_builtin_types() -> None:
    """So that torch opens it without running code; weights are in single precision."""
    found = loaded(built(channels(), "high"))
    tensors = found["model_state_dict"].values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert found["config"]["_modal_map"] == {"low": 0, "high": 1}
    assert found["config"]["shift"][1][1] == -1031.0


@pytest.mark.slow
def test_reference_energies_are_written() -> None:
    potential = built(FAMILY.example())
    potential.set_references({6: -5.25})
    assert read(checkpoint(potential, torch.float64, {}))[0].shift[0][1] == -5.25


def test_what_an_adapter_added_is_refused() -> None:
    potential = built(FAMILY.example())
    potential.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(FoundationError, match="no place for what an adapter added: extra"):
        checkpoint(potential, torch.float32, {})


def test_double_precision_is_refused(tmp_path: Path) -> None:
    potential = built(FAMILY.example())
    with pytest.raises(FoundationError, match="'sevennet' of SevenNet holds single precision"):
        write_file(potential, tmp_path / "a.pth", dtype=torch.float64)
    write_file(potential, tmp_path / "a.pth")
    with pytest.raises(FoundationError, match="needs sevenn: without it, .*get_model FILE.pth"):
        write_file(potential, tmp_path / "b.pth", "mace")


def test_lammps_needs_sevenn() -> None:
    with pytest.raises(FoundationError, match="--format sevennet .*sevenn get_model FILE.pth$"):
        lammps(built(FAMILY.example()), torch.float32, {})
    with pytest.raises(FoundationError, match="sevenn get_model FILE.pth --modal high$"):
        lammps(built(channels(), "high"), torch.float32, {})


def test_lammps_through_sevenn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed, its own program is given the checkpoint and the channel."""

    def deploy(source: str, target: str, modal: str | None) -> None:
        Path(target).write_bytes(Path(source).read_bytes() + str(modal).encode())

    packages: dict[str, Any] = {name: types.ModuleType(name) for name in PACKAGES}
    packages["sevenn.scripts.deploy"].deploy = deploy
    packages["sevenn"].__spec__ = types.SimpleNamespace()
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert lammps(built(channels(), "high"), torch.float32, {}).endswith(b"high")
    monkeypatch.setitem(sys.modules, "sevenn.scripts.deploy", None)
    with pytest.raises(FoundationError, match=r"cannot be imported \(.*sevenn get_model"):
        lammps(built(channels(), "high"), torch.float32, {})


PACKAGES = ("sevenn", "sevenn.scripts", "sevenn.scripts.deploy")

OLD_NAMES = (
    (r"^edge_embedding", "EdgeEmbedding"),
    (r"^reduce_input_to_hidden", "reducing nn input to hidden"),
    (r"^reduce_hidden_to_energy", "reducing nn hidden to energy"),
    (r"^rescale_atomic_energy", "rescale atomic energy"),
    (r"^(\d)_self_connection_intro", r"\1 self connection intro"),
    (r"^(\d)_convolution", r"\1 convolution"),
    (r"^(\d)_self_interaction_2", r"\1 self interaction 2"),
    (r"^(\d)_equivariant_gate", r"\1 equivariant gate"),
    (r"denominator$", "denumerator"),
)


def as_of_2024(found: Checkpoint) -> Checkpoint:
    """Return a checkpoint as sevenn 0.9 wrote it: names, order of paths, sign of couplings."""
    config, state = found["config"], found["model_state_dict"]
    config["version"] = "0.9.1"
    config["cutoff_function"]["poly_cut_p_value"] = 6
    for key in ("cuequivariance_config", "use_flash_tp", "use_oeq", "conv_denominator"):
        del config[key]
    (settings, _) = read(saved(found | {"config": {**config, "version": "0.12.0"}}))
    for index, layer in enumerate(interactions(settings)):
        name = f"{index}_convolution.weight_nn.layer2.weight"
        parts = torch.split(state[name], [layer.paths[i].count for i in layer.order], dim=1)
        by_path = dict(zip(layer.order, parts, strict=True))
        for number, path in enumerate(layer.paths):
            degrees = (
                layer.before[path.node][1][0],
                layer.harmonics[path.edge][1][0],
                path.irrep[0],
            )
            if degrees == (1, 1, 2):
                by_path[number] = -by_path[number]
        state[name] = torch.cat([by_path[i] for i in range(len(parts))], dim=1)
        table = f"{index}_convolution.convolution._compiled_main_left_right._w3j_1_1_2"
        if table in state:
            state[table] = -state[table]
    names = {}
    for name, tensor in state.items():
        for pattern, old in OLD_NAMES:
            name = re.sub(pattern, old, name)
        names[name] = tensor
    return {**found, "model_state_dict": names}


THREE_LAYERS: dict[str, Any] = {
    "irreps": ("4x0e", "4x0e+2x0o+3x1o+2x1e+2x2e", "3x0e+2x1o+2x2e", "4x0e"),
    "self_connections": ("linear",) * 3,
    "denominators": (2.0,) * 3,
}


@pytest.mark.slow
def test_older_releases_had_other_names_orders_and_signs() -> None:
    potential = built(example(**THREE_LAYERS), dtype=torch.float32)
    old = as_of_2024(loaded(potential))
    assert "1 convolution.denumerator" in old["model_state_dict"]
    settings, weights = read(saved(old))
    assert settings == potential.settings
    new = dict(potential.model.named_parameters())
    name = "1_convolution.weight_nn.layer2.weight"
    stored = old["model_state_dict"]["1 convolution.weight_nn.layer2.weight"]
    assert not torch.equal(stored, new[name])
    for name, tensor in weights.items():
        assert torch.equal(tensor, new[name]), name


@pytest.mark.slow
def test_accelerated_convolutions_have_the_same_weights() -> None:
    potential = built(example(**THREE_LAYERS), dtype=torch.float32)
    found = loaded(potential)
    found["config"]["cuequivariance_config"] = {"use": True}
    state = found["model_state_dict"]
    for name in [name for name in state if ".convolution." in name]:
        del state[name]
    state["0_convolution.convolution.f.tp.module.c"] = torch.zeros(3)
    _, weights = read(saved(found))
    for name, parameter in potential.model.named_parameters():
        assert torch.equal(weights[name], parameter), name


def without(name: str) -> Callable[[Checkpoint], None]:
    return lambda found: found["model_state_dict"].__delitem__(name)


def tensor(name: str, value: object) -> Callable[[Checkpoint], None]:
    return lambda found: found["model_state_dict"].update({name: value})


def option(key: str, value: object) -> Callable[[Checkpoint], None]:
    return lambda found: found["config"].update({key: value})


TABLE = "1_convolution.convolution._compiled_main_left_right._w3j_1_1_2"
DAMAGES: dict[str, tuple[Callable[[Checkpoint], None], str]] = {
    "no config": (lambda found: found.update(config={}), "holds no config"),
    "no weights": (lambda found: found.update(model_state_dict=3), "holds no model_state_dict"),
    "no version": (option("version", None), "names no version of sevenn: it has None"),
    "a new version": (option("version", "0.14.2"), "written by sevenn 0.14; .*up to 0.13"),
    "a newer version": (option("version", "1.0.0"), "written by sevenn 1.0"),
    "another model": (option("_model_type", "new"), "'_model_type' = 'new'; only"),
    "another interaction": (option("interaction_type", "mace"), "'interaction_type' = 'mace'"),
    "not reduced": (option("optimize_by_reduce", False), "'optimize_by_reduce' = False"),
    "another basis": (
        option("radial_basis", {"radial_basis_name": "gaussian"}),
        "'radial_basis' = 'gaussian'; known are bessel",
    ),
    "another envelope": (
        option("cutoff_function", {"cutoff_function_name": "cosine"}),
        "'cutoff_function' = 'cosine'; known are XPLOR, poly_cut",
    ),
    "an unknown radial option": (
        option("radial_basis", {"radial_basis_name": "bessel", "new": 1}),
        "radial option 'new', which is not known",
    ),
    "another activation": (option("act_radial", "gelu"), "'radial_activation' = 'gelu'"),
    "another gate": (option("act_gate", {"e": "relu", "o": "tanh"}), "'even_gates' = 'relu'"),
    "another self-connection": (option("self_connection_type", "none"), "'self_connections.0'"),
    "an old accelerated one": (
        lambda found: found["config"].update(version="0.10.4", use_flash_tp=True),
        "trained with FlashTP by sevenn 0.10",
    ),
    "an unknown accelerator": (option("use_oeq", "maybe"), "'use_oeq' = 'maybe'"),
    "a flag that is none": (option("is_parity", 1), "'is_parity' = 1, not true or false"),
    "no number of layers": (option("num_convolution_layer", 10**9), "a number from 1 to 32"),
    "irreps of fewer layers": (option("irreps_manual", ["4x0e"]), "not 4 irreps"),
    "irreps that are none": (option("irreps_manual", [1, 2, 3, 4]), "'irreps.0' = 1"),
    "elements without order": (option("_type_map", {1: 0, 6: 2}), "does not number its elements"),
    "a cutoff that is none": (option("cutoff", -1.0), "'cutoff' = -1.0"),
    "an infinite cutoff": (option("cutoff", float("inf")), "'cutoff' = inf"),
    "channels without order": (
        lambda found: found["config"].update(use_modality=True, _modal_map={"a": 1}),
        "does not number its channels",
    ),
    "a missing tensor": (
        without("1_self_interaction_2.linear.weight"),
        "has no tensor '1_self_interaction_2.linear.weight'",
    ),
    "a missing denominator": (without("0_convolution.denominator"), "'0_convolution.denominator'"),
    "a missing scale": (without("rescale_atomic_energy.scale"), "'rescale_atomic_energy.scale'"),
    "a missing table": (without(TABLE), "has no tensor '1_convolution.*_w3j_1_1_2'"),
    "another table": (tensor(TABLE, torch.ones(3, 3, 5)), "couplings at .* not e3nn's"),
    "a misshaped table": (tensor(TABLE, torch.ones(2)), r"shape \(2,\) at .*w3j"),
    "a superfluous tensor": (
        tensor("2_self_interaction_3.linear.weight", torch.ones(4)),
        r"holds a tensor \(4,\) at '2_self_interaction_3.linear.weight'",
    ),
    "a superfluous bias": (
        tensor("0_self_interaction_1.linear.bias", torch.ones(4)),
        r"holds a tensor \(4,\) at '0_self_interaction_1.linear.bias'",
    ),
    "a misshaped tensor": (
        tensor("0_convolution.weight_nn.layer0.weight", torch.ones(5, 9)),
        r"shape \(5, 9\) at '0_convolution.weight_nn.layer0.weight', where \(5, 8\)",
    ),
    "a misshaped shift": (
        tensor("rescale_atomic_energy.shift", torch.ones(3)),
        r"shape \(3,\) at 'rescale_atomic_energy.shift'",
    ),
    "a number that is none": (
        tensor("onehot_to_feature_x.linear.weight", torch.full((16,), float("nan"))),
        "NaN, infinite or other than real numbers in 'onehot_to_feature_x",
    ),
    "whole numbers": (
        tensor("onehot_to_feature_x.linear.weight", torch.ones(16, dtype=torch.int64)),
        "other than real numbers in 'onehot_to_feature_x",
    ),
    "no tensor": (tensor("0_convolution.denominator", "2.0"), "has '2.0' under"),
    "a zero denominator": (
        tensor("0_convolution.denominator", torch.zeros(1)),
        "denominators must not be zero",
    ),
    "huge layers": (option("weight_nn_hidden_neurons", [10**6, 10**6]), r"network of \d+ weights"),
    "huge irreps": (option("irreps_manual", ["99999x0e"] * 4), r"network of \d+ weights"),
}


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    return loaded(built(example(**THREE_LAYERS)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_refused(damage: str, whole: Checkpoint) -> None:
    change, message = DAMAGES[damage]
    found = deepcopy(whole)
    change(found)
    with pytest.raises(FoundationError, match=message):
        read(saved(found))


def test_irreps_beyond_all_reason_are_refused(whole: Checkpoint) -> None:
    """What would take long to build is refused before, whatever the file holds."""
    found = deepcopy(whole)
    many = "+".join(f"1x{degree}{parity}" for degree in range(7) for parity in "eo") + "+1x3e" * 19
    found["config"].update(
        irreps_manual=["4x0e", *[many] * 8, "4x0e"],
        lmax=6,
        num_convolution_layer=9,
        self_connection_type="linear",
    )
    for index in range(9):
        found["model_state_dict"][f"{index}_convolution.denominator"] = torch.ones(1)
    with pytest.raises(FoundationError, match="products of irreps, beyond the 4000"):
        read(saved(found))


@pytest.mark.slow
def test_irreps_are_inferred_where_none_are_listed() -> None:
    settings = example(
        irreps=("4x0e", "4x0e+4x1o+4x2e", "4x0e"), self_connections=("linear", "linear")
    )
    found = loaded(built(settings))
    found["config"].update(irreps_manual=False, channel=4, lmax=2)
    assert read(saved(found))[0] == settings


ODD: list[object] = [
    *(None, True, False, 0, 1, -1, 10**30, 0.5, float("nan"), "", "x", [], [1], {}, {"e": 1}),
    *({1: [2]}, {"radial_basis_name": [1]}, {"cutoff_function_name": {}}, {"use": [1]}, (1, 2)),
    *(torch.ones(2), torch.ones(()), np.ones(3), torch.device("cpu"), b"x", {1}, [[1], "4x0e"]),
    ["4x0e", "4x9e", "x", "4x0e"],
]


@pytest.mark.slow
def test_odd_values_cause_no_other_error(whole: Checkpoint) -> None:
    """Whatever an option is, a file is understood or refused."""
    content = content_of(saved({**whole, "odd": ODD}))
    assert isinstance(content.root, dict)
    root = content.root
    for key in root["config"]:
        for value in root["odd"]:
            config = {**root["config"], "use_modality": key.startswith("_m"), key: value}
            changed = replace(content, root={**root, "config": config})
            with suppress(FoundationError):
                FAMILY.read(changed)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch trace",)


@pytest.mark.parametrize("place", ["config", "model_state_dict", "epoch"])
def test_nothing_in_a_file_is_executed(
    place: str, whole: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("version", "cutoff", "_type_map", "shift", "act_gate", "0_convolution.denominator"):
        found = deepcopy(whole)
        if place == "epoch":
            found["epoch"] = Evil()
        else:
            found[place][key] = Evil()
        try:
            read(saved(found))
        except FoundationError:
            assert place != "epoch"
    assert not Path("trace").exists()


def test_other_objects_of_sevenn_are_named() -> None:
    from finetune.potentials.archive import Content, Global, Record

    root = Record(Global("sevenn.mliap.SevenNetMLIAPWrapper"), ())
    assert FAMILY.recognises(root)
    with pytest.raises(FoundationError, match="holds a 'SevenNetMLIAPWrapper' of sevenn"):
        FAMILY.read(Content(root, 0, {}))
    assert not FAMILY.recognises(Record(Global("mace.modules.models.MACE"), ()))
    assert not FAMILY.recognises({"model": {}, "epoch": 3})


def test_truncated_files_are_refused(whole: Checkpoint) -> None:
    raw = saved(whole)
    for length in (0, 3, 100, len(raw) // 2, len(raw) - 1):
        with pytest.raises(FoundationError):
            read(raw[:length])
