"""Stored potentials: `config.json` and `model.safetensors` in a folder, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeVar

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from finetune.core.errors import FinetuneError, FoundationError, RecipeError
from finetune.core.files import write_atomically
from finetune.core.options import Options
from finetune.core.units import Units
from finetune.potentials.family import UNNAMED, families, family, settings_of
from finetune.potentials.potential import FamilyPotential, Potential, innermost
from finetune.potentials.settings import FamilySettings
from finetune.recipe.plugins import adapters

Record = TypeVar("Record", bound=BaseModel)


def read_record(
    path: Path, kind: type[Record], check: Callable[[Any], None] = lambda raw: None
) -> Record:
    """Read and validate a JSON file; ``check`` refuses, by a `FoundationError`, another kind."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        check(raw)
        return kind.model_validate(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except ValidationError as error:
        place, reason, _ = first_fault(error)
        raise FoundationError(f"'{path}' is damaged at '{place}': {reason}.") from None


def first_fault(error: ValidationError) -> tuple[str, str, Any]:
    """Return place, reason and value of the first fault."""
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    return place, fault["msg"].removeprefix("Value error, "), fault["input"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Data(_Part):
    valid: str | list[str] | float | None = None
    test: str | list[str] | None = None
    keys: dict[str, str] = Field(default_factory=dict)
    units: Units = Units()


class _Adapter(_Part):
    kind: str = ""


class _Recipe(_Part):
    adapter: _Adapter = _Adapter()
    data: _Data = _Data()


class _Origin(_Part):
    name: str
    fingerprint: str
    head: str | None = None


class _Known(_Part):
    """The entries that are read again; all others are free."""

    foundation: _Origin | None = None
    recipe: _Recipe = _Recipe()
    compositions: list[str] | None = None


def checked(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata unchanged; refuse, by a `ValueError`, entries that a run does not write."""
    try:
        _Known.model_validate({**metadata, "foundation": metadata.get("foundation") or None})
    except ValidationError as error:
        place, reason, _ = first_fault(error)
        raise ValueError(f"its entry '{place}' is not what a run writes: {reason}") from None
    return dict(metadata)


Metadata = Annotated[dict[str, Any], AfterValidator(checked)]
"""The type of ``metadata`` in a record."""


FORMAT = "piwsl-finetune/potential"
VERSION = 1
CONFIG = "config.json"


class StoredConfig(Options):
    """What ``config.json`` holds.

    ``fingerprint`` is the sha256 over settings and weights; it names the potential in run folders
    and adapters and reveals damage. ``adapters`` are those that the weights need beyond a plain
    potential, in the order in which they were attached: ``kind`` and options of each. ``metadata``
    is free: level of theory, licence, figures.
    """

    format: str = FORMAT
    format_version: int = VERSION
    family: str = UNNAMED
    fingerprint: str
    settings: SerializeAsAny[FamilySettings]
    head: str | None = None
    adapters: tuple[dict[str, Any], ...] = ()
    metadata: Metadata = Field(default_factory=dict)

    @field_validator("settings", mode="before")
    @classmethod
    def _of_its_family(cls, value: Any, info: ValidationInfo) -> Any:
        return settings_of(info.data["family"], value) if "family" in info.data else value

    @field_validator("head")
    @classmethod
    def _of_the_settings(cls, head: str | None, info: ValidationInfo) -> str | None:
        settings: FamilySettings | None = info.data.get("settings")
        if settings and head is not None and head not in settings.head_names():
            known = ", ".join(settings.head_names())
            raise ValueError(f"there is no head '{head}'; the settings have {known}")
        return head


def read_config(folder: Path) -> StoredConfig:
    """Read ``config.json`` alone; a `FoundationError` for a missing, damaged or foreign file."""
    path = folder / CONFIG

    def check(raw: Any) -> None:
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise FoundationError(f"'{path}' does not describe a potential of this package.")
        if raw.get("format_version") != VERSION:
            raise FoundationError(
                f"'{path}' has format version {raw.get('format_version')}; this release reads "
                f"version {VERSION}. Update piwsl-finetune."
            )
        if isinstance(kind := raw.get("family", UNNAMED), str):
            try:
                families.options(kind)
            except RecipeError as error:
                raise FoundationError(
                    f"'{path}' holds a potential of the family '{kind}', which cannot be opened: "
                    f"{error} A family comes from a package with the entry point {families.group}: "
                    "install it, or import the module that registers the family first."
                ) from error

    return read_record(path, StoredConfig, check)


def fingerprint(
    family: str,
    settings: FamilySettings,
    weights: Mapping[str, torch.Tensor],
    adapters: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the sha256 (hex) over family, settings, every weight and the adapters they need."""
    digest = hashlib.sha256(b"" if family == UNNAMED else f"{family} ".encode())
    digest.update(settings.identity().encode())
    if adapters:
        digest.update(json.dumps([dict(item) for item in adapters], sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


WEIGHTS = "model.safetensors"


def save(
    potential: Potential,
    folder: Path,
    metadata: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    adapters: Sequence[Mapping[str, Any]] = (),
) -> StoredConfig:
    """Write a potential of a family into ``folder``; each file appears complete or not at all.

    It may be inside what ``adapters`` have added, which are those that it needs beyond a plain
    potential; see `StoredConfig`. ``metadata`` are JSON values; ``dtype``, of the stored weights,
    is the potential's if None. Raises FoundationError if it is of no family.
    """
    inside = family_potential(potential)
    settings = inside.settings
    holder = potential if adapters else inside.model
    further = {} if adapters else inside.further_weights()
    kind = dtype or potential.dtype
    weights = {
        name: tensor.detach().to("cpu", kind)
        for name, tensor in {**_parameters(holder), **further}.items()
    }
    config = StoredConfig(
        family=inside.family,
        fingerprint=fingerprint(inside.family, settings, weights, adapters),
        head=inside.head_name,
        settings=settings,
        adapters=tuple(dict(item) for item in adapters),
        metadata=dict(metadata),
    )
    write(folder, config, weights)
    return config


def family_potential(potential: Potential) -> FamilyPotential:
    """Return the potential inside what adapters have added; FoundationError if of no family."""
    inside = innermost(potential)
    if not isinstance(inside, FamilyPotential):
        raise FoundationError(
            f"a {type(inside).__name__} cannot be stored: only a potential of a family can, a "
            "finetune.FamilyPotential, alone or as the `base` of a finetune.WrappedPotential."
        )
    return inside


def write(folder: Path, config: StoredConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Write settings and weights into ``folder``, which is created if needed; the settings last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    usual = {"adapters": (), "family": UNNAMED}  # earlier releases read a file without these
    unused = {name for name, value in usual.items() if getattr(config, name) == value}
    content = config.model_dump_json(indent=2, exclude=unused) + "\n"
    write_atomically(folder / CONFIG, content.encode())


def load(
    folder: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[Potential, StoredConfig]:
    """Open a stored potential; refuse files that are missing, damaged or do not belong together."""
    config, weights = read(folder)
    return assemble(config, weights, dtype, head, folder), config


def reopened(
    potential: Potential,
    dtype: torch.dtype,
    head: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    adapters: Sequence[Mapping[str, Any]] = (),
) -> tuple[Potential, StoredConfig]:
    """Store a potential temporarily and open it: in another precision, or with another head.

    Unlike ``potential.to(dtype)``, this leaves it exactly equivariant in the new precision. For
    ``adapters`` see `StoredConfig`.
    """
    with TemporaryDirectory() as folder:
        save(potential, Path(folder), metadata or {}, adapters=adapters)
        return load(Path(folder), dtype, head)


def assemble(
    config: StoredConfig,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
    folder: Path,
) -> Potential:
    """Build the potential that `read` found in ``folder``; refuse an unknown head or adapter."""
    known = family(config.family)
    inside, own = known.assemble(config.settings, dict(weights), dtype, head or config.head)
    potential: Potential = inside
    for item in config.adapters:
        potential = _attached(potential, item, folder)
    path = folder / WEIGHTS if folder.is_dir() else folder
    _fill(potential if config.adapters else inside.model, own, path)
    return potential.requires_grad_(True).eval()


def _attached(potential: Potential, stored: Mapping[str, Any], folder: Path) -> Potential:
    """Add an adapter to a potential, with weights that are filled in later."""
    kind = str(stored.get("kind"))
    try:
        adapter = adapters.get(kind)
        options: BaseModel = adapter.Options.model_validate(
            {key: value for key, value in stored.items() if key != "kind"}
        )
        return adapter(options).attach(potential).potential
    except RecipeError as error:
        raise FoundationError(
            f"'{folder}' needs the adapter '{kind}': {error} Install the package that provides it, "
            "or import the module that registers it first."
        ) from error
    except (FinetuneError, ValidationError) as error:
        raise FoundationError(
            f"'{folder}' needs the adapter '{kind}' as it was when it was stored; the installed "
            f"one does not take its options: {error}"
        ) from error


def read(folder: Path) -> tuple[StoredConfig, dict[str, torch.Tensor]]:
    """Read what `write` wrote; refuse files that are missing, damaged or not its fingerprint's."""
    config = read_config(folder)
    path = folder / WEIGHTS
    try:
        weights = load_tensors(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}. Get a fresh copy.") from error
    found = fingerprint(config.family, config.settings, weights, config.adapters)
    if found != config.fingerprint:
        raise FoundationError(
            f"'{path}' and '{CONFIG}' do not belong together or are damaged (fingerprint differs). "
            "Get a fresh copy of the folder."
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise FoundationError(f"'{path}' holds weights that are NaN or infinite.")
    return config, weights


def _parameters(holder: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: item for name, item in holder.named_parameters() if item.numel()}


def _fill(holder: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    parameters = _parameters(holder)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    stored = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != stored:
        names = sorted({*shapes, *stored})
        faults = [name for name in names if shapes.get(name) != stored.get(name)]
        raise FoundationError(
            f"'{path}' does not fit its settings: {len(faults)} weight(s) are missing, superfluous "
            f"or of another shape; the first is '{faults[0]}'."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
