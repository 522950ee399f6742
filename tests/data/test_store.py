"""The HDF5 store: what goes in comes out, one structure at a time."""

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.graphs import GraphBatch
from finetune.data.reading import Reader, read_structures
from finetune.data.splitting import hold_out
from finetune.data.store import Store, write_store
from finetune.data.structures import Joined, LazySequence, Structure, View, from_atoms
from finetune.data.writing import write_structures
from finetune.potentials.reference_energies import representative
from finetune.recipe.sections import LabelKeys
from tests.conftest import recipe_for
from tests.training.test_optimisation import largest_difference

ROOT = str(Path(finetune.__file__).resolve().parents[1])


def same(first: Structure, second: Structure) -> bool:
    return all(
        np.array_equal(getattr(first, f.name), getattr(second, f.name))
        for f in fields(Structure)
        if getattr(first, f.name) is not None or getattr(second, f.name) is not None
    )


@pytest.fixture(scope="module")
def labelled(mixed: list[Structure]) -> list[Structure]:
    """Forty structures of different sizes; each kind of label on some of them, all, or none."""
    random = np.random.default_rng(0)
    items = []
    for index in range(40):
        base = mixed[index % len(mixed)]
        periodic = bool(base.pbc.all())
        items.append(
            replace(
                base,
                positions=base.positions + random.normal(0, 0.01, base.positions.shape),
                energy=float(random.normal()) if index % 3 else None,
                forces=random.normal(size=(len(base), 3)) if index % 4 == 1 else None,
                stress=random.normal(size=(3, 3)) if periodic and index % 2 else None,
                charge=index % 3 - 1,
                spin=1 + index % 2,
                where=f"'file-{index % 2}.xyz', structure {index}",
                level_of_theory=("PBE", "CCSD(T)", None)[index % 3],
            )
        )
    return items


@pytest.fixture(scope="module")
def store(labelled: list[Structure], tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("store") / "set.h5"
    assert write_store(path, (labelled[start : start + 7] for start in range(0, 40, 7))) == 40
    return Store(path)


def test_everything_comes_back_by_index_in_turn_and_in_slices(
    store: Store, labelled: list[Structure], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(store) == 40
    for index in np.random.default_rng(1).permutation(40).tolist():
        assert same(store[index], labelled[index])
    assert same(store[-1], labelled[-1])
    monkeypatch.setattr("finetune.data.store.BLOCK", 9)
    assert all(same(a, b) for a, b in zip(store, labelled, strict=True))
    part = store[30:5:-3]
    assert isinstance(part, View)
    assert all(same(a, b) for a, b in zip(part, labelled[30:5:-3], strict=True))
    with pytest.raises(IndexError):
        store[40]


def test_absent_labels_take_no_room_and_there_is_no_nan(
    store: Store, labelled: list[Structure]
) -> None:
    with h5py.File(store.path) as file:
        assert file["energy/values"].shape == (sum(s.energy is not None for s in labelled),)
        assert file["forces/values"].shape[0] == sum(
            len(s) for s in labelled if s.forces is not None
        )
        for name in ("energy", "forces", "stress", "positions"):
            values = file[f"{name}/values" if name != "positions" else name]
            assert values.chunks is not None
            assert np.isfinite(values[:]).all()


def test_a_store_travels_to_other_processes(store: Store, labelled: list[Structure]) -> None:
    assert same(pickle.loads(pickle.dumps(store))[17], labelled[17])


def test_views_and_joins(store: Store, labelled: list[Structure]) -> None:
    joined = Joined([store, labelled[:3]])
    assert len(joined) == 43
    assert same(joined[39], labelled[39])
    assert same(joined[41], labelled[1])
    kept, held = hold_out(store, 0.25, seed=0)
    assert isinstance(kept, LazySequence)
    expected_kept, expected_held = hold_out(labelled, 0.25, seed=0)
    for found, expected in ((kept, expected_kept), (held, expected_held)):
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    chosen = representative(store, 12)
    assert len(chosen) <= 12
    assert all(labelled[index].energy is not None for index in chosen)
    compositions = {tuple(sorted(s.numbers)) for s in labelled if s.energy is not None}
    assert {tuple(sorted(labelled[index].numbers)) for index in chosen} == compositions


def test_foreign_and_damaged_files_are_named(store: Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="no store of this package"):
        Store(tmp_path / "other.h5")
    (tmp_path / "cut.h5").write_bytes(store.path.read_bytes()[:5000])
    with pytest.raises(DataError, match="cut.h5' cannot be read"):
        Store(tmp_path / "cut.h5")
    with pytest.raises(DataError, match="contains no structure"):
        read_structures(f"{store.path}@100:")
    with pytest.raises(DataError, match="exists"):
        write_store(store.path, [])


def test_a_failed_store_leaves_nothing(labelled: list[Structure], tmp_path: Path) -> None:
    def blocks() -> Iterator[list[Structure]]:
        yield labelled
        raise KeyError

    with pytest.raises(KeyError):
        write_store(tmp_path / "set.h5", blocks())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_from_a_store_is_training_from_the_files(workspace: Path, tmp_path: Path) -> None:
    paths = {}
    for split in ("train", "valid", "test"):
        paths[split] = str(tmp_path / f"{split}.h5")
        done = CliRunner().invoke(
            app, ["store", str(workspace / f"{split}.xyz"), "--to", paths[split]]
        )
        assert done.exit_code == 0, done.output
    train = {"epochs": 2, "learning_rate": 0.01, "ema": 0.5}
    finetune.run(recipe_for(workspace, tmp_path / "files", train=train))
    for name, workers in (("store", 0), ("workers", 2)):
        recipe = recipe_for(
            workspace, tmp_path / name, data=paths, train={**train, "workers": workers}
        )
        result = finetune.run(recipe)
        assert result.test is not None
        assert result.test.finetuned.labelled_forces == 45
        assert largest_difference(tmp_path / "files", tmp_path / name) == 0.0
    part = {**paths, "train": f"{paths['train']}@:6", "valid": f"{paths['train']}@6:"}
    result = finetune.run(recipe_for(workspace, tmp_path / "part", data=part, train=train))
    assert result.valid.finetuned.structures == 6


TAGS: dict[str, str | float] = {
    "config_type": "a scan",
    "scan_value": 1.5,
    "frame_id": 17.0,
    "temperature": 300.0,
    "note of mine": 'says "hi", twice = {3}',
    "run": "0012",
    "empty": "",
}


@pytest.mark.parametrize("name", ["set.h5", "set.xyz"])
def test_tags_are_kept_and_labels_are_not_repeated_among_them(name: str, tmp_path: Path) -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]], info={**TAGS, "dft": -1.0, "charge": 1})
    item = from_atoms(atoms, LabelKeys(energy="dft"), "made, structure 0", Units(energy="Hartree"))
    write_structures(tmp_path / name, [item, replace(item, tags={})])
    first, second = read_structures(tmp_path / name)
    charge = {"charge": 1.0} if name == "set.xyz" else {}
    assert {**first.tags, **charge} == {**TAGS, "charge": 1.0}
    assert (first.energy, first.charge) == (pytest.approx(-27.2114, abs=1e-4), 1)
    assert set(second.tags) <= {"charge"}


