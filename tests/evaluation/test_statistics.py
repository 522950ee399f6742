"""Every statistic against scikit-learn and against loops over structures."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from sklearn.metrics import max_error, mean_absolute_error, r2_score, root_mean_squared_error

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, graph
from finetune.data.structures import from_atoms
from finetune.evaluation.baseline import open_pair
from finetune.evaluation.evaluation import (
    CALIBRATION,
    JSON,
    PARITY,
    STATISTICS,
    STRUCTURES,
    Evaluated,
    compare,
)
from finetune.evaluation.plots import parity
from finetune.evaluation.statistics import (
    Statistics,
    by_element,
    by_subset,
    energy_errors,
    force_errors,
    measure,
    statistics,
)
from finetune.evaluation.tables import worst
from finetune.potentials.errors import LabelledPredictions, predict
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.storage import save
from finetune.recipe.sections import LabelKeys
from tests.conftest import rattled
from tests.tiny import tiny_mace

SUBSETS = ["warm", "cold", "warm", "warm", "cold"]


@pytest.fixture(scope="module")
def frames(diamond: Atoms) -> list[Atoms]:
    """Molecules and a crystal with energies, forces and stress, some labels absent."""
    random = np.random.default_rng(5)
    crystal = diamond.copy()
    crystal.info["REF_stress"] = random.normal(0, 0.1, 6)
    molecules = [rattled(name, 1) for name in ("CH3CH2OH", "CH4", "NH3", "H2O")]
    found = [*molecules, crystal]
    for index, atoms in enumerate(found):
        atoms.info["config_type"] = SUBSETS[index]
        if index != 1:
            atoms.info["REF_energy"] = random.normal()
        if index != 2:
            atoms.arrays["REF_forces"] = random.normal(size=(len(atoms), 3))
    return found


@pytest.fixture(scope="module")
def graphs(frames: list[Atoms], potential: MacePotential) -> list[GraphBatch]:
    keys = LabelKeys()
    return [graph(from_atoms(atoms, keys, "test"), potential.cutoff) for atoms in frames]


@pytest.fixture(scope="module")
def predictions(graphs: list[GraphBatch], potential: MacePotential) -> LabelledPredictions:
    return predict(potential, graphs, batch_size=2)


def agrees(found: Statistics, predicted: list[float], labelled: list[float]) -> None:
    assert found.count == len(labelled)
    assert found.mae == pytest.approx(mean_absolute_error(labelled, predicted))
    assert found.rmse == pytest.approx(root_mean_squared_error(labelled, predicted))
    assert found.max == pytest.approx(max_error(labelled, predicted))
    assert found.r2 == pytest.approx(r2_score(labelled, predicted))


def singly(potential: MacePotential, graphs: list[GraphBatch]) -> list[tuple[float, np.ndarray]]:
    found = []
    for item in graphs:
        prediction = potential(item, create_graph=False)
        assert prediction.forces is not None
        found.append((float(prediction.energy), prediction.forces.detach().numpy()))
    return found


def test_all_structures_agree_with_scikit_learn(
    frames: list[Atoms],
    graphs: list[GraphBatch],
    potential: MacePotential,
    predictions: LabelledPredictions,
) -> None:
    found = measure(predictions).statistics
    single = singly(potential, graphs)
    with_energy = [i for i, atoms in enumerate(frames) if "REF_energy" in atoms.info]
    with_forces = [i for i, atoms in enumerate(frames) if "REF_forces" in atoms.arrays]
    labelled = [frames[i].info["REF_energy"] for i in with_energy]
    predicted = [single[i][0] for i in with_energy]
    sizes = [len(frames[i]) for i in with_energy]
    agrees(found["energy"], predicted, labelled)
    mean = sum(p - q for p, q in zip(predicted, labelled, strict=True)) / len(labelled)
    agrees(found["energy_shifted"], [value - mean for value in predicted], labelled)
    agrees(
        found["energy_per_atom"],
        [value / n for value, n in zip(predicted, sizes, strict=True)],
        [value / n for value, n in zip(labelled, sizes, strict=True)],
    )
    forces = np.concatenate([single[i][1] for i in with_forces])
    reference = np.concatenate([frames[i].arrays["REF_forces"] for i in with_forces])
    agrees(found["forces"], forces.ravel().tolist(), reference.ravel().tolist())
    lengths = [[float(np.hypot(np.hypot(*v[:2]), v[2])) for v in x] for x in (forces, reference)]
    agrees(found["force_norms"], *lengths)
    cosines = [f @ g / np.sqrt(f @ f * (g @ g)) for f, g in zip(forces, reference, strict=True)]
    assert measure(predictions).force_cosine == pytest.approx(np.mean(cosines))
    assert found["stress"].count == 9


def test_elements_and_subsets_are_taken_apart(
    frames: list[Atoms],
    graphs: list[GraphBatch],
    potential: MacePotential,
    predictions: LabelledPredictions,
) -> None:
    single = singly(potential, graphs)
    for number, found in by_element(predictions).items():
        assert set(found.statistics) == {"forces", "force_norms"}
        pairs = [
            (
                single[index][1][atoms.numbers == number],
                atoms.arrays["REF_forces"][atoms.numbers == number],
            )
            for index, atoms in enumerate(frames)
            if "REF_forces" in atoms.arrays
        ]
        forces, labels = (np.concatenate(part).ravel() for part in zip(*pairs, strict=True))
        agrees(found.statistics["forces"], forces.tolist(), labels.tolist())
    assert set(by_element(predictions)) == {1, 6, 8}
    subsets = by_subset(predictions, SUBSETS)
    assert list(subsets) == ["warm", "cold"]
    warm = [0, 2, 3]
    agrees(
        subsets["warm"].statistics["energy"],
        [single[i][0] for i in warm],
        [frames[i].info["REF_energy"] for i in warm],
    )
    assert "stress" not in subsets["warm"].statistics
    assert subsets["cold"].statistics["energy"].count == 1
    assert subsets["cold"].statistics["energy"].r2 is None


def test_errors_of_single_structures(
    frames: list[Atoms],
    graphs: list[GraphBatch],
    potential: MacePotential,
    predictions: LabelledPredictions,
) -> None:
    energies = energy_errors(predictions, len(frames))
    rmse, largest = force_errors(predictions, len(frames))
    for index, (energy, forces) in enumerate(singly(potential, graphs)):
        atoms = frames[index]
        if index == 1:
            assert np.isnan(energies[index])
        else:
            assert energies[index] == pytest.approx(energy - atoms.info["REF_energy"])
        if index == 2:
            assert np.isnan(rmse[index]) and np.isnan(largest[index])
        else:
            labels = atoms.arrays["REF_forces"].ravel()
            assert rmse[index] == pytest.approx(root_mean_squared_error(labels, forces.ravel()))
            assert largest[index] == pytest.approx(max_error(labels, forces.ravel()))


def test_forces_without_a_direction_have_no_cosine() -> None:
    nothing = np.zeros((2, 0))
    forces = np.array([[1.0, 1.0, 0.0, 0.5, 0.0, 0.0], [3.0, 0.0, 0.0, 0.001, 0.0, 0.0]])
    found = measure(LabelledPredictions(nothing, np.zeros(0), forces, nothing))
    assert found.force_cosine == pytest.approx(0.5**0.5)
    still = replace(
        LabelledPredictions(nothing, np.zeros(0), forces, nothing), forces=np.zeros((2, 3))
    )
    assert measure(still).force_cosine is None


def test_a_diverged_potential_is_reported(frames: list[Atoms], graphs: list[GraphBatch]) -> None:
    found = statistics(np.array([np.nan, 1.0]), np.array([0.0, 1.0]))
    assert found is not None
    assert np.isnan(found.mae)
    keys = LabelKeys()
    structures = [from_atoms(atoms, keys, "test") for atoms in frames]
    compared = compare("file", tiny_mace(), None, graphs)
    energy = compared.finetuned_predictions.energy.copy()
    energy[0, 2] = np.nan
    broken = replace(compared.finetuned_predictions, energy=energy)
    evaluated = Evaluated(
        **{**vars(compared), "finetuned_predictions": broken}, structures=structures
    )
    assert evaluated.worst()["by_energy"][0]["index"] == broken.energy_of[2]
    text = json.dumps(evaluated.as_dict())
    assert "NaN" not in text
    assert '"energy": {"count": 4, "mae": null' in text


def test_the_worst_structures_come_first(
    frames: list[Atoms], graphs: list[GraphBatch], potential: MacePotential
) -> None:
    keys = LabelKeys()
    structures = [
        from_atoms(atoms, keys, f"file, structure {index}") for index, atoms in enumerate(frames)
    ]
    labels = potential(graphs[0], create_graph=False)
    exact = {"energy": labels.energy, "forces": labels.forces.detach()}
    known = [replace(graphs[0], **exact), *graphs[1:]]
    found = Evaluated(
        **vars(compare("file", potential, tiny_mace(seed=1), known)),
        structures=structures,
        listed=2,
    )
    worst = found.worst()
    rmse, _ = force_errors(found.finetuned_predictions, len(frames))
    assert rmse[0] == pytest.approx(0.0, abs=1e-9)
    order = [row["index"] for row in worst["by_forces"]]
    assert order == list(np.argsort(-np.nan_to_num(rmse))[:2])
    assert worst["by_forces"][0]["where"] == f"file, structure {order[0]}"
    assert torch.equal(known[0].energy, labels.energy)
    energies = energy_errors(found.finetuned_predictions, len(frames))
    centred = energies / [len(atoms) for atoms in frames]
    centred -= np.nanmean(centred)
    assert worst["by_energy"][0]["index"] == np.nanargmax(np.abs(centred))
    assert list(found.potentials()) == ["foundation", "fine-tuned"]


def test_equal_labels_have_no_r2_whatever_rounding_says() -> None:
    found = statistics(np.array([0.1, 0.2, 0.3]), np.full(3, 0.1))
    assert np.full(3, 0.1).mean() != 0.1
    assert found is not None and found.r2 is None


def test_the_worst_name_their_place_where_the_index_is_not_the_place() -> None:
    row = {"energy_per_atom_error_shifted": 0.1, "forces_rmse": None, "forces_max": None}

    def headers(index: int, where: str, several: bool = False) -> list[object]:
        shown = worst("worst", [{**row, "index": index, "where": where}], several)
        return [column.header for column in shown.columns]

    assert "place" not in headers(3, "'a.xyz', structure 3")
    assert "place" in headers(3, "'a.xyz@10:', structure 13")
    assert "place" in headers(3, "'a.xyz', structure 3", several=True)


def test_an_evaluation_replaces_another_with_all_its_files(
    frames: list[Atoms], graphs: list[GraphBatch], potential: MacePotential, tmp_path: Path
) -> None:
    structures = [from_atoms(atoms, LabelKeys(), "test") for atoms in frames]
    found = Evaluated(**vars(compare("file", potential, None, graphs)), structures=structures)
    found.write(tmp_path)
    (tmp_path / CALIBRATION).write_text("of a committee, earlier")
    killed = tmp_path / f".{STATISTICS}.a1b2c3d4"
    killed.write_text("half")
    found.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {JSON, STATISTICS, STRUCTURES, PARITY}


def test_a_potential_is_not_put_beside_itself(tmp_path: Path) -> None:
    save(tiny_mace(), tmp_path / "one", {"name": "tiny"})
    both = (tmp_path / "one", tmp_path / "one")
    with pytest.raises(FoundationError, match="is compared with itself"):
        open_pair(*both, head=None, against_head=None, device="cpu", dtype="float64")


@pytest.mark.usefixtures("drawn")
def test_many_points_keep_a_vector_figure_small() -> None:
    random, nothing = np.random.default_rng(0), np.zeros((2, 0))
    sizes = []
    for count in (600, 60_000):
        forces = random.normal(size=(2, count))
        buffer = io.StringIO()
        found = LabelledPredictions(nothing, np.zeros(0), forces, nothing)
        parity(None, found).savefig(buffer, format="svg")
        sizes.append(len(buffer.getvalue()))
    assert sizes[1] < 5 * sizes[0]
