"""Dynamics that hold, fail in every way, stop and go on."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory

from finetune.core.counter import Counter
from finetune.core.errors import RunFolderError, RunStoppedError
from finetune.evaluation import trajectory
from finetune.evaluation.distances import comparable, find_bonds, mean_lengths
from finetune.evaluation.dynamics import FILES, Stability, run_all
from finetune.evaluation.trajectory import Limits, Settings, Task, TrajectoryRun, Watch
from tests.evaluation.springs import Springs

SHORT = Settings(length=0.05, interval=1.0)
NVE, NVT = Task("nve", 300.0, 0, 0), Task("nvt", 300.0, 0, 1)


def water() -> Atoms:
    return Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def run_test(
    folder: Path,
    calculators: dict[str, Springs],
    tasks: tuple[Task, ...] = (NVE, NVT),
    settings: Settings = SHORT,
    reference: list[Atoms] | None = None,
) -> Stability:
    marks = {name: f"{item.stiffness} {item.breaks}" for name, item in calculators.items()}
    return run_all(calculators, marks, [water()], [reference or []], tasks, settings, folder)


def frame(atoms: Atoms, energy: float = 0.0, kelvin: float = 300.0) -> Atoms:
    found = atoms.copy()
    found.set_momenta(np.sqrt(found.get_masses() * units.kB * kelvin)[:, None] * np.ones(3))
    found.calc = SinglePointCalculator(found, energy=energy, forces=np.zeros((len(found), 3)))
    return found


def test_a_sound_potential_holds_and_conserves_energy(tmp_path: Path) -> None:
    found = run_test(tmp_path, {"springs": Springs()})
    assert [item["failure"] for item in found.trajectories["springs"]] == [None, None]
    nve, nvt = found.summary()
    assert nve["stable_ps"] == nvt["stable_ps"] == pytest.approx(0.05)
    assert nve["survived"] == 1
    assert abs(nve["drift"]) < 20.0
    assert nvt["drift"] is None
    with Trajectory(str(tmp_path / "springs" / f"{NVE.name}.traj")) as frames:
        assert len(frames) == 51
        totals = [atoms.get_total_energy() for atoms in frames]
        np.testing.assert_allclose(frames[-1].get_momenta().sum(axis=0), 0.0, atol=1e-9)
    assert np.ptp(totals) < 0.01


def test_a_longer_step_drifts_as_the_energies_say(tmp_path: Path) -> None:
    settings = replace(SHORT, time_step=2.0, interval=2.0)
    found = run_test(tmp_path, {"springs": Springs()}, (NVE,), settings)
    with Trajectory(str(tmp_path / "springs" / f"{NVE.name}.traj")) as frames:
        totals = np.array([atoms.get_total_energy() for atoms in frames])
    times = 0.002 * np.arange(len(totals))
    centred = times - times.mean()
    slope = (centred @ totals) / (centred @ centred) / 3 * 1000
    assert found.trajectories["springs"][0]["drift"] == pytest.approx(slope)


def test_a_potential_that_tears_bonds_fails_in_time(tmp_path: Path) -> None:
    both = {"springs": Springs(), "torn": Springs(-0.3)}
    found = run_test(tmp_path, both, (NVE,), replace(SHORT, length=0.1))
    assert found.names == ("springs", "torn")
    (item,) = found.trajectories["torn"]
    assert item["failure"] == "bond"
    assert 0.0 < item["stable_ps"] < 0.1
    assert item["stable_ps"] == item["steps"] * 0.0005
    with Trajectory(str(tmp_path / "torn" / f"{NVE.name}.traj")) as frames:
        last = frames[-1]
    bonds = find_bonds(water())
    assert np.abs(bonds.measure(last) - bonds.lengths).max() > 0.5
    rows = {row["potential"]: row for row in found.summary()}
    assert rows["torn"]["failures"] == {"bond": 1}
    assert rows["springs"]["survived"] == 1


def test_a_potential_that_gives_no_numbers_fails(tmp_path: Path) -> None:
    found = run_test(tmp_path, {"broken": Springs(breaks=1.56)}, (NVE,))
    (item,) = found.trajectories["broken"]
    assert item["failure"] == "not finite"
    assert 0 < item["steps"] < SHORT.steps
    text = (tmp_path / "stability.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["summary"][0]["failures"] == {"not finite": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: frame(a), None),
        (lambda a: frame(_moved(a, 1, 0.7)), "bond"),
        (lambda a: frame(_moved(a, 1, 9.0)), "bond"),
        (lambda a: frame(a, energy=9.1), "energy"),
        (lambda a: frame(a, energy=-9.1), "energy"),
        (lambda a: frame(a, energy=np.nan), "not finite"),
        (lambda a: frame(a, kelvin=20_000.0), "temperature"),
    ],
)
def test_every_fault_is_told_apart(change, expected) -> None:  # type: ignore[no-untyped-def]
    start = molecule("CH3CH2OH")
    watch = Watch(frame(start), Limits(), 300.0, "nvt")
    assert watch.fault(change(start)) == expected


def test_faults_beyond_bonds() -> None:
    pair = Atoms("Ar3", [[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0]])
    watch = Watch(frame(pair), Limits(bond=0.0), 300.0, "nve")
    assert not len(watch.lengths)
    assert watch.fault(frame(_moved(pair, 1, 5.0))) == "lost atom"
    assert watch.fault(frame(_moved(pair, 1, 5.0)), pairs=False) is None
    assert watch.fault(frame(_moved(pair, 1, -3.2))) == "collision"
    assert watch.fault(frame(pair, energy=0.31)) == "energy"
    assert Watch(frame(pair), Limits(bond=0.0), 300.0, "nvt").fault(frame(pair, 0.31)) is None


def test_bonds_through_the_cell_are_followed() -> None:
    crystal = bulk("C", "diamond", 3.57)
    bonds = find_bonds(crystal)
    assert len(bonds.lengths) == 4
    np.testing.assert_allclose(bonds.lengths, 3.57 * 3**0.5 / 4)
    np.testing.assert_allclose(bonds.measure(crystal), bonds.lengths)
    stretched = crystal.copy()
    stretched.set_cell(1.4 * crystal.cell, scale_atoms=True)
    watch = Watch(frame(crystal), Limits(), 300.0, "nvt")
    assert watch.fault(frame(stretched)) == "bond"
    single = bulk("Cu", "fcc", 3.6)
    assert len(find_bonds(single).lengths) == 6


def test_bonds_are_measured_against_the_reference() -> None:
    long = water()
    long.positions *= 1.1
    bonds = find_bonds(water())
    lengths = mean_lengths(bonds, [water(), long])
    np.testing.assert_allclose(lengths, 1.05 * bonds.lengths)
    assert mean_lengths(bonds, []) is None


def test_isomers_are_no_reference_for_bonds() -> None:
    ethanol = molecule("CH3CH2OH")
    order = np.argsort(-ethanol.numbers, kind="stable")
    ethanol = ethanol[order]
    ether = molecule("CH3OCH3")
    ether = ether[np.argsort(-ether.numbers, kind="stable")]
    assert np.array_equal(ethanol.numbers, ether.numbers)
    warm = ethanol.copy()
    warm.positions += np.random.default_rng(0).normal(0, 0.03, warm.positions.shape)
    assert comparable(warm, ethanol, bonds=True)
    assert not comparable(ether, ethanol, bonds=True)
    assert comparable(ether, ethanol, bonds=False)
    assert not comparable(molecule("CH3OH"), ethanol, bonds=False)
    crystal = bulk("Cu", "fcc", 3.6, cubic=True)
    wrapped = crystal.copy()
    wrapped.positions[0] -= 0.1
    wrapped.wrap()
    assert comparable(wrapped, crystal, bonds=True)


def test_a_stopped_trajectory_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    whole = run_test(tmp_path / "whole", {"springs": Springs()}, (NVT,))
    folder = tmp_path / "parts"
    folder.mkdir()
    for steps in (37, 1, 25):
        run = TrajectoryRun(water(), Springs(), NVT, SHORT, '{"a": 1}', folder, None)
        done = run.progress.step
        assert not run.run(lambda: run.progress.step >= done + steps, lambda _: None)  # noqa: B023
    last = TrajectoryRun(water(), Springs(), NVT, SHORT, '{"a": 1}', folder, None)
    assert last.progress.step == 63
    assert last.run(lambda: False, lambda _: None)
    item = trajectory.record(last, {})
    assert item["steps"] == whole.trajectories["springs"][0]["steps"]
    with (
        Trajectory(str(tmp_path / "whole" / "springs" / f"{NVT.name}.traj")) as expected,
        Trajectory(str(folder / f"{NVT.name}.traj")) as frames,
    ):
        assert len(frames) == len(expected)
        for one, other in zip(frames, expected, strict=True):
            assert np.array_equal(one.positions, other.positions)
            assert np.array_equal(one.get_momenta(), other.get_momenta())
    assert {path.suffix for path in folder.iterdir()} == {".traj", ".json"}


@pytest.mark.slow
def test_a_killed_test_goes_on(tmp_path: Path) -> None:
    settings = replace(SHORT, length=0.6)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from finetune.evaluation import trajectory\n"
        "from tests.evaluation import test_stability as t\n"
        "trajectory.SAVE_SECONDS = 0.02\n"
        "t.run_test(Path(sys.argv[1]), {'springs': t.Springs()}, (t.NVT,),"
        " t.replace(t.SHORT, length=0.6))\n"
    )
    folder = tmp_path / "killed"
    state = folder / "springs" / f"{NVT.name}.state.npz"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    deadline = time.monotonic() + 600
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    found = run_test(folder, {"springs": Springs()}, (NVT,), settings)
    expected = run_test(tmp_path / "whole", {"springs": Springs()}, (NVT,), settings)
    assert found.summary() == expected.summary()
    assert not state.exists()
    paths = [place / "springs" / f"{NVT.name}.traj" for place in (folder, tmp_path / "whole")]
    with Trajectory(str(paths[0])) as frames, Trajectory(str(paths[1])) as wanted:
        assert np.array_equal(frames[-1].positions, wanted[-1].positions)
        assert len(frames) == len(wanted)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    run_test(tmp_path, {"springs": Springs()}, (NVE,))
    path = tmp_path / "springs" / f"{NVE.name}.json"
    before = path.stat().st_mtime_ns
    found = run_test(tmp_path, {"springs": Springs()}, (NVE, NVT))
    assert path.stat().st_mtime_ns == before
    assert len(found.trajectories["springs"]) == 2
    with pytest.raises(RunFolderError, match="other settings"):
        run_test(tmp_path, {"springs": Springs()}, (NVE,), replace(SHORT, seed=1))
    record = json.loads(path.read_text())
    for damaged in ("{", json.dumps({name: record[name] for name in record if name != "drift"})):
        path.write_text(damaged)
        with pytest.raises(RunFolderError, match="damaged"):
            run_test(tmp_path, {"springs": Springs()}, (NVE,))


def test_temperatures_that_hardly_differ_have_files_of_their_own() -> None:
    names = {replace(NVT, temperature=value).name for value in (300, 300.0001, 300.0002)}
    assert len(names) == 3
    assert all(FILES.fullmatch(f"{name}.state.npz") for name in names)
    assert FILES.fullmatch(f".{NVT.name}.json.x1y2")
    assert not FILES.fullmatch(".bashrc")


def test_a_signal_stops_and_the_same_call_goes_on(tmp_path: Path) -> None:
    class Impatient(Counter):
        def advance(self, steps: int) -> None:
            self.steps = getattr(self, "steps", 0) + steps
            if self.steps == 130:
                signal.raise_signal(signal.SIGINT)

    both = (NVE, NVT)
    arguments = ({"springs": Springs()}, {"springs": "a"}, [water()], [[]], both, SHORT)
    with pytest.raises(RunStoppedError, match="at 30 of 100 steps; all is saved") as stopped:
        run_all(*arguments, tmp_path, Impatient())
    assert stopped.value.exit_code == 130
    assert not (tmp_path / "stability.json").exists()
    done = tmp_path / "springs" / f"{NVE.name}.json"
    before = done.stat().st_mtime_ns
    found = run_all(*arguments, tmp_path)
    assert found.summary() == run_test(tmp_path / "whole", {"springs": Springs()}).summary()
    assert done.stat().st_mtime_ns == before


def test_a_crystal_holds_and_is_compared_by_its_radial_distribution(tmp_path: Path) -> None:
    crystal = bulk("Cu", "fcc", 3.6, cubic=True)
    random = np.random.default_rng(0)
    reference = []
    for _ in range(12):
        reference.append(crystal.copy())
        reference[-1].positions += random.normal(0, 0.1, crystal.positions.shape)
    settings = replace(SHORT, length=0.06, time_step=2.0, interval=2.0)
    found = run_all(
        {"emt": EMT()}, {"emt": ""}, [crystal], [reference], [NVT, NVE], settings, tmp_path
    )
    for item in found.trajectories["emt"]:
        assert item["failure"] is None
        assert item["bond_distance"] is None
        assert 0.0 < item["distribution_distance"] < 5.0
    assert found.periodic
    assert found.floor == {}  # halves of six frames each are too few
    again = ({"emt": EMT()}, {"emt": ""}, [crystal], [reference[:-1]], [NVT], settings, tmp_path)
    with pytest.raises(RunFolderError, match="another reference"):
        run_all(*again)


def _moved(atoms: Atoms, index: int, by: float) -> Atoms:
    found = atoms.copy()
    found.positions[index, 0] += by
    return found