def test_stores_without_tags_open_and_damaged_tags_are_named(store: Store, tmp_path: Path) -> None:
    for name, tags in (("old.h5", None), ("damaged.h5", ["{"] * 40), ("short.h5", [""])):
        shutil.copy(store.path, tmp_path / name)
        with h5py.File(tmp_path / name, "r+") as file:
            del file["tags"]
            if tags is not None:
                file.create_dataset("tags", data=tags, dtype=h5py.string_dtype())
    assert [item.tags for item in Store(tmp_path / "old.h5")] == [{}] * 40
    with pytest.raises(DataError, match="structure 3: its tags are damaged"):
        Store(tmp_path / "damaged.h5")[3]
    with pytest.raises(DataError, match="'tags' has 1 rows for 40 structures"):
        Store(tmp_path / "short.h5")


@pytest.mark.parametrize(
    ("table", "value", "message"),
    [
        ("numbers", 200, "unknown element"),
        ("positions", 0.0, "apart"),
        ("pbc", True, "periodic along a direction whose cell vector is zero"),
        ("spin", -5, "'spin' is -5"),
        ("charge", 10**6, "'charge' is 1000000"),
        ("energy/values", 1e30, "reaches 3.33e\\+29 eV/atom"),
        ("energy/values", np.nan, "NaN"),
    ],
)
def test_structures_of_a_store_are_checked_as_those_of_files_are(
    table: str, value: Any, message: str, tmp_path: Path
) -> None:
    item = from_atoms(molecule("H2O", info={"REF_energy": -1.0}), LabelKeys(), "made, structure 0")
    path = tmp_path / "set.h5"
    write_structures(path, [item, item])
    with h5py.File(path, "r+") as file:
        file[table][len(file[table]) // 2 :] = value
    opened = Store(path)
    if message != "NaN":
        assert same(opened[0], item)
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            list(opened)


def large_store(path: Path, base: Sequence[Structure], count: int) -> Path:
    """Write a store of different structures, about 450 bytes each as arrays."""
    random = np.random.default_rng(count)
    blocks = (
        [
            replace(
                item,
                positions=item.positions + random.normal(0, 0.01, item.positions.shape),
                where=f"made, structure {place}",
            )
            for place in range(start, min(start + 1000, count))
            for item in (base[place % len(base)],)
        ]
        for start in range(0, count, 1000)
    )
    write_store(path, blocks)
    return path


def counted(kind: type) -> type:
    """Return a class of the same instances that counts how many are alive, and were at most."""

    class Counted(kind):  # type: ignore[misc]
        alive = most = 0

        def __init__(self, *values: object, **named: object) -> None:
            super().__init__(*values, **named)
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)

        def __del__(self) -> None:
            Counted.alive -= 1

    return Counted


