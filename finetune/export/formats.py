"""Write a potential in the format that another program reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from finetune.core import errors
from finetune.core.devices import choose_dtype
from finetune.core.errors import FoundationError, RecipeError, RunFolderError, system_errors
from finetune.core.files import check_free, write_atomically, write_folder
from finetune.core.run_files import ADAPTER, ADAPTER_RECORD, COMMITTEE, MEMBERS
from finetune.export.card import card
from finetune.potentials import domain, storage
from finetune.potentials.adapter_folder import locate_adapter, read_adapter
from finetune.potentials.committee import CommitteeRecord, read_committee
from finetune.potentials.family import Format, families, family
from finetune.potentials.loading import Foundation, load_foundation, locate
from finetune.potentials.potential import FamilyPotential, Potential
from finetune.potentials.storage import CONFIG

FOLDERS = ("adapter", "bundle")
"""Formats that are folders, of every family; the others are files of the potential's family."""
PEFT = ("adapter_config.json", "adapter_model.safetensors")
CARD = "README.md"


@system_errors()
def export(
    path: str | Path,
    to: str | Path,
    format: str | None = None,
    precision: str = "float64",
    overwrite: bool = False,
    head: str | None = None,
) -> Path:
    """Write a potential in the format that another program reads, and return what was written.

    Args:
        path: Run folder, folder of a committee, bundle, model file, or name of a foundation.
        to: File to write or, for ``adapter`` and ``bundle``, folder. Of a committee it is always a
            folder, with a file or folder of each member.
        format: A file of the potential's family (by default its own), or
            ``adapter`` (peft's folder) or ``bundle`` (safetensors and JSON, for
            `load_calculator`).
        precision: ``float64`` or ``float32``, of a file's weights; folders keep their own.
        overwrite: Whether an earlier export may be replaced.
        head: Head that predicts, where there are several.

    Raises:
        RecipeError: For an unknown format or precision, or a committee's folder named like a file.
        FoundationError: If there is no potential, or it cannot be written in this format.
        RunFolderError: If something is in the way.
    """
    place, dtype = Path(to).expanduser(), choose_dtype(precision)
    known = {name: item for kind in families.names() for name, item in _formats(kind).items()}
    if format not in (None, *known, *FOLDERS):
        listed = (*known, *FOLDERS)
        raise RecipeError(
            f"no format '{format}'.{errors.suggestion(str(format), listed)} Choose from "
            f"{', '.join(listed)}."
        )
    source = locate(str(path)) if format != "adapter" else Path(str(path)).expanduser()
    members = _members(source)
    if format not in FOLDERS and not members:
        _check_file(place, overwrite)
        content, _ = _file(load_foundation(path, head=head), format, dtype)
        with _writing(place):
            write_atomically(place, content)
        return place
    if members and place.suffix in {item.ending for item in known.values()}:
        raise RecipeError(
            f"'{path}' is a committee: '{place}' becomes a folder, with a file or folder of each "
            f"member. Name it without an ending: --to {place.with_suffix('')}"
        )
    if head is not None and format in FOLDERS:
        raise RecipeError(f"--head cannot be used with --format {format}, which keeps all heads.")
    files: dict[str, bytes] = {}
    for name, folder in (members or {"": str(path)}).items():
        if format not in FOLDERS:
            content, ending = _file(load_foundation(folder, head=head), format, dtype)
            files[f"member-{name}{ending}"] = content
            continue
        found = _adapter(folder) if format == "adapter" else _bundle(folder)
        files |= {f"{name}/{key}" if name else key: content for key, content in found.items()}
    if members and format == "bundle":
        record = CommitteeRecord(members=tuple(members), scale=read_committee(source).scale)
        files[COMMITTEE] = record.model_dump_json(indent=2).encode()
    _check_folder(place, files, overwrite)
    with _writing(place):
        write_folder(place, files)
    return place


def _formats(kind: str) -> Mapping[str, Format]:
    return family(kind).formats()


def _members(place: Path) -> dict[str, str]:
    """Return the folders of a committee's members by name; nothing for a single potential."""
    if not (place / COMMITTEE).is_file():
        return {}
    folders = [place / member for member in read_committee(place).members]
    runs = [f.parent if f.parent.parent.name == MEMBERS else f for f in folders]  # with adapters
    return {str(number): str(run) for number, run in enumerate(runs, 1)}


def _file(opened: Foundation, format: str | None, dtype: torch.dtype) -> tuple[bytes, str]:
    """Return the content of a file of the potential's family, and its ending."""
    check_plain(opened)
    potential = _plain(opened.potential)
    chosen = _format(potential, format)
    return chosen.write(potential, dtype, opened.metadata), chosen.ending


