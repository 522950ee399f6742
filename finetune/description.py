"""What a prepared recipe will train on what, in words."""

from __future__ import annotations

from finetune.foundation.lineage import told
from finetune.plugins import training_defaults
from finetune.preparation import Preparation


def summary(prepared: Preparation) -> str:
    """One line on what is trained on what."""
    train = prepared.coverage["train"]
    drawn = ""
    if prepared.recipe.data.bootstrap is not None:
        different = len({int(item.identity) for item in prepared.data.train})
        drawn = f", drawn with replacement, {different} of them different"
    return (
        f"{prepared.foundation.name}: {_counts(prepared)} are trained on "
        f"{len(prepared.data.train)} structures{drawn} ({train.energy} with energies, "
        f"{train.forces} with forces); {len(prepared.data.valid)} validate, "
        f"{len(prepared.test)} test"
    )


def described(prepared: Preparation) -> list[str]:
    """Lines on what is trained on what, from where, and what the kind of adapter decides."""
    steps = told(prepared.lineage)
    descent = f"continues from {' → '.join(steps)}" if len(steps) > 1 else ""
    return [
        line for line in (summary(prepared), trained(prepared), descent, defaults(prepared)) if line
    ]


def trained(prepared: Preparation) -> str:
    """One line on which blocks of the model are trained, and their shares."""
    number, own, added = prepared.parameters
    beside = number == added
    blocks = ", ".join(
        f"{name} {count:,}" + ("" if count == size or beside else f" ({100 * count / size:.1f} %)")
        for name, (count, size) in prepared.adapted.shares().items()
        if count
    )
    if beside:
        return f"trained: {blocks}; added, {100 * added / own:.3g} % of the foundation's number"
    return f"trained: {blocks}; {100 * number / (own + added):.3g} % of all parameters"


def defaults(prepared: Preparation) -> str:
    """One line on what adapter or optimiser decides of the training, and why; or nothing."""
    chosen, kind = prepared.recipe.adapter_defaults, prepared.recipe.adapter["kind"]
    values = ", ".join(
        f"{name} {'none' if value is None else f'{value:g}'}" for name, value in chosen.items()
    )
    by, reason = kind, training_defaults(kind).reason
    if prepared.recipe.train.optimiser == "gauss-newton":
        by, reason = "gauss-newton", "whole steps; restraint and noise come from the labels"
    return f"defaults of '{by}': {values} ({reason})" if chosen else ""


def _counts(prepared: Preparation) -> str:
    number, own, added = prepared.parameters
    if not added:
        return f"{number:,} of {own:,} parameters"
    if number == added:
        return f"{added:,} parameters added to the foundation's {own:,}, which stay,"
    return f"{number:,} of {own + added:,} parameters, {added:,} of them added,"
