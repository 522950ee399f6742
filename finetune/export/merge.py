"""Write a potential as the plain ``.model`` file that every MACE tool opens."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from finetune.core.errors import FoundationError, RunFolderError, system_errors
from finetune.core.files import write_atomically
from finetune.potentials.archive import METADATA
from finetune.potentials.loading import Foundation
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.potential import Potential


@system_errors()
def write_mace(
    potential: Potential,
    path: Path,
    dtype: torch.dtype = torch.float64,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Save a plain MACE model, as `mace.calculators.MACECalculator` loads it.

    Args:
        potential: Merged potential; its reference energies go into the model.
        path: File to write, by custom named ``*.model``.
        dtype: Type of the weights in the file.
        overwrite: Whether an existing file may be replaced.
        metadata: JSON values that go with it: level of theory, lineage. They become an entry of
            the zip archive that a ``.model`` file is, which torch and MACE pass over.

    Raises:
        FoundationError: If the potential is more than a plain MACE.
        RunFolderError: If the file exists or cannot be written.
    """
    content = mace_file(potential, dtype, metadata)
    write_file(path, content, overwrite)


def mace_file(
    potential: Potential, dtype: torch.dtype, metadata: Mapping[str, Any] | None = None
) -> bytes:
    """Return the content of a ``.model`` file; arguments as of `write_mace`.

    Raises:
        FoundationError: If the potential is more than a plain MACE.
    """
    content = io.BytesIO()
    torch.save(plain(potential).plain_model(dtype), content)
    if metadata:
        with zipfile.ZipFile(content, "a") as archive:
            folder = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{folder}/{METADATA}", json.dumps(metadata, ensure_ascii=False))
    return content.getvalue()


def plain(potential: Potential) -> MacePotential:
    """Return the potential, if it is a plain MACE.

    Raises:
        FoundationError: If it is more than that.
    """
    if isinstance(potential, MacePotential):
        return potential
    raise FoundationError(
        f"a {type(potential).__name__} is no plain MACE and cannot be written as one. Use the "
        "run folder or its model/ with finetune.load_calculator instead."
    )


def write_file(path: Path, content: bytes, overwrite: bool = False) -> None:
    """Write a file whole or not at all, in a folder that is made if need be.

    Raises:
        RunFolderError: If it exists or cannot be written.
    """
    check_file(path, overwrite)
    with writing(path):
        write_atomically(path, content)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Make the folder that ``place`` lies in, and say plainly if ``place`` cannot be written.

    Raises:
        RunFolderError: With the place and the reason.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or error
        raise RunFolderError(f"'{place}' cannot be written: {why}. Choose another --to.") from error


def check_file(path: Path, overwrite: bool = False) -> None:
    """Refuse a file that is a folder, or that exists and may not be replaced.

    Raises:
        RunFolderError: With the mend.
    """
    if path.is_dir():
        raise RunFolderError(f"'{path}' is a folder; name a file, e.g. '{path / 'tuned.model'}'.")
    if path.exists() and not overwrite:
        raise RunFolderError(f"'{path}' exists. Choose another name, or add --overwrite.")


def check_plain(foundation: Foundation) -> None:
    """Refuse a potential that adapters have made more than a plain MACE, naming them.

    Raises:
        FoundationError: If there are such adapters.
    """
    if foundation.adapters:
        kinds = " and ".join(f"'{item['kind']}'" for item in foundation.adapters)
        raise FoundationError(
            f"'{foundation.name}' cannot be exported as a plain MACE: a MACE has no place for what "
            f"the adapter {kinds} computes. Nothing was written. From Python and ASE, "
            "finetune.load_calculator opens the run folder or its model/ folder; --format bundle "
            "writes it to hand on."
        )
