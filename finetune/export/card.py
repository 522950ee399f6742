"""The model card of an exported folder: where the potential comes from, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.potentials.errors import GRADIENT_ROWS, ROWS
from finetune.potentials.family import UNNAMED, family
from finetune.potentials.loading import ancestors, level_of_theory, lineage_labels

_USE = """```python
import finetune
from ase.io import read

atoms = read("yours.xyz")  # {composition}
atoms.calc = finetune.load_calculator("{path}")  # this folder
print(atoms.get_potential_energy(), atoms.get_forces())  # eV, eV/Å
```
"""
_USE_PEFT = """The folder is an adapter of [peft](https://huggingface.co/docs/peft) for the
{family} model of its foundation. The model has no reference energies: those of this adapter are in
`adapter.json` (eV) and are added to its energies.

```python
import finetune
from peft import LoraConfig, PeftModel
from finetune.adapters.lora_layers import register_equivariant_layers

base = finetune.load_foundation("{foundation}"{head}).potential.model
config = register_equivariant_layers(LoraConfig.from_pretrained("{path}"))  # this folder
model = PeftModel.from_pretrained(base, "{path}", config=config)
```

`finetune.load_calculator` opens the folder too, if the foundation is still at the path in
`adapter.json`.
"""


def card(
    metadata: Mapping[str, Any], path: str, fingerprint: str, peft: bool = False, forces: str = ""
) -> str:
    """Return a model card in Markdown, with the header that model hubs read.

    ``fingerprint`` is that of the potential, or of the foundation that a peft adapter belongs to;
    ``forces`` says where forces come from, if not from the energy.
    """
    origin = metadata.get("foundation") or {}
    kind = str(metadata.get("family") or UNNAMED)
    title = family(kind).title
    name, licence = metadata.get("name") or path, metadata.get("license")
    versions = found if isinstance(found := metadata.get("versions"), Mapping) else {}
    compositions = metadata.get("compositions") or ()
    steps = lineage_labels(ancestors(metadata))
    facts = {
        "foundation": origin.get("name"),
        "fingerprint of the foundation": origin.get("fingerprint"),
        "fingerprint": None if peft else fingerprint,
        "forces": forces,
        "level of theory": level_of_theory(metadata) or "not recorded",
        "descends from": " → ".join(steps) if len(steps) > 1 else None,
        "adapter": (metadata.get("recipe") or {}).get("adapter"),
        "trained parameters": str(metadata.get("trained") or "").removeprefix("trained: "),
        "energies are meaningful for": ", ".join(compositions),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }
    use = (_USE_PEFT if peft else _USE).format(
        path=path,
        family=title,
        foundation=origin.get("name"),
        head=f', head="{origin["head"]}"' if origin.get("head") else "",
        composition=" or ".join(compositions or ["your structure"]),
    )
    lines = [
        "---",
        f"library_name: {'peft' if peft else 'piwsl-finetune'}",
        *([f"license: {licence}"] if licence else []),
        f"tags: [{kind}, interatomic-potential, ase, piwsl-finetune]",
        "---",
        f"\n# {name}\n",
        f"A {title} interatomic potential, fine-tuned with piwsl-finetune.\n",
        *(f"- {title}: {value}" for title, value in facts.items() if value),
        "\n## Use\n",
        use,
        *_errors(metadata.get("metrics")),
        "## Cite\n",
        str(metadata.get("citation") or family(kind).citation),
        "",
    ]
    return "\n".join(lines)


def _errors(metrics: Any) -> list[str]:
    """Return the errors of the run as a table."""
    found = metrics if isinstance(metrics, Mapping) else {}
    if not (shown := found.get("test") or found.get("valid")):
        return []
    before, after = shown.get("foundation") or {}, shown["finetuned"]
    lines = [
        f"## Errors on the {shown['source']} set of the run\n",
        "| error | foundation | fine-tuned | unit |",
        "|---|---:|---:|---|",
    ]
    for title, key, unit in (*ROWS, *GRADIENT_ROWS):
        if after.get(key) is not None:
            known = before.get(key)
            cells = ["–" if known is None else f"{1000 * known:.2f}", f"{1000 * after[key]:.2f}"]
            lines.append(f"| {title} | {' | '.join(cells)} | {unit} |")
    return [*lines, ""]