@pytest.fixture
def prompt_collection() -> Iterator[None]:
    """Let garbage be collected as in a young process, however much earlier tests have left."""
    gc.collect()
    gc.freeze()
    gc.collect()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("prompt_collection")
@pytest.mark.slow
def test_a_run_holds_few_structures_and_graphs_at_a_time(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_store(tmp_path / "set.h5", read_structures(workspace / "test.xyz"), 1000)
    structures, graphs = counted(Structure), counted(GraphBatch)
    monkeypatch.setattr("finetune.data.store.BLOCK", 20)
    monkeypatch.setattr("finetune.data.store.Structure", structures)
    monkeypatch.setattr("finetune.data.graphs.GraphBatch", graphs)
    recipe = recipe_for(
        workspace,
        tmp_path / "run",
        data={"train": str(path), "valid": 0.02, "unlabelled": str(path)},
        losses={"energy": {}, "pitc": {"displacement": 0.05}},
        reference_energies="isolated",
        train={"epochs": 1, "max_steps": 2},
    )
    with pytest.raises(DataError, match="no energy of a free atom"):
        finetune.run(recipe)
    finetune.run(recipe.model_copy(update={"reference_energies": "keep"}))
    assert 600 <= structures.most < 700  # forces are compared with energies on 600
    assert 64 <= graphs.most < 150


MEASURE = """
import json, sys
import torch
import finetune
from finetune.core.devices import peak_memory
torch.set_num_threads(1)
finetune.run(json.loads(sys.argv[1]))
print(peak_memory(torch.device("cpu")) / 2**20)
"""


def peak(recipe: dict[str, Any]) -> float:
    """Return the largest resident size, MiB, of a process that runs a recipe."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, json.dumps(recipe)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.mark.slow
def test_a_hundred_thousand_structures_are_not_held_in_memory(
    workspace: Path, tmp_path: Path
) -> None:
    """Their arrays alone would be 45 MB, objects for them 160 MB, graphs gigabytes."""
    base = read_structures(workspace / "test.xyz")
    peaks = {}
    for count in (5_000, 100_000):
        recipe = recipe_for(
            workspace,
            tmp_path / str(count),
            data={
                "train": str(large_store(tmp_path / f"{count}.h5", base, count)),
                "valid": str(workspace / "valid.xyz"),
            },
            losses={"energy": {}, "forces": {}},
            train={"epochs": 1, "max_steps": 30, "monitor": "energy_mae", "device": "cpu"},
        )
        peaks[count] = peak(recipe.model_dump(mode="json"))
    print(f"largest resident size, MiB: {peaks}")
    assert peaks[100_000] - peaks[5_000] < 35


def test_faulty_structures_of_a_store_are_left_out_when_asked(
    mixed: list[Structure], workspace: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    write_store(path, [[replace(mixed[index % 2], energy=-100.0 - index) for index in range(8)]])
    with h5py.File(path, "r+") as file:
        first = file["offsets"][2]
        file["positions"][first] = file["positions"][first + 1]  # two atoms in one place
        file["energy/values"][5] = np.nan
    with pytest.raises(DataError, match="NaN or infinite values in structures 0 to 7"):
        list(Reader().read(path))
    reader = Reader(faulty="skip")
    found = reader.read(path)
    energies = [-100.0, -101.0, -103.0, -104.0, -106.0, -107.0]
    assert [item.energy for item in found] == energies
    assert [found[index].energy for index in range(6)] == energies
    assert reader.records[0].structures == 6
    assert "structure 2" in reader.notes()[0]
    assert "structures 5 to 5" in reader.notes()[0]
    assert len(list(Reader(faulty="skip").stream(f"{path}@:3"))) == 2
    with pytest.raises(DataError, match="contains no usable structure"):
        Reader(faulty="skip").read(f"{path}@2:3")
    data = {"train": str(path), "valid": 0.34, "faulty": "skip"}
    prepared = finetune.validate(recipe_for(workspace, "x", data=data))
    assert len(prepared.data.train) == 4
    assert any("left out of" in note and "2 in all" in note for note in prepared.notes)
