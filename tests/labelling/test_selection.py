"""What is chosen to be labelled is new, spread out, and what a committee disputes."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from finetune.commands import app
from finetune.core.errors import DataError
from finetune.data.graphs import graph
from finetune.labelling.selection import disagreement, farthest_points
from finetune.potentials.mace.potential import MacePotential
from tests.conftest import rattled, structure
from tests.tiny import tiny_mace


def test_descriptors_do_not_turn(potential: MacePotential) -> None:
    atoms = rattled("CH3OH", 0)
    first = potential.descriptors(graph(structure(atoms), potential.cutoff))
    atoms.rotate(77.0, (1.0, 2.0, 3.0))
    second = potential.descriptors(graph(structure(atoms), potential.cutoff))
    torch.testing.assert_close(first, second, atol=1e-9, rtol=1e-9)
    assert first.shape[0] == 6 and float(first.std(dim=0).max()) > 0


def test_farthest_points_take_what_is_new_first(potential: MacePotential) -> None:
    alike = [structure(rattled("CH4", seed, 0.001)) for seed in range(8)]
    pool = [*alike, structure(rattled("NH3", 1)), structure(rattled("CH4", 99, 0.3)), alike[0]]
    chosen, distances = farthest_points(potential, pool, 4, labelled=alike[:1])
    assert set(chosen[:2]) == {8, 9}
    assert 0 not in chosen and 10 not in chosen  # it has a label
    assert distances == sorted(distances, reverse=True)
    assert farthest_points(potential, pool, 4) == farthest_points(potential, pool, 4)
    with pytest.raises(DataError, match="cannot be chosen out of 11"):
        farthest_points(potential, pool, 12)


def test_a_committee_disputes_what_its_members_see_differently() -> None:
    committee = [tiny_mace(seed=seed) for seed in range(3)]
    pool = [structure(rattled("CH3OH", seed, 0.01 * seed)) for seed in range(8)]
    chosen, scores = disagreement(committee, [*pool, pool[7]], 3)
    assert scores == sorted(scores, reverse=True)
    assert len({min(index, 7) for index in chosen}) == 3  # the last two are the same structure
    graphs = graph(pool[chosen[0]], committee[0].cutoff)
    forces = np.stack([p(graphs).forces.detach().numpy() for p in committee])
    assert scores[0] == pytest.approx(np.linalg.norm(forces.std(axis=0), axis=1).max())
    with pytest.raises(DataError, match="at least two members"):
        disagreement(committee[:1], pool, 3)
    with pytest.raises(DataError, match="they are the same potential"):
        disagreement([committee[0], committee[0]], pool, 3)


def test_the_command_writes_what_was_chosen(workspace: Path, tmp_path: Path) -> None:
    pool, target = str(workspace / "train.xyz"), tmp_path / "next.xyz"
    foundation = str(workspace / "foundation")
    arguments = ["data", "select", pool, "--count", "4"]
    done = CliRunner().invoke(
        app,
        [*arguments, "--to", str(target), "--foundation", foundation, "--labelled", f"{pool}@0"],
    )
    assert done.exit_code == 0, done.output
    assert len(ase.io.read(target, ":")) == 4
    done = CliRunner().invoke(app, [*arguments, "--to", str(tmp_path / "b.xyz")])
    assert done.exit_code == 2
    assert "--foundation NAME or --committee RUN" in done.stderr
    twice = ["--committee", foundation, "--committee", foundation]
    done = CliRunner().invoke(app, [*arguments, "--to", str(tmp_path / "b.xyz"), *twice])
    assert done.exit_code == 2
    assert "the same potential" in " ".join(done.stderr.split())


def test_select_tells_where_there_is_less_to_choose_from(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":3")
    ase.io.write(tmp_path / "pool.xyz", [frames[0]] * 4 + frames[1:])
    place = ["--to", str(tmp_path / "next.xyz"), "--foundation", str(workspace / "foundation")]
    done = CliRunner().invoke(
        app, ["data", "select", str(tmp_path / "pool.xyz"), *place, "--count", "5"]
    )
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "wrote 3 structures to" in told
    assert "not 5: no others differ from these" in told
