"""Would weak losses help Gauss-Newton? Their residuals as further rows of the linear solve.

    python tests/benchmarks/weak_rows.py --elsewhere FOLDER
        --out tests/benchmarks/results/weak_rows.json   (resumes)

The weights of the embedded foundation are tuned on energies alone by the linear problem of
`finetune.training.optimisers.gauss_newton`, in one step. To it come anchored weak residuals at
displaced copies of the labelled structures, each asked to vanish with a variance s: of the first
order, D(r+δ) − D(r), and of the second, D(r+δ) − D(r) − δ·∇D(r), which is anchored PITC; D is the
correction of the foundation. Their gradients Φ turn the prior covariance K
of the labels into K − K_yΦ (K_ΦΦ + s)⁻¹ K_Φy, so that the marginal likelihood of the labels can
choose s: the mean variance of the weak residuals a priori times one of STRENGTHS, or infinite,
which leaves them out. Errors are of energies and forces of other structures of the same pools,
linearised too; no test set is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from records import Records
from trials import FOUNDATION

import finetune
from finetune.data.graphs import GraphBatch, graph
from finetune.data.reading import read_structures
from finetune.potentials.potential import Potential
from finetune.recipe.sections import LabelKeys
from finetune.training.optimisers.gauss_newton import log_likelihood, most_probable
from finetune.training.optimisers.label_rows import bases, fill, label_rows, without_copies

Array = NDArray[np.float64]
DISPLACEMENT = 0.1
"""Å, largest component."""
COPIES = 4
STRENGTHS = (10.0, 1.0, 0.1, 0.01)
ORDERS = ("first", "second")
LABELS = (10, 25)
DRAWS = 6


@dataclass(frozen=True)
class Pool:
    """Structures to draw labels from, and those whose forces are predicted."""

    name: str
    train: str
    forces: str
    keys: LabelKeys | None = None


@dataclass(frozen=True)
class Gradients:
    """What a pool misses, eV and eV/Å, and gradients by the P weights.

    Attributes:
        missing: Energies, label minus foundation ``[n]``.
        energies: Gradients of energies ``[n, P]``.
        missing_forces: Components, label minus foundation ``[m]``, of the other structures.
        forces: Gradients of those ``[m, P]``.
        weak: Gradients of weak residuals, by order ``[n, COPIES, P]``.
        sizes: Number of weights of each tensor.
    """

    missing: Array
    energies: Array
    missing_forces: Array
    forces: Array
    weak: dict[str, Array]
    sizes: list[int]


def pools(elsewhere: Path | None) -> Iterator[Pool]:
    """Yield the pools; of acetylacetone if ``acac/train_300K.xyz`` is in the folder."""
    for molecule in ("methanol", "ethanol"):
        source = f"data/ccsdt/{molecule}/train_pbe0.xyz"
        yield Pool(f"{molecule}, PBE0", f"{source}@:60", f"{source}@60:80")
    source = str(elsewhere / "acac" / "train_300K.xyz") if elsewhere else ""
    if Path(source).is_file():
        keys = LabelKeys(energy="energy", forces="forces")
        yield Pool("acetylacetone, PBE", f"{source}@:100", f"{source}@100:110", keys)


def gradients(pool: Pool) -> Gradients:
    """Differentiate everything that is needed of a pool, once."""
    potential = finetune.load_foundation(FOUNDATION).potential.double()
    weights = [weight for weight in potential.parameters() if weight.requires_grad]
    train, others = (
        [
            graph(structure, potential.cutoff, skin=0.6)
            for structure in read_structures(f, pool.keys)
        ]
        for f in (pool.train, pool.forces)
    )
    energies = label_rows(potential, without_copies(train), ["energy"], weights)
    forces = label_rows(potential, without_copies(others), ["forces"], weights)
    root = len(train[0].numbers) ** 0.5
    generator = torch.Generator().manual_seed(0)
    width = energies.gradients.shape[1]
    weak = {order: torch.empty(len(train), COPIES, width).double() for order in ORDERS}
    for index, batch in enumerate(train):
        for copy in range(COPIES):
            values = torch.stack(residuals(potential, batch, generator))
            rows = torch.empty(len(ORDERS), width).double()
            fill(rows, values, weights)
            for order, row in zip(ORDERS, rows, strict=True):
                weak[order][index, copy] = row
    return Gradients(
        energies.residuals.numpy() * root,
        energies.gradients.numpy() * root,
        forces.residuals.numpy(),
        forces.gradients.numpy(),
        {order: rows.numpy() for order, rows in weak.items()},
        [weight.numel() for weight in weights],
    )


def residuals(
    potential: Potential, batch: GraphBatch, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return E(r+δ) − E(r) and E(r+δ) − E(r) + δ·F(r) of one structure, differentiable."""
    shift = torch.rand(batch.positions.shape, generator=generator, dtype=torch.float64)
    shift = (2 * shift - 1) * DISPLACEMENT
    shift = shift - shift.mean(dim=0)
    here = potential(batch, forces=True, create_graph=True)
    first = potential(batch.displaced(shift), forces=False).energy[0] - here.energy[0]
    return first, first + (shift * here.forces).sum()


