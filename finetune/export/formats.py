"""Export a potential in the format that another program reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from finetune.core.devices import choose_dtype
from finetune.core.errors import (
    FoundationError,
    RecipeError,
    RunFolderError,
    suggestion,
    system_errors,
)
from finetune.core.files import write_folder
from finetune.core.run_files import ADAPTER, ADAPTER_RECORD, COMMITTEE, MEMBERS
from finetune.export.merge import check_file, check_plain, mace_file, plain, write_file, writing
from finetune.potentials import domain, storage
from finetune.potentials.adapter_folder import locate_adapter, read_adapter
from finetune.potentials.committee import CommitteeRecord, read_committee
from finetune.potentials.errors import ROWS
from finetune.potentials.loading import (
    Foundation,
    ancestors,
    level_of_theory,
    lineage_labels,
    load_foundation,
    locate,
)
from finetune.potentials.mace import lammps
from finetune.potentials.storage import CONFIG, StoredConfig

USE = """```python
import finetune
from ase.io import read

atoms = read("yours.xyz")  # {composition}
atoms.calc = finetune.load_calculator("{path}")  # this folder
print(atoms.get_potential_energy(), atoms.get_forces())  # eV, eV/Å
```
"""
USE_PEFT = """The folder is an adapter of [peft](https://huggingface.co/docs/peft) for the MACE
model of its foundation. The model has no reference energies: those of this adapter are in
`adapter.json` (eV) and are added to its energies.

```python
import finetune
from peft import LoraConfig, PeftModel
from finetune.adapters.lora_layers import register_equivariant_layers

base = finetune.load_foundation("{foundation}"{head}).potential.model
config = register_equivariant_layers(LoraConfig.from_pretrained("{path}"))  # this folder
model = PeftModel.from_pretrained(base, "{path}", config=config)
```

`finetune.load_calculator` opens the folder too, if the foundation still lies where `adapter.json`
says.
"""


def card(metadata: Mapping[str, Any], path: str, fingerprint: str, peft: bool = False) -> str:
    """Return a model card in Markdown, with the header that model hubs read.

    Args:
        metadata: What is stored with the potential or adapter.
        path: Name of the folder, for the example.
        fingerprint: Of the potential, or of the foundation that an adapter belongs to.
        peft: Whether it is peft's adapter.
    """
    origin = metadata.get("foundation") or {}
    level = level_of_theory(metadata) or "not recorded"
    name, licence = metadata.get("name") or path, metadata.get("license")
    header = ["---", f"library_name: {'peft' if peft else 'piwsl-finetune'}"]
    header += [f"license: {licence}"] if licence else []
    header += ["tags: [mace, interatomic-potential, ase, piwsl-finetune]", "---"]
    steps = lineage_labels(ancestors(metadata))
    facts = [
        ("foundation", origin.get("name")),
        ("fingerprint of the foundation", origin.get("fingerprint")),
        ("fingerprint", None if peft else fingerprint),
        ("level of theory", level),
        ("descends from", " → ".join(steps) if len(steps) > 1 else None),
        ("adapter", (metadata.get("recipe") or {}).get("adapter")),
        ("trained parameters", str(metadata.get("trained") or "").removeprefix("trained: ")),
        ("energies mean something for", ", ".join(metadata.get("compositions") or ())),
        ("versions", _listed(metadata.get("versions"))),
    ]
    head = f', head="{origin["head"]}"' if origin.get("head") else ""
    use = (USE_PEFT if peft else USE).format(
        path=path,
        foundation=origin.get("name"),
        head=head,
        composition=" or ".join(metadata.get("compositions") or ["your structure"]),
    )
    return "\n".join(
        [
            *header,
            f"\n# {name}\n",
            "A MACE interatomic potential, fine-tuned with piwsl-finetune.\n",
            *(f"- {title}: {value}" for title, value in facts if value),
            "\n## Use\n",
            use,
            *_errors(metadata.get("metrics")),
            "## Cite\n",
            str(metadata.get("citation") or "MACE: arXiv 2206.07697"),
            "",
        ]
    )


def _errors(metrics: Any) -> list[str]:
    found = metrics if isinstance(metrics, Mapping) else {}
    shown = found.get("test") or found.get("valid")
    if not shown:
        return []
    before, after = shown.get("foundation") or {}, shown["finetuned"]
    lines = [
        f"## Errors on the {shown['source']} set of the run\n",
        "| error | foundation | fine-tuned | unit |",
        "|---|---:|---:|---|",
    ]
    for title, field, unit in ROWS:
        if after.get(field) is not None:
            known = before.get(field)
            cells = ["–" if known is None else f"{1000 * known:.2f}", f"{1000 * after[field]:.2f}"]
            lines.append(f"| {title} | {' | '.join(cells)} | {unit} |")
    return [*lines, ""]


def _listed(versions: Any) -> str:
    known = versions if isinstance(versions, Mapping) else {}
    return ", ".join(f"{name} {version}" for name, version in known.items())


Format = Literal["mace", "lammps", "lammps-mliap", "adapter", "bundle"]
ENDINGS = {"mace": ".model", "lammps": ".pt", "lammps-mliap": ".pt"}
"""Formats that are one file."""
PEFT = ("adapter_config.json", "adapter_model.safetensors")
CARD = "README.md"


@system_errors()
def export(
    path: str | Path,
    to: str | Path,
    format: str = "mace",
    precision: str = "float64",
    overwrite: bool = False,
    head: str | None = None,
) -> Path:
    """Write a potential as another program reads it.

    Args:
        path: Run folder, folder of a committee, bundle, MACE file, or name of a foundation.
        to: File to write (``mace``, ``lammps``, ``lammps-mliap``), or folder (``adapter``,
            ``bundle``). Of a committee it is always a folder, with a file or folder of each member.
        format: ``mace`` (a plain ``.model``), ``lammps`` (TorchScript for ``pair_style mace``),
            ``lammps-mliap`` (for ``pair_style mliap unified``), ``adapter`` (peft's folder) or
            ``bundle`` (safetensors and JSON, for `load_calculator`).
        precision: ``float64`` or ``float32``, of a file's weights; folders keep their own.
        overwrite: Whether an earlier export may be replaced.
        head: Head that predicts, where there are several.

    Returns:
        What was written.

    Raises:
        RecipeError: For an unknown format or precision, and for the folder of a committee that is
            named like a file.
        FoundationError: If there is no potential, or it cannot be written in this format.
        RunFolderError: If something is in the way.
    """
    place, dtype = Path(to).expanduser(), choose_dtype(precision)
    if format not in get_args(Format):
        raise RecipeError(
            f"no format '{format}'.{suggestion(format, get_args(Format))} Choose from "
            f"{', '.join(get_args(Format))}."
        )
    source = locate(str(path)) if format != "adapter" else Path(str(path)).expanduser()
    members = _members(source)
    if format in ENDINGS and not members:
        check_file(place, overwrite)
        opened = load_foundation(path, head=head)
        write_file(place, _file(opened, format, dtype), overwrite)
        return place
    if members and place.suffix in ENDINGS.values():
        raise RecipeError(
            f"'{place}' is to be a folder, as '{path}' is a committee: it gets a file or folder of "
            f"each member. Name it without an ending: --to {place.with_suffix('')}"
        )
    if head is not None and format not in ENDINGS:
        raise RecipeError(f"--head does not go with --format {format}, which keeps all heads.")
    files: dict[str, bytes] = {}
    for name, folder in (members or {"": str(path)}).items():
        if format in ENDINGS:
            opened = load_foundation(folder, head=head)
            files[f"member-{name}{ENDINGS[format]}"] = _file(opened, format, dtype)
            continue
        found = _adapter(folder) if format == "adapter" else _bundle(folder)
        files |= {f"{name}/{key}" if name else key: content for key, content in found.items()}
    if members and format == "bundle":
        record = CommitteeRecord(members=tuple(members), scale=read_committee(source).scale)
        files[COMMITTEE] = record.model_dump_json(indent=2).encode()
    _check_folder(place, files, overwrite)
    with writing(place):
        write_folder(place, files)
    return place


def _members(place: Path) -> dict[str, str]:
    """Return the folders of a committee's members by name; nothing for a single potential."""
    if not (place / COMMITTEE).is_file():
        return {}
    found = {}
    for number, member in enumerate(read_committee(place).members, 1):
        folder = place / member
        run = folder.parent  # where the member's adapter is, too
        found[str(number)] = str(run if run.parent.name == MEMBERS else folder)
    return found


def _file(opened: Foundation, format: str, dtype: Any) -> bytes:
    check_plain(opened)
    potential = plain(opened.potential)
    if format == "lammps":
        return lammps.torchscript(potential, dtype, opened.metadata)
    if format == "lammps-mliap":
        return lammps.mliap(potential, dtype)
    return mace_file(potential, dtype, opened.metadata)


def _adapter(path: str) -> dict[str, bytes]:
    """Return the files of peft's folder, and a card.

    Raises:
        FoundationError: If there is no adapter, or it is none of peft's.
    """
    folder = locate_adapter(path)
    record = read_adapter(folder)
    record.check_files(folder)
    if not all((folder / name).is_file() for name in PEFT):
        raise FoundationError(
            f"the adapter of '{path}' is of the kind '{record.kind}', which peft does not know: "
            "it trains weights of the model itself or adds its own. Nothing was written. "
            "--format mace or bundle hand on the potential; --format adapter is for lora."
        )
    files = _read(folder, (*PEFT, ADAPTER_RECORD))
    metadata = {**record.metadata, "foundation": record.foundation.model_dump()}
    name = str(metadata.get("name") or folder.name)
    text = card(metadata, name, record.foundation.fingerprint, peft=True)
    return {**files, CARD: text.encode()}


def _bundle(path: str) -> dict[str, bytes]:
    """Return the files of a stored potential, its adapter if it has one, and a card."""
    place = locate(path)
    config: StoredConfig
    if (place / CONFIG).is_file():
        config, _ = storage.read(place)
        files = _read(place, (CONFIG, storage.WEIGHTS, domain.FILE))
    else:
        opened = load_foundation(path)
        with TemporaryDirectory() as folder:
            config = storage.save(
                opened.potential, Path(folder), opened.metadata, adapters=opened.adapters
            )
            files = _read(Path(folder), (CONFIG, storage.WEIGHTS))
    adapter = Path(path).expanduser() / ADAPTER
    if (adapter / ADAPTER_RECORD).is_file():
        names = [item.name for item in sorted(adapter.iterdir()) if item.is_file()]
        found = _read(adapter, [name for name in names if not name.startswith(".")])
        files |= {f"{ADAPTER}/{name}": content for name, content in found.items()}
    name = str(config.metadata.get("name") or place.name)
    return {**files, CARD: card(config.metadata, name, config.fingerprint).encode()}


def _read(folder: Path, names: Any) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _check_folder(place: Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Refuse a folder that may not be replaced, or holds anything but an earlier export.

    Raises:
        RunFolderError: With the mend.
    """
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise RunFolderError(f"'{place}' is a file or a link; name a folder.")
    if not place.is_dir() or not any(place.iterdir()):
        return
    if not overwrite:
        raise RunFolderError(f"'{place}' exists. Choose another name, or add --overwrite.")
    there = [item for item in sorted(place.rglob("*")) if not item.is_dir()]
    strange = [item for item in there if str(item.relative_to(place)) not in files]
    if strange:
        raise RunFolderError(
            f"'{place}' holds other files ('{strange[0].relative_to(place)}') than such an export; "
            "choose another --to."
        )
