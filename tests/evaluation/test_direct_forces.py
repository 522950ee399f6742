"""What evaluation shows of a potential with a head for forces, beside −dE/dr."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write
from rich.console import Console

import finetune
from finetune.data.graphs import GraphBatch
from finetune.evaluation.asymmetry import jacobian_asymmetry, jacobian_products
from finetune.evaluation.curves import Curve
from finetune.evaluation.evaluation import Evaluated
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.direct.potential import DirectPotential
from finetune.potentials.errors import errors, predict
from finetune.potentials.potential import Potential, WrappedPotential
from finetune.potentials.storage import save
from finetune.testing import small_potential
from finetune.testing.comparing import forces_of, graph_of
from tests.potentials.test_direct import on


@pytest.fixture(scope="module")
def direct() -> DirectPotential:
    return on(small_potential())


def bent(name: str = "CH3OH", seed: int = 0) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def labelled(name: str, seed: int = 0) -> Atoms:
    atoms, random = bent(name, seed), np.random.default_rng(seed)
    atoms.info["REF_energy"] = random.normal()
    atoms.arrays["REF_forces"] = random.normal(size=(len(atoms), 3))
    return atoms


@pytest.fixture(scope="module")
def stored(direct: DirectPotential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a direct potential, its conservative base and labelled structures."""
    folder = tmp_path_factory.mktemp("direct")
    save(direct, folder / "direct", {"name": "direct"})
    save(direct.base, folder / "base", {"name": "base"})
    write(folder / "test.xyz", [labelled("CH3OH"), labelled("NH3", 1), labelled("CH4", 2)])
    return folder


class Downhill(WrappedPotential):
    """A head whose forces are the gradient of the base's energy."""

    @property
    def direct_forces(self) -> bool:
        return True

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        energy, positions, deformation = self.base.interaction(batch, element, strain)
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, positions, deformation, -slope


def jacobian(potential: DirectPotential, atoms: Atoms, step: float = 1e-4) -> torch.Tensor:
    """Return ∂F/∂r ``[3n, 3n]`` by central differences."""
    columns = []
    for place in range(atoms.positions.size):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.reshape(-1)[place] += sign * step
            ends.append(forces_of(potential(graph_of(moved, potential))).detach().flatten())
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, dim=1)


def test_the_asymmetry_is_that_of_the_whole_jacobian(direct: DirectPotential) -> None:
    atoms = bent()
    exact = jacobian(direct, atoms)
    batch, size = graph_of(atoms, direct), len(exact)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    forwards, backwards = jacobian_products(direct, batch, vector.reshape(-1, 3))
    torch.testing.assert_close(forwards.flatten(), exact @ vector, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backwards.flatten(), exact.T @ vector, atol=1e-5, rtol=1e-5)
    expected = float((exact - exact.T).norm() / (exact + exact.T).norm())
    found = jacobian_asymmetry(direct, [batch], vectors=100)
    assert found == pytest.approx(expected, rel=0.1) and expected > 0.05
    assert jacobian_asymmetry(direct, [batch]) == jacobian_asymmetry(direct, [batch])
    pair = CommitteePotential([direct, direct])
    assert jacobian_asymmetry(pair, [batch]) == pytest.approx(jacobian_asymmetry(direct, [batch]))


def test_a_gradient_has_no_asymmetry() -> None:
    potential = Downhill(small_potential()).eval()
    graphs = [graph_of(item, potential) for item in (bent(), Atoms("H"))]
    found = jacobian_asymmetry(potential, graphs)
    assert found is not None and found < 1e-12
    assert jacobian_asymmetry(potential, graphs[1:]) is None
    assert errors(predict(potential, graphs), 2).inconsistency_mae == pytest.approx(0, abs=1e-12)