def _format(potential: FamilyPotential, name: str | None) -> Format:
    """Return a format of the potential's family, by default its own."""
    known, title = _formats(potential.family), family(potential.family).title
    if not known:
        raise FoundationError(
            f"a {title} potential has no format of other programs. Nothing was written. Share it "
            "with --format bundle; finetune.load_calculator opens it for ASE."
        )
    name = name or next(iter(known))
    if name not in known:
        offered = [f"{key} ({item.purpose})" for key, item in known.items()]
        raise FoundationError(
            f"{title} has no format '{name}'. Nothing was written. Choose from "
            f"{', '.join([*offered, *FOLDERS])}."
        )
    return known[name]


def _adapter(path: str) -> dict[str, bytes]:
    """Return the files of peft's folder, and a card."""
    folder = locate_adapter(path)
    record = read_adapter(folder)
    record.check_files(folder)
    if not all((folder / name).is_file() for name in PEFT):
        raise FoundationError(
            f"the adapter of '{path}' is of the kind '{record.kind}', which peft does not support. "
            "Nothing was written. Use --format bundle to share the potential; --format adapter is "
            "for lora."
        )
    files = _read(folder, (*PEFT, ADAPTER_RECORD))
    metadata = {**record.metadata, "foundation": record.foundation.model_dump()}
    name, fingerprint = str(metadata.get("name") or folder.name), record.foundation.fingerprint
    return {**files, CARD: card(metadata, name, fingerprint, peft=True).encode()}


def _bundle(path: str) -> dict[str, bytes]:
    """Return the files of a stored potential, its adapter if it has one, and a card."""
    place = locate(path)
    if (place / CONFIG).is_file():
        config, _ = storage.read(place)
        files = _read(place, (CONFIG, storage.WEIGHTS, domain.FILE))
    else:
        opened = load_foundation(path)
        with TemporaryDirectory() as folder:
            given = (opened.potential, Path(folder), opened.metadata)
            config = storage.save(*given, adapters=opened.adapters)
            files = _read(Path(folder), (CONFIG, storage.WEIGHTS))
    adapter = Path(path).expanduser() / ADAPTER
    if (adapter / ADAPTER_RECORD).is_file():
        names = sorted(item.name for item in adapter.iterdir() if not item.name.startswith("."))
        files |= {f"{ADAPTER}/{name}": data for name, data in _read(adapter, names).items()}
    name = str(config.metadata.get("name") or place.name)
    forces = dict(config.settings.description()).get("forces", "")
    return {**files, CARD: card(config.metadata, name, config.fingerprint, forces=forces).encode()}


def _read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


@system_errors()
def write_file(
    potential: Potential,
    path: Path,
    format: str | None = None,
    dtype: torch.dtype = torch.float64,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a potential as a file of its family.

    Args:
        potential: Merged potential; its reference energies go into the file.
        path: File to write.
        format: Name among the family's formats; by default its own.
        dtype: Of the weights in the file.
        overwrite: Whether an existing file may be replaced.
        metadata: JSON values that the file may carry: level of theory, lineage.

    Raises:
        FoundationError: If an adapter has made it more than a plain potential, or the family has no
            such format.
        RunFolderError: If the file exists or cannot be written.
    """
    plain = _plain(potential)
    content = _format(plain, format).write(plain, dtype, metadata or {})
    _check_file(path, overwrite)
    with _writing(path):
        write_atomically(path, content)


def check_plain(foundation: Foundation) -> None:
    """Refuse a potential that adapters have made more than a plain one, naming them."""
    if foundation.adapters:
        kinds = " and ".join(f"'{item['kind']}'" for item in foundation.adapters)
        raise FoundationError(
            f"'{foundation.name}' cannot be exported for other programs, which do not know the "
            f"adapter {kinds}. Nothing was written. Open the run folder or its model/ folder with "
            "finetune.load_calculator, or share the potential with --format bundle."
        )


def _plain(potential: Potential) -> FamilyPotential:
    """Return the potential, if it is that of a family and nothing else."""
    if isinstance(potential, FamilyPotential):
        return potential
    raise FoundationError(
        f"a {type(potential).__name__} is not a plain potential of a family and cannot be written "
        "as a file. Open the run folder or its model/ folder with finetune.load_calculator instead."
    )


def _check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that is a folder, or that exists and may not be replaced."""
    if path.is_dir():
        raise RunFolderError(f"'{path}' is a folder; name a file, e.g. '{path / 'tuned.model'}'.")
    if path.exists() and not overwrite:
        raise RunFolderError(f"'{path}' exists. Choose another name, or add --overwrite.")


def _check_folder(place: Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Refuse a folder that may not be replaced, or holds anything but an earlier export."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise RunFolderError(f"'{place}' is a file or a link; name a folder.")
    if not place.is_dir() or not any(place.iterdir()):
        return
    if not overwrite:
        raise RunFolderError(f"'{place}' exists. Choose another name, or add --overwrite.")
    there = [item for item in sorted(place.rglob("*")) if not item.is_dir()]
    names = [str(item.relative_to(place)) for item in there]
    other = next((name for name in names if name not in files), None)
    check_free(place, lambda _: other, "such export")


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Make the folder around ``place``, and name ``place`` if it cannot be written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or error
        raise RunFolderError(f"'{place}' cannot be written: {why}. Choose another --to.") from error
