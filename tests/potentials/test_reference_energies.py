"""Refitted reference energies take the composition-dependent part away and nothing else."""

from dataclasses import replace

import pytest
import torch
from ase import Atoms

from finetune.core.errors import DataError, RecipeError
from finetune.data.graphs import GraphBatch, graph
from finetune.potentials import reference_energies
from finetune.potentials.reference_energies import apply, by_symbol, estimate, take_free_atoms
from tests.conftest import rattled, structure
from tests.tiny import tiny_mace

SHIFT = {1: 1.25, 6: -7.5, 8: 30.0}


def labelled(names: list[str], shift: dict[int, float] = SHIFT) -> list[GraphBatch]:
    potential = tiny_mace()
    graphs = []
    for seed, name in enumerate(names):
        item = graph(structure(rattled(name, seed)), potential.cutoff)
        moved = sum(shift[int(number)] for number in item.numbers)
        energy = potential(item, forces=False).energy.detach() + moved
        graphs.append(replace(item, energy=energy, has_energy=torch.tensor([True])))
    return graphs


def test_several_compositions_give_the_shift_of_each_element() -> None:
    potential = tiny_mace()
    fit = estimate(potential, labelled(["CH4", "CH3OH", "H2O", "CO2"]))
    assert fit.change == pytest.approx(SHIFT, abs=1e-6)
    assert fit.undetermined == ()
    assert not fit.ambiguous
    before = potential.references()
    apply(potential, fit)
    assert potential.references()[7] == before[7]
    assert potential.references()[8] == pytest.approx(before[8] + 30.0, abs=1e-6)


def test_one_composition_removes_the_mean_residual_with_the_smallest_change() -> None:
    potential, graphs = tiny_mace(), labelled(["CH3OH"] * 3)
    fit = estimate(potential, graphs)
    assert fit.ambiguous
    assert fit.identified == 1
    total = sum(fit.change[int(number)] for number in graphs[0].numbers)
    assert total == pytest.approx(4 * 1.25 - 7.5 + 30.0, abs=1e-6)
    assert fit.change[1] / fit.change[6] == pytest.approx(4.0, rel=1e-6)
    assert len(fit.undetermined) == 2
    for weights in fit.undetermined:  # methanol, CH4O, does not notice
        assert (
            sum(count * weights.get(number, 0) for number, count in ((1, 4), (6, 1), (8, 1))) == 0
        )
        assert all(isinstance(weight, int) for weight in weights.values())


def test_undetermined_combinations_stay_as_they_were() -> None:
    assert estimate(tiny_mace(), labelled(["CH4", "C2H6", "H2O"])).undetermined == ()
    fit = estimate(tiny_mace(), labelled(["C2H4", "C3H6_Cs", "CO2"]))
    (weights,) = fit.undetermined  # CH2 units and CO2: C alone is free, at the cost of H and O
    assert {n: w / weights[6] for n, w in weights.items()} == {1: -0.5, 6: 1.0, 8: -0.5}
    left = sum(weight * fit.change[number] for number, weight in weights.items())
    assert left == pytest.approx(0.0, abs=1e-6)


def test_free_atoms_give_the_references_of_their_elements() -> None:
    atoms = [
        replace(structure(Atoms(symbol)), energy=energy)
        for symbol, energy in (("H", -13.0), ("H", -13.6), ("O", -2041.0))
    ]
    water = structure(rattled("H2O", 0))
    energies, rest = take_free_atoms([*atoms, water])
    assert energies == {1: -13.6, 8: -2041.0}
    assert rest == [water]
    potential = tiny_mace()
    before = potential.references()
    reference_energies.replace(potential, energies, rest)
    assert potential.references() == {**before, **energies}
    with pytest.raises(
        DataError, match="no energy of a free atom for C\\. .*reference_energies: {H"
    ):
        reference_energies.replace(potential, energies, [structure(rattled("CH4", 0))])


def test_references_are_given_by_symbol() -> None:
    assert by_symbol({"H": -13.6, "Cl": -1.0}) == {1: -13.6, 17: -1.0}
    with pytest.raises(RecipeError, match="names 'hydrogen', which is no element"):
        by_symbol({"hydrogen": -13.6})


def test_thousands_of_electron_volts_leave_no_residual() -> None:
    potential, graphs = tiny_mace(), labelled(["CH3OH"] * 2, {1: -500.0, 6: -4000.0, 8: -9000.0})
    apply(potential, estimate(potential, graphs))
    for item in graphs:
        assert abs(potential(item, forces=False).energy - item.energy).item() < 1e-6


def test_unlabelled_structures_take_no_part() -> None:
    graphs = labelled(["CH4", "CH3OH", "H2O", "CO2"])
    bare = replace(graphs[0], energy=torch.tensor([1e6], dtype=torch.float64))
    bare = replace(bare, has_energy=torch.tensor([False]))
    assert estimate(tiny_mace(), [*graphs, bare]).change == pytest.approx(SHIFT, abs=1e-6)
    with pytest.raises(DataError, match="no training structure has an energy"):
        estimate(tiny_mace(), [bare])