def test_the_inconsistency_needs_no_labels(direct: DirectPotential) -> None:
    graphs = [graph_of(bent(name), direct) for name in ("CH3OH", "NH3")]
    measured = errors(predict(direct, graphs, batch_size=1), 2)
    differences = []
    for item in graphs:
        found = direct(item, gradient=True)
        differences.append((forces_of(found) - found.gradient_forces).abs().flatten())
    expected = float(torch.cat(differences).mean())
    assert measured.inconsistency_mae == pytest.approx(expected)
    assert measured.forces_mae is measured.gradient_forces_mae is None


def test_evaluate_shows_both(stored: Path) -> None:
    found = finetune.evaluate(stored / "direct", stored / "test.xyz", against=stored / "base")
    assert isinstance(found, Evaluated)
    base = finetune.evaluate(stored / "base", stored / "test.xyz")
    after, before = found.finetuned, found.foundation
    assert before is not None
    assert after.gradient_forces_mae == pytest.approx(base.finetuned.forces_mae)
    assert before.gradient_forces_mae == before.forces_mae == base.finetuned.forces_mae
    assert after.forces_mae != pytest.approx(after.gradient_forces_mae)
    assert after.jacobian_asymmetry > 0 and before.jacobian_asymmetry is None  # type: ignore[operator]
    statistics = found.as_dict()["finetuned"]["statistics"]
    assert statistics["gradient_forces"]["mae"] == pytest.approx(after.gradient_forces_mae)
    assert statistics["forces_consistency"]["mae"] == pytest.approx(after.inconsistency_mae)
    text = _printed(found)
    for shown in ("(head)", "components (−dE/dr)", "head against −dE/dr", "asymmetry of the Jac"):
        assert shown in text
    found.write(stored / "errors")
    with (stored / "errors" / "structures.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["direct head against gradient RMSE"]) > 0
    assert float(rows[0]["direct gradient forces RMSE"]) == pytest.approx(
        float(rows[0]["base forces RMSE"])
    )
    assert (
        "jacobian_asymmetry"
        in json.loads((stored / "errors" / "evaluation.json").read_text())["finetuned"]
    )


def test_nothing_changes_for_a_conservative_potential(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    forward: Callable[..., object] = Potential.forward

    def noted(self: Potential, *given: object, **options: object) -> object:
        asked.append(options)
        return forward(self, *given, **options)

    monkeypatch.setattr(Potential, "forward", noted)
    found = finetune.evaluate(stored / "base", stored / "test.xyz")
    assert asked and not any("gradient" in options for options in asked)
    content, text = json.dumps(found.as_dict()), _printed(found)
    for word in ("gradient", "consistency", "asymmetry"):
        assert word not in content and word not in text
    assert "head" not in text


def _printed(found: Evaluated) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    for table in found.tables():
        console.print(table)
    return console.export_text()


@pytest.mark.slow
def test_scans_of_a_head(stored: Path) -> None:
    files: Any = {"files": stored / "test.xyz", "against": stored / "base", "elements": ("H", "O")}
    only = ("dimers", "coordinates", "frequencies")
    found = finetune.scan(stored / "direct", only=only, to=stored / "scans", **files)
    for check in found.checks():
        assert ("inconsistency" in check) == (check["potential"] == "direct")
    own = [check["inconsistency"] for check in found.checks() if "inconsistency" in check]
    assert all(value > 0 for value in own)
    base, direct = found.frequencies[0]["potentials"].values()
    np.testing.assert_allclose(direct["frequencies"], base["frequencies"], atol=1e-6)
    content = json.loads((stored / "scans" / "scans.json").read_text())
    assert content["frequencies_of"] == "gradient"
    assert [Curve.from_dict(item).as_dict() for item in content["curves"]] == content["curves"]
    legends = " ".join(str(table.caption) for table in found.tables())
    assert "head off" in legends and "of −dE/dr" in legends
    plain = finetune.scan(stored / "base", stored / "test.xyz", only=("dimers",), to=stored / "no")
    assert not any("inconsistency" in item for item in plain.as_dict()["curves"])
    assert not any("inconsistency" in check for check in plain.checks())
