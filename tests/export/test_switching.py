"""Several adapters on one foundation predict what each predicts alone."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune
from finetune.core.errors import FoundationError, RunFolderError
from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate
from finetune.export.switching import AdaptedFoundation
from finetune.potentials.adapter_folder import adapters_needed, structure_of
from finetune.potentials.loading import load_foundation
from finetune.potentials.potential import Potential
from finetune.recipe.recipe import Recipe
from finetune.runs.outputs import write_potential
from tests.conftest import rattled, recipe_for

ADAPTERS = {
    "readout": {"kind": "readout"},
    "again": {"kind": "readout"},
    "lora": {"kind": "lora", "rank": 2},
    "wider": {"kind": "lora", "rank": 3, "seed": 1},
    "head": {"kind": "head", "name": "cc"},
    "scaled": {"kind": "test_switching_scale"},
}


class Scaled(finetune.WrappedPotential):
    """A potential whose atomic energies are scaled by element: nothing that a MACE can hold."""

    def __init__(self, base: Potential) -> None:
        super().__init__(base)
        self.scale = torch.nn.Parameter(torch.ones(len(base.elements), dtype=base.dtype))

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        energy, positions, by_strain = self.base.interaction(batch, element, strain)
        return energy * self.scale[element], positions, by_strain


@finetune.register_adapter("test_switching_scale")
class ScaleAdapter(finetune.Adapter):
    def attach(self, potential: Potential) -> finetune.AdaptedPotential:
        return finetune.AdaptedPotential(Scaled(potential), frozenset({"scale"}))


def write_run(recipe: Recipe, seed: int) -> None:
    """Write the adapter and the potential of a run whose training was a random step."""
    prepared = finetune.validate(recipe)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prepared.adapted.trainable_parameters().values():
            step = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.02 * step)
    tuned = prepared.adapted.merge()
    origin = (structure_of(prepared.reference), tuned, prepared.foundation.adapters)
    write_potential(prepared, tuned, {}, adapters_needed(*origin, recipe.adapter))


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, adapter) in enumerate(ADAPTERS.items()):
        write_run(recipe_for(workspace, folder / name, adapter=adapter), seed)
    return folder


@pytest.fixture(scope="module")
def loaded(runs: Path, workspace: Path) -> AdaptedFoundation:
    paths = {name: runs / name for name in ADAPTERS}
    return AdaptedFoundation(workspace / "foundation", paths, device="cpu")


@pytest.fixture
def several(loaded: AdaptedFoundation, runs: Path) -> Iterator[AdaptedFoundation]:
    loaded.set_adapter("readout")
    yield loaded
    for name in loaded.adapters:
        if name not in ADAPTERS:
            loaded.delete_adapter(name)


@pytest.fixture(scope="module")
def alone(runs: Path) -> dict[str, Potential]:
    return {name: load_foundation(runs / name).potential for name in ADAPTERS}


@pytest.fixture(scope="module")
def batch(mixed_graphs: list[GraphBatch]) -> GraphBatch:
    return concatenate(mixed_graphs)


def same(
    first: Callable[[GraphBatch], Prediction],
    second: Potential,
    batch: GraphBatch,
) -> bool:
    found, expected = first(batch), second(batch)
    assert found.forces is not None
    assert expected.forces is not None
    return torch.equal(found.energy, expected.energy) and torch.equal(found.forces, expected.forces)


def test_each_predicts_what_its_run_predicts_alone(
    several: AdaptedFoundation, alone: dict[str, Potential], batch: GraphBatch
) -> None:
    for name in (*ADAPTERS, *reversed(ADAPTERS)):
        several.set_adapter(name)
        assert same(several, alone[name], batch), name


def test_what_a_mace_cannot_hold_is_averaged_and_stored_too(
    several: AdaptedFoundation, tmp_path: Path, batch: GraphBatch
) -> None:
    several.add_weighted_adapter(["scaled"], [0.5], "half")
    several.set_adapter("half")
    scale = dict(several.potential.named_parameters())["scale"]
    whole = dict(several.adapters["scaled"].potential.named_parameters())["scale"]
    torch.testing.assert_close(scale, 0.5 + 0.5 * whole, atol=1e-15, rtol=0)
    several.save(tmp_path / "half")
    assert same(several, load_foundation(tmp_path / "half").potential, batch)


@pytest.mark.slow
def test_in_single_precision_too(runs: Path, workspace: Path, batch: GraphBatch) -> None:
    several = AdaptedFoundation(workspace / "foundation", device="cpu", dtype="float32")
    assert several.load_adapter(runs / "lora") == several.active_adapter == "lora"
    single = batch.to(torch.device("cpu"), torch.float32)
    assert same(several, load_foundation(runs / "lora", torch.float32).potential, single)
    with several.disable_adapter():
        foundation = load_foundation(workspace / "foundation", torch.float32).potential
        assert same(several, foundation, single)


def test_disabled_it_is_exactly_the_foundation(
    several: AdaptedFoundation, workspace: Path, batch: GraphBatch
) -> None:
    foundation = load_foundation(workspace / "foundation").potential
    several.set_adapter("lora")
    with several.disable_adapter(), several.disable_adapter():
        assert several.active_adapter is None
        assert same(several, foundation, batch)
    assert several.active_adapter == "lora"
    assert not same(several, foundation, batch)
    with several.disable_adapter():
        several.set_adapter("readout")
    assert several.active_adapter == "lora"
    with pytest.raises(ZeroDivisionError), several.disable_adapter():
        raise ZeroDivisionError
    assert several.active_adapter == "lora"


def test_weights_that_an_adapter_left_alone_are_in_memory_once(several: AdaptedFoundation) -> None:
    foundation = dict(several.foundation.potential.named_parameters())
    several.set_adapter("readout")
    own = {
        name
        for name, parameter in several.potential.named_parameters()
        if parameter.data_ptr() != foundation[name].data_ptr()
    }
    assert own
    assert own == {name for name in foundation if name.startswith("model.readouts.")}


@pytest.mark.parametrize("pair", [("readout", "again"), ("lora", "wider")])
def test_an_average_is_that_of_the_weight_changes(
    pair: tuple[str, str], several: AdaptedFoundation
) -> None:
    before = dict(several.foundation.potential.named_parameters())
    parts = [several.adapters[name].potential for name in pair]
    several.add_weighted_adapter(pair)
    several.add_weighted_adapter(pair, [1.5, 0.25], "mixed")
    several.add_weighted_adapter(pair, [1.0, 0.0], "first")
    first, second = (dict(part.named_parameters()) for part in parts)
    for called, (a, b) in {"average": (0.5, 0.5), "mixed": (1.5, 0.25)}.items():
        found = several.adapters[called].potential
        for name, parameter in found.named_parameters():
            start = before[name]
            expected = start + a * (first[name] - start) + b * (second[name] - start)
            torch.testing.assert_close(parameter.data, expected.data, atol=1e-14, rtol=0)
        start = several.foundation.potential.references()
        for number, energy in found.references().items():
            change, other = (part.references()[number] - start[number] for part in parts)
            assert energy == pytest.approx(start[number] + a * change + b * other, abs=1e-10)
    for name, parameter in several.adapters["first"].potential.named_parameters():
        assert torch.equal(parameter, first[name])
    changed = [name for name in before if not torch.equal(first[name], second[name])]
    assert changed


def test_an_average_is_stored_and_is_a_foundation(
    several: AdaptedFoundation, runs: Path, workspace: Path, tmp_path: Path, batch: GraphBatch
) -> None:
    several.add_weighted_adapter(["lora", "wider"], [0.3, 0.7])
    several.set_adapter("average")
    several.save(tmp_path / "average")
    stored = load_foundation(tmp_path / "average")
    assert same(several, stored.potential, batch)
    assert sorted(stored.metadata["adapters"].values()) == [0.3, 0.7]
    assert not {"recipe", "metrics", "trained"} & set(stored.metadata)
    with pytest.raises(RunFolderError, match="exists"):
        several.save(tmp_path / "average")
    foundation = str(tmp_path / "average")
    again = recipe_for(workspace, tmp_path / "run", foundation=foundation, train={"epochs": 1})
    names = [item["name"] for item in finetune.validate(again).lineage]
    average = f"average of 0.3 × {runs / 'lora' / 'adapter'}, 0.7 × {runs / 'wider' / 'adapter'}"
    assert names == [str(workspace / "foundation"), average, foundation]
    with several.disable_adapter(), pytest.raises(FoundationError, match="no adapter is active"):
        several.save(tmp_path / "nothing")


def test_the_calculator_follows_the_active_adapter(
    several: AdaptedFoundation, alone: dict[str, Potential]
) -> None:
    atoms, again = rattled("CH3OH", 3), rattled("CH3OH", 3)
    atoms.calc = several.calculator()
    found = {}
    for name in ("lora", "readout", "lora"):
        several.set_adapter(name)
        found[name] = atoms.get_potential_energy()
        again.calc = finetune.PotentialCalculator(alone[name])
        assert found[name] == again.get_potential_energy()
    with several.disable_adapter():
        assert abs(atoms.get_potential_energy() - found["lora"]) > 1.0  # other references
    assert atoms.get_potential_energy() == found["lora"]
    assert found["lora"] != found["readout"]


def test_names_are_checked(several: AdaptedFoundation, runs: Path) -> None:
    with pytest.raises(FoundationError, match=r"no adapter 'lor' is loaded. Did you mean 'lora'"):
        several.set_adapter("lor")
    with pytest.raises(FoundationError, match="no adapter '5' is loaded"):
        several.set_adapter(5)  # type: ignore[arg-type]
    with pytest.raises(FoundationError, match="as a mapping"):
        AdaptedFoundation(several.foundation, [runs / "lora"])  # type: ignore[arg-type]
    with pytest.raises(FoundationError, match="opened already, with another head than 'nope'"):
        AdaptedFoundation(several.foundation, head="nope")
    with pytest.raises(FoundationError, match="'lora' is loaded already"):
        several.load_adapter(runs / "lora" / "adapter")
    several.set_adapter("lora")
    several.delete_adapter("lora")
    assert several.active_adapter is None
    assert several.load_adapter(runs / "lora" / "adapter") == "lora"
    with pytest.raises(FoundationError, match="holds no adapter"):
        several.load_adapter(runs)


def test_what_cannot_be_averaged(several: AdaptedFoundation) -> None:
    for adapters, weights, message in (
        (["readout", "lora"], None, "of the kinds readout and lora"),
        (["readout", "again"], [1.0], "one finite weight for each"),
        (["readout", "again"], [1.0, float("nan")], "one finite weight for each"),
        ([], None, "one finite weight for each"),
        (["readout"], ["x"], "one finite weight for each"),
        (["readout"], 1.0, "one finite weight for each"),
        ("readout", [1.0], "as a list of names"),
    ):
        with pytest.raises(FoundationError, match=message):
            several.add_weighted_adapter(adapters, weights)  # type: ignore[arg-type]
    with pytest.raises(FoundationError, match="is loaded already"):
        several.add_weighted_adapter(["readout", "again"], name="lora")


def test_another_foundation_is_refused(runs: Path) -> None:
    with pytest.raises(FoundationError, match="belongs to the foundation"):
        AdaptedFoundation(runs / "readout", {"lora": runs / "lora"}, device="cpu")


@pytest.mark.parametrize("name", ["lora", "head", "scaled"])
def test_an_adapter_folder_is_the_potential_of_its_run(name: str, runs: Path) -> None:
    alone, run = load_foundation(runs / name / "adapter"), load_foundation(runs / name)
    assert alone.fingerprint == run.fingerprint
    assert alone.metadata == run.metadata


def test_faulty_adapter_folders_are_explained(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(runs / "lora" / "adapter", folder)
    stored = json.loads((folder / "adapter.json").read_text())
    origin = stored["foundation"]
    for changes, message in (
        ({"foundation": {**origin, "fingerprint": "0" * 64}}, "belongs to the foundation"),
        ({"foundation": {**origin, "name": str(tmp_path / "gone")}}, "needs its foundation"),
        ({"kind": "lorra"}, "Did you mean 'lora'"),
        ({"options": {"rnk": 2}}, "cannot be attached"),
        ({"format_version": 2}, "damaged at 'format_version'"),
        ({"reference_energies": 3}, "damaged at 'reference_energies'"),
        ({"reference_energies": {"H": 1.0}}, "no reference energy of C, N, O"),
        ({"foundation": {**origin, "name": str(folder)}}, "names itself as its foundation"),
        ({"metadata": {"recipe": 5}}, "damaged at 'metadata': its entry 'recipe'"),
    ):
        (folder / "adapter.json").write_text(json.dumps({**stored, **changes}))
        with pytest.raises(FoundationError, match=message):
            load_foundation(folder)
    (folder / "adapter.json").write_text("{")
    with pytest.raises(FoundationError, match="cannot be read"):
        load_foundation(folder)


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def nan(path: Path) -> None:
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "readout"])
@pytest.mark.parametrize(
    ("change", "recorded", "message"),
    [
        (damaged, True, "is damaged or was changed"),
        (nan, True, "is damaged or was changed"),
        (nan, False, "NaN or infinite"),
    ],
)
def test_damaged_weights_of_an_adapter_are_refused(
    change: Callable[[Path], None],
    recorded: bool,
    message: str,
    name: str,
    runs: Path,
    several: AdaptedFoundation,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(runs / name / "adapter", folder)
    (weights,) = folder.glob("*.safetensors")
    if not recorded:  # as earlier releases wrote it
        record = json.loads((folder / "adapter.json").read_text())
        assert list(record.pop("sha256")) == [weights.name]
        (folder / "adapter.json").write_text(json.dumps(record))
        load_foundation(folder)
    change(weights)
    for opened in (load_foundation, several.load_adapter):
        with pytest.raises(RunFolderError, match=rf"{weights.name}' .*{message}"):
            opened(folder)