def solve(found: Gradients, labelled: NDArray[np.int64], order: str) -> list[dict[str, float]]:
    """Return errors of the rest, meV and meV/Å, and the log evidence.

    The first entry is without weak rows, the others with each of STRENGTHS.
    """
    rest = np.setdiff1d(np.arange(len(found.missing)), labelled)
    labels, own = found.missing[labelled], found.energies[labelled]
    seen = bases(torch.ones(len(labels), 1, dtype=torch.float64))[1].numpy()
    parts = np.split(own, np.cumsum(found.sizes)[:-1], axis=1)
    spreads = [float(np.sum((seen.T @ part) ** 2)) for part in parts]
    shares = [1 / x if x > 1e-10 * max(spreads) else 0.0 for x in spreads]
    scale = np.sqrt(np.repeat(shares, found.sizes))
    asked = np.concatenate([own, found.energies[rest], found.forces]) * scale
    weak = found.weak[order][labelled].reshape(-1, len(scale)) * scale
    plain, cross, penalised = asked @ (own * scale).T, asked @ weak.T, weak @ weak.T
    rows = []
    for strength in (np.inf, *STRENGTHS):
        covariance = plain
        if np.isfinite(strength):
            allowed = strength * np.mean(np.diag(penalised)) * np.eye(len(penalised))
            taken = np.linalg.solve(penalised + allowed, cross[: len(labels)].T)
            covariance = plain - cross @ taken
        predicted, mean, evidence = most_probable_correction(covariance, labels, seen)
        energies = found.missing[rest] - mean - predicted[len(labels) : len(found.missing)]
        forces = found.missing_forces - predicted[len(found.missing) :]
        rows.append(
            {
                "energy_mae": 1000 * float(np.abs(energies).mean()),
                "forces_mae": 1000 * float(np.abs(forces).mean()),
                "log_evidence": evidence,
            }
        )
    return rows


def most_probable_correction(
    covariance: Array, labels: Array, seen: Array
) -> tuple[Array, float, float]:
    """Return the correction of all rows of a covariance, the mean of the labels, the evidence.

    The first rows are those of the labels; ``seen`` is a basis of what their mean leaves.
    """
    own, targets = covariance[: len(labels)], seen.T @ labels
    gram = seen.T @ own @ seen
    found = most_probable(gram, targets, np.zeros(len(targets), dtype=np.int64))
    noise = float(found.noise[0])
    inverse = np.linalg.inv(found.amplitude * own + noise * np.eye(len(labels)))
    mean = float(inverse.sum(axis=0) @ labels / inverse.sum())
    correction = found.amplitude * covariance @ inverse @ (labels - mean)
    evidence = log_likelihood(found.amplitude * gram, np.full(len(targets), noise), targets)
    return correction, mean, evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weak_rows.json"))
    parser.add_argument("--elsewhere", type=Path, help="folder with published sets")
    options = parser.parse_args()
    fingerprint = finetune.load_foundation(FOUNDATION).fingerprint
    settings = {"displacement": DISPLACEMENT, "copies": COPIES, "strengths": list(STRENGTHS)}
    records = Records(options.out, {"foundation": fingerprint, **settings})
    for pool in pools(options.elsewhere):
        cases = {f"{pool.name}, {labels} energies": labels for labels in LABELS}
        if all(case in records for case in cases):
            continue
        found = gradients(pool)
        for case, count in cases.items():
            random = np.random.default_rng(0)
            draws = [random.permutation(len(found.missing))[:count] for _ in range(DRAWS)]
            solved = {order: [solve(found, draw, order) for draw in draws] for order in ORDERS}
            records.keep(case, solved)
            print(case, flush=True)


if __name__ == "__main__":
    main()
