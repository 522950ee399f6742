"""What a report says in words: what has changed, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.result import Comparison

NOTICED = 0.02
"""Share by which an error has to grow before a report warns of it."""
_TOLD = (
    ("energy_per_atom_mae", "energy MAE", "meV/atom"),
    ("forces_mae", "force MAE", "meV/Å"),
    ("stress_mae", "stress MAE", "meV/Å³"),
)


def sentences(
    shown: Comparison,
    stability: Mapping[str, Any] | None = None,
    scans: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what the run, its dynamics and its scans found, a sentence each.

    Args:
        shown: The comparison that speaks for the run.
        stability: Content of ``stability.json``, if there is one.
        scans: Content of ``scans.json``, if there is one.
    """
    found = []
    for field, title, unit in _TOLD:
        before = getattr(shown.foundation, field) if shown.foundation is not None else None
        after = getattr(shown.finetuned, field)
        if after is None:
            continue
        if not before:
            found.append(f"On the {shown.source} set the {title} is {1000 * after:.1f} {unit}.")
            continue
        change = 100 * (after / before - 1)
        if after == before:
            found.append(f"On the {shown.source} set the {title} stayed {1000 * after:.1f} {unit}.")
            continue
        verb = "fell" if after < before else "rose" if after > before else "went"  # to NaN
        found.append(
            f"On the {shown.source} set the {title} {verb} from {1000 * before:.1f} to "
            f"{1000 * after:.1f} {unit} ({change:+.0f} %)."
        )
    for row in (stability or {}).get("summary", []):
        found.append(
            f"In {row['ensemble'].upper()} dynamics at {row['temperature']:g} K, "
            f"{row['survived']} of {row['trajectories']} trajectories of the {row['potential']} "
            f"potential held; mean time to failure {row['stable_ps']:.2f} of "
            f"{stability['length_ps']:g} ps."  # type: ignore[index]
        )
    if scans is not None:
        found += _scan_sentences(scans)
    return found


def _scan_sentences(scans: Mapping[str, Any]) -> list[str]:
    found = []
    tuned = scans["names"][-1]
    walls = [item for item in scans["checks"] if "hole_at" in item and item["potential"] == tuned]
    holes = [item for item in walls if item["hole_at"] is not None]
    if walls:
        found.append(
            f"Of {len(walls)} repulsive walls of the {tuned} potential, {len(holes)} "
            f"{'has a hole' if len(holes) == 1 else 'have holes'}."
        )
    away = scans["forgetting"].get("elsewhere")
    if away is not None and away["relative"] is not None:
        found.append(
            f"On {away['structures']} structures away from the training set, forces changed by "
            f"{100 * away['relative']:.1f} % of the foundation's."
        )
    return found


def warnings(
    shown: Comparison,
    notes: Sequence[str],
    stability: Mapping[str, Any] | None = None,
    scans: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what to beware of: the run's own warnings, and where the foundation was better."""
    found = [note.removeprefix("warning: ") for note in notes if note.startswith("warning: ")]
    for field, title, _ in _TOLD:
        before = getattr(shown.foundation, field) if shown.foundation is not None else None
        after = getattr(shown.finetuned, field)
        if before and after is not None and not after <= (1 + NOTICED) * before:
            found.append(f"The {title} on the {shown.source} set is worse than the foundation's.")
    found += _less_stable(stability or {})
    for item in (scans or {}).get("checks", []):
        if item.get("hole_at") is not None and item["potential"] == scans["names"][-1]:  # type: ignore[index]
            found.append(_hole(item))
    for item in (scans or {}).get("frequencies", []):
        tuned = list(item["potentials"].values())[-1]
        if not tuned["relaxed"]:
            found.append(f"{item['structure']} could not be relaxed.")
        elif tuned["imaginary"]:
            found.append(f"The minimum of {item['structure']} has imaginary frequencies.")
    return found


def _hole(item: Mapping[str, Any]) -> str:
    named = f"The wall of {item['name']} ({item['kind']})"
    if item["hole"] is None:
        return f"{named} has energies that are not finite at {item['hole_at']:.2f}."
    return (
        f"{named} has a hole at {item['hole_at']:.2f} {item.get('unit', '')}, "
        f"{item['hole']:.2f} eV deep, behind {item['hole_behind']:.2f} eV."
    )


def _less_stable(stability: Mapping[str, Any]) -> list[str]:
    names = stability.get("names", [])
    rows = {
        (row["ensemble"], row["temperature"], row["potential"]): row
        for row in stability.get("summary", [])
    }
    found = []
    for (ensemble, temperature, name), row in rows.items():
        if name != names[-1]:
            continue
        other = rows.get((ensemble, temperature, names[0])) if len(names) == 2 else None
        dynamics = f"{ensemble.upper()} dynamics at {temperature:g} K"
        if other is not None and row["stable_ps"] < other["stable_ps"]:
            found.append(f"{dynamics} holds for less long than with the {names[0]}.")
        elif row["survived"] < row["trajectories"]:
            found.append(f"{dynamics} fails in some trajectories.")
    return found
