"""Every export predicts, in its real consumer, what the run predicts."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import FoundationError, RecipeError, RunFolderError
from finetune.data.graphs import graph
from finetune.export.formats import export
from finetune.potentials.adapter_folder import read_adapter
from finetune.potentials.committee import CommitteeRecord, write_committee
from finetune.potentials.reference_energies import by_symbol
from tests.conftest import rattled, recipe_for, structure
from tests.export.lammps import MliapData, Subdomain, pair_style_mace
from tests.export.test_switching import write_run
from tests.tolerances import EXPORT_ENERGY, EXPORT_FORCES

runner = CliRunner()
ADAPTERS = {
    "lora": {"kind": "lora", "rank": 2},
    "readout": {"kind": "readout"},
    "scaled": {"kind": "test_switching_scale"},
}


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    for seed, (name, adapter) in enumerate(ADAPTERS.items()):
        write_run(recipe_for(workspace, folder / name, adapter=adapter), seed)
    return folder


@pytest.fixture(scope="module")
def committee(runs: Path, workspace: Path) -> Path:
    other = {"kind": "lora", "rank": 2, "seed": 1}
    write_run(recipe_for(workspace, runs / "other", adapter=other), 9)
    both = runs / "committee"
    (both / "members").mkdir(parents=True)
    for number, name in enumerate(("lora", "other"), 1):
        (both / "members" / str(number)).symlink_to(runs / name)
    members = tuple(f"members/{number}/model" for number in (1, 2))
    write_committee(both, CommitteeRecord(members=members, scale={"energy": 2.0}))
    return both


@pytest.fixture(scope="module")
def expected(runs: Path, diamond: Atoms) -> list[tuple[Atoms, dict[str, Any]]]:
    frames = [rattled("CH3OH", 1), diamond]
    found = finetune.load_calculator(runs / "lora").calculate_many(frames)
    return list(zip(frames, found, strict=True))


def test_lammps_script_gives_energies_and_forces_with_ghosts(
    runs: Path, expected: list[tuple[Atoms, dict[str, Any]]], tmp_path: Path
) -> None:
    path = export(runs / "lora", tmp_path / "tuned-lammps.pt", "lammps")
    extra = {"piwsl-finetune.json": ""}
    model = torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["piwsl-finetune.json"])["foundation"]["fingerprint"]
    for atoms, alone in expected:
        domain = Subdomain.of(atoms, 2 * float(model.r_max))
        found = pair_style_mace(model, domain, virials=bool(atoms.pbc.all()))
        energy = float(found["total_energy_local"].detach())
        assert energy == pytest.approx(alone["energy"], abs=EXPORT_ENERGY)
        forces = domain.folded(found["forces"].detach().numpy())
        np.testing.assert_allclose(forces, alone["forces"], atol=EXPORT_FORCES, rtol=0)
        energies = found["node_energy"].detach().numpy()[: domain.local]
        np.testing.assert_allclose(energies, alone["energies"], atol=EXPORT_ENERGY)
        if atoms.pbc.all():  # virials are minus volume times stress
            virials = found["virials"].detach().numpy().reshape(3, 3) / -atoms.get_volume()
            voigt = virials[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            np.testing.assert_allclose(voigt, alone["stress"], atol=1e-8)


def test_mliap_gives_energies_and_forces_through_mace_s_class(
    runs: Path, expected: list[tuple[Atoms, dict[str, Any]]], tmp_path: Path
) -> None:
    path = export(runs / "lora", tmp_path / "tuned-mliap.pt", "lammps-mliap")
    model = torch.load(path, weights_only=False)  # as LAMMPS does
    assert model.config.allow_cpu
    for atoms, alone in expected:
        domain = Subdomain.of(atoms, 2 * model.rcutfac)  # one cutoff: features are exchanged
        data = MliapData(domain, model.element_types, 2 * model.rcutfac)
        model.compute_forces(data)
        assert data.energy == pytest.approx(alone["energy"], abs=EXPORT_ENERGY)
        np.testing.assert_allclose(data.eatoms, alone["energies"], atol=EXPORT_ENERGY)
        forces = domain.folded(data.forces)
        np.testing.assert_allclose(forces, alone["forces"], atol=EXPORT_FORCES, rtol=0)


def test_peft_loads_the_adapter_s_folder(
    runs: Path,
    workspace: Path,
    expected: list[tuple[Atoms, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    from peft import LoraConfig, PeftModel

    from finetune.adapters.lora_layers import register_equivariant_layers

    folder = export(runs / "lora", tmp_path / "adapter", "adapter")
    names = {"adapter.json", "adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {item.name for item in folder.iterdir()} == names
    potential = finetune.load_foundation(workspace / "foundation").potential
    config = register_equivariant_layers(LoraConfig.from_pretrained(str(folder)))
    PeftModel.from_pretrained(potential.model, str(folder), config=config)
    potential.set_references(by_symbol(read_adapter(folder).reference_energies))
    for atoms, alone in expected:
        found = potential(graph(structure(atoms), potential.cutoff), create_graph=False)
        assert float(found.energy) == pytest.approx(alone["energy"], abs=EXPORT_ENERGY)
        np.testing.assert_allclose(found.forces.numpy(), alone["forces"], atol=EXPORT_FORCES)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n") and "register_equivariant_layers" in card
    assert read_adapter(folder).foundation.fingerprint in card and "Takamoto" in card
    atoms, alone = expected[0]
    atoms.calc = finetune.load_calculator(folder)
    assert atoms.get_potential_energy() == pytest.approx(alone["energy"], abs=EXPORT_ENERGY)


def test_a_bundle_opens_alone_whatever_the_adapter(runs: Path, tmp_path: Path) -> None:
    atoms = rattled("CH3OH", 2)
    for name in ("readout", "scaled"):
        folder = export(runs / name, tmp_path / name, "bundle")
        files = {str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file()}
        assert {"config.json", "model.safetensors", "training-set.safetensors"} <= files
        assert {"README.md", "adapter/adapter.json", "adapter/adapter.safetensors"} <= files
        assert {Path(item).suffix for item in files} == {".json", ".safetensors", ".md"}
        (alone,) = finetune.load_calculator(runs / name).calculate_many([atoms])
        atoms.calc = finetune.load_calculator(folder)
        assert atoms.get_potential_energy() == alone["energy"]
        atoms.calc = None
    again = export(tmp_path / "readout", tmp_path / "again", "bundle")
    weights = (again / "model.safetensors").read_bytes()
    assert weights == (runs / "readout" / "model" / "model.safetensors").read_bytes()
    export(runs / "readout", again, "bundle", overwrite=True)


def test_the_folder_of_a_committee_is_not_named_like_a_file(
    committee: Path, tmp_path: Path
) -> None:
    arguments = ["export", str(committee), "--to"]
    refused = CliRunner().invoke(app, [*arguments, str(tmp_path / "c.model")])
    assert refused.exit_code == 2 and f"--to {tmp_path / 'c'}" in " ".join(refused.output.split())
    assert not (tmp_path / "c.model").exists()
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "c")])
    assert done.exit_code == 0 and "with member-1.model, member-2.model" in done.output


@pytest.mark.slow
def test_a_committee_is_exported_member_by_member(committee: Path, tmp_path: Path) -> None:
    atoms = rattled("CH3OH", 3)
    (alone,) = finetune.load_calculator(committee).calculate_many([atoms])
    folder = export(committee, tmp_path / "models")
    assert sorted(item.name for item in folder.iterdir()) == ["member-1.model", "member-2.model"]
    energies = []
    for path in sorted(folder.iterdir()):
        (found,) = finetune.load_calculator(path).calculate_many([atoms])
        energies.append(found["energy"])
    np.testing.assert_allclose(energies, alone["energy_comm"], atol=EXPORT_ENERGY)
    bundle = export(committee, tmp_path / "bundle", "bundle")
    calculator = finetune.load_calculator(bundle)
    (found,) = calculator.calculate_many([atoms])
    assert (found["energy"], found["energy_std"]) == (alone["energy"], alone["energy_std"])
    assert calculator.scale == {"energy": 2.0}
    adapters = export(bundle, tmp_path / "adapters", "adapter")
    assert (adapters / "2" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("format", ["mace", "lammps", "lammps-mliap"])
def test_what_no_mace_can_hold_is_refused(format: str, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(FoundationError, match="test_switching_scale.*--format bundle"):
        export(runs / "scaled", tmp_path / "file", format)
    assert not (tmp_path / "file").exists()


def test_what_is_refused(runs: Path, workspace: Path, tmp_path: Path) -> None:
    refused: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: export(runs / "readout", tmp_path / "a", "adapter"), FoundationError, "'readout'"),
        (
            lambda: export(workspace / "foundation", tmp_path / "a", "adapter"),
            FoundationError,
            "holds no adapter",
        ),
        (lambda: export(runs / "lora", tmp_path / "a", "lamps"), RecipeError, "mean 'lammps'"),
        (
            lambda: export(runs / "lora", tmp_path / "a", "bundle", head="x"),
            RecipeError,
            "keeps all heads",
        ),
        (lambda: export(runs / "lora", workspace, "bundle"), RunFolderError, "exists"),
        (
            lambda: export(runs / "lora", workspace, "bundle", overwrite=True),
            RunFolderError,
            "contains files",
        ),
    ]
    for call, error, message in refused:
        with pytest.raises(error, match=message):
            call()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("format", ["mace", "bundle"])
@pytest.mark.parametrize("name", ["a" * 250, "file/tuned.model"])
def test_a_place_that_cannot_be_written_is_named_as_it_was_given(
    name: str, format: str, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = runner.invoke(
        app, ["export", str(runs / "lora"), "--to", str(tmp_path / name), f"--format={format}"]
    )
    assert done.exit_code == 2
    message = done.stderr.replace("\n", "")
    assert f"'{tmp_path / name}' cannot be written" in message and "another --to" in message
    assert "/." not in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_exports(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    done = runner.invoke(app, ["export", str(runs / "lora"), "--to", str(path), "--format=adapter"])
    assert done.exit_code == 0 and (path / "README.md").is_file(), done.output
    done = runner.invoke(app, ["export", str(runs / "lora"), "--to", str(path), "--format=adapter"])
    assert done.exit_code == 2 and "--overwrite" in done.output


def test_charge_and_spin_are_no_inputs_of_lammps_pair_style() -> None:
    from finetune.potentials.mace.exports import torchscript

    class Charged:
        further_inputs = frozenset({"charge"})

    with pytest.raises(FoundationError, match="charge, which LAMMPS"):
        torchscript(Charged(), torch.float64, {})  # type: ignore[arg-type]


TORCH_SIM = """
import sys, warnings; warnings.simplefilter('ignore')
import ase.io, numpy as np, torch
import torch_sim as ts
from torch_sim.models.mace import MaceModel
model = torch.load(sys.argv[1], weights_only=False, map_location='cpu')
model = MaceModel(model, device=torch.device('cpu'), dtype=torch.float64, compute_stress=False)
frames = ase.io.read(sys.argv[2], ':')
found = model(ts.io.atoms_to_state(frames, torch.device('cpu'), torch.float64))
np.savez(sys.argv[3], energies=found['energy'].detach(), forces=found['forces'].detach())
"""


@pytest.mark.slow
def test_torch_sim_gives_energies_and_forces(
    runs: Path, expected: list[tuple[Atoms, dict[str, Any]]], tmp_path: Path
) -> None:
    pytest.importorskip("torch_sim", reason="pip install torch-sim-atomistic (Python >= 3.11)")
    path = export(runs / "lora", tmp_path / "tuned.model")
    atoms, alone = expected[1]
    frames = [atoms, atoms]
    for item in frames:
        item.calc = None
    ase.io.write(tmp_path / "frames.traj", frames)
    arguments = [str(path), str(tmp_path / "frames.traj"), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-c", TORCH_SIM, *arguments], check=True)
    theirs = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(theirs["energies"], [alone["energy"]] * 2, atol=EXPORT_ENERGY)
    np.testing.assert_allclose(theirs["forces"][:2], alone["forces"], atol=EXPORT_FORCES)


@pytest.mark.slow
def test_mace_s_own_committee_gives_mean_and_variance(committee: Path, tmp_path: Path) -> None:
    atoms = rattled("CH3OH", 3)
    (alone,) = finetune.load_calculator(committee).calculate_many([atoms])
    export(committee, tmp_path / "models")
    ase.io.write(tmp_path / "frame.traj", atoms)
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import ase.io, glob, json\n"
        "from mace.calculators import MACECalculator\n"
        "paths = sorted(glob.glob(sys.argv[1]))\n"
        "atoms = ase.io.read(sys.argv[2])\n"
        "atoms.calc = MACECalculator(paths, device='cpu', default_dtype='float64')\n"
        "atoms.get_potential_energy(); found = atoms.calc.results\n"
        "forces = found['forces_var'].tolist()\n"
        "open(sys.argv[3], 'w').write(json.dumps([found['energy'], found['energy_var'], forces]))\n"
    )
    places = [tmp_path / "models" / "*.model", tmp_path / "frame.traj", tmp_path / "found.json"]
    subprocess.run([sys.executable, "-c", code, *map(str, places)], check=True)
    energy, variance, forces = json.loads((tmp_path / "found.json").read_text())
    assert energy == pytest.approx(alone["energy"], abs=EXPORT_ENERGY)
    assert variance**0.5 == pytest.approx(alone["energy_std"], abs=EXPORT_ENERGY)
    np.testing.assert_allclose(np.sqrt(forces), alone["forces_std"], atol=1e-6)
