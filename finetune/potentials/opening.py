"""Open a file that a family's own tools wrote; its settings and weights are kept in the cache.

Nothing in the file is executed, unless the user trusts it. A file is converted once: the next
opening finds the conversion by the file's digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import ValidationError

from finetune.core.errors import FoundationError
from finetune.potentials import storage
from finetune.potentials.archive import Content, describe, read_archive
from finetune.potentials.downloads import conversion, digest
from finetune.potentials.family import Family, families, family
from finetune.potentials.potential import Potential
from finetune.potentials.settings import FamilySettings
from finetune.potentials.storage import StoredConfig, fingerprint, first_fault

Read = tuple[StoredConfig, dict[str, torch.Tensor]]


def open_file(
    path: Path,
    dtype: torch.dtype = torch.float64,
    head: str | None = None,
    sha256: str | None = None,
    trust: bool = False,
) -> tuple[Potential, StoredConfig]:
    """Open a potential from a file of its family; arguments and errors of `read_file`.

    ``head`` may be left out where there is one.
    """
    config, weights = read_file(path, sha256, trust)
    return storage.assemble(config, weights, dtype, head, path), config


def read_file(path: Path, sha256: str | None = None, trust: bool = False) -> Read:
    """Read settings and weights from a file of any family.

    Args:
        path: The file.
        sha256: What its digest must be; None allows any file.
        trust: Whether a file that cannot be read safely may be loaded as torch does, which runs
            the code in it.

    Raises:
        FoundationError: If the file is damaged, not understood, or of no family that is installed.
    """
    found = _digest(path, sha256)
    folders = {name: conversion(found, family(name).packages) for name in families.names()}
    for folder in folders.values():
        if (stored := _converted(folder)) is not None:
            return stored
    try:
        name, config, weights = _convert(path)
    except FoundationError as error:
        if not trust:
            raise
        return _trusted(path, error)
    with suppress(OSError):  # without a cache, the next opening only takes longer
        storage.write(folders[name], config, weights)
    return config, weights


def _digest(path: Path, sha256: str | None) -> str:
    """Return the digest of a file, once it is checked."""
    try:
        found = digest(path)
    except OSError as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    if sha256 is not None and found != sha256:
        raise FoundationError(
            f"'{path}' has the sha256 {found}, not {sha256} as the published file: it is damaged "
            "or another file. Delete it to download it again, or name it by its path to open it "
            "as it is."
        )
    return found


def _converted(folder: Path) -> Read | None:
    """Return an earlier conversion, if there is a complete one."""
    if not folder.is_dir():
        return None
    try:
        return storage.read(folder)
    except FoundationError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _convert(path: Path) -> tuple[str, StoredConfig, dict[str, torch.Tensor]]:
    """Return the family of a file, and what the family reads from it."""
    try:
        with path.open("rb") as file:
            content = read_archive(file)
        name, found = recognised(content.root)
        settings, weights = _read(found, content)
    except OSError as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except FoundationError as error:
        raise FoundationError(f"'{path}' {error}") from error
    try:
        return name, _config(name, settings, weights, content.metadata), weights
    except ValidationError as error:
        reason = first_fault(error)[1]
        raise FoundationError(f"'{path}' is damaged: {reason}. Get a fresh copy.") from None


def _read(found: Family, content: Content) -> tuple[FamilySettings, dict[str, torch.Tensor]]:
    """Return what a family reads, which may be one of the user's; refuse anything else."""
    try:
        settings, weights = found.read(content)
        plain = all(
            isinstance(name, str) and isinstance(item, torch.Tensor)
            for name, item in weights.items()
        )
    except ValidationError as error:
        place, reason, _ = first_fault(error)
        raise FoundationError(f"has '{place}' that cannot be used: {reason}.") from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise FoundationError(
            f"is not understood as a {found.title}: {type(error).__name__}: {error}."
        ) from error
    if not plain:
        raise FoundationError(f"holds weights of a {found.title} that are no tensors with names.")
    return settings, weights


def _trusted(path: Path, refusal: FoundationError) -> Read:
    """Load a file as torch does, if its family can read it so; ``refusal`` is why it is not safe.

    Where no family recognises the file, those that can are asked in turn.
    """
    try:
        with path.open("rb") as file:
            kinds = [recognised(read_archive(file).root)[0]]
    except FoundationError:
        kinds = families.names()
    for name in kinds:
        if type(family(name)).read_trusted is not Family.read_trusted:
            settings, weights = family(name).read_trusted(path)
            return _config(name, settings, weights), weights
    raise refusal


def _config(
    name: str,
    settings: FamilySettings,
    weights: Mapping[str, torch.Tensor],
    metadata: Mapping[str, object] | None = None,
) -> StoredConfig:
    return StoredConfig(
        family=name,
        fingerprint=fingerprint(name, settings, weights),
        settings=settings,
        metadata=dict(metadata or {}),
    )


def recognised(root: object) -> tuple[str, Family]:
    """Return the family of what a file holds, and its name.

    Raises FoundationError if no family that is installed recognises it, saying what was found.
    """
    for name in families.names():
        if family(name).recognises(root):
            return name, family(name)
    known = ", ".join(family(name).title for name in families.names())
    if isinstance(root, Mapping) and root:
        if all(isinstance(value, torch.Tensor) for value in root.values()):
            raise FoundationError(
                "holds weights alone (a state dict), without the settings of the model they belong "
                "to. Give the file in which the training wrote the model."
            )
        keys = ", ".join(repr(str(key)[:30]) for key in list(root)[:6])
        raise FoundationError(
            f"holds a dictionary with {keys}{', …' if len(root) > 6 else ''}, such as a training "
            f"checkpoint, not a model of a known family ({known})."
        )
    raise FoundationError(f"holds {describe(root)}, which is of no known family ({known}).")
