"""The contract of a family of potentials, and the registry of families.

A family is an architecture: what rebuilds its networks, which files hold them, what other programs
read. Nothing outside a family's own room knows it by name.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.core.errors import FoundationError, RecipeError
from finetune.core.options import Registry
from finetune.potentials.settings import FamilySettings

if TYPE_CHECKING:
    import torch

    from finetune.potentials.archive import Content
    from finetune.potentials.potential import FamilyPotential
    from finetune.potentials.published import Published

    Writer = Callable[[Any, torch.dtype, Mapping[str, Any]], bytes]
    Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Format:
    """A file that another program reads.

    ``write`` returns its content for a potential, the dtype of its weights, and metadata (JSON
    values) that the file may carry; it raises a `FoundationError` for what the format cannot hold.
    ``single`` formats hold single precision, whatever is asked for.
    """

    ending: str
    write: Writer
    purpose: str
    single: bool = False


@dataclass(frozen=True)
class MatrixStack:
    """A kind of layer whose weights are matrices ``[matrices, rows, columns]``.

    ``weights`` returns those of a layer by name. Where not all are adapted, the one named ``main``
    is, if a layer has it.
    """

    weights: Callable[[Any], dict[str, torch.nn.Parameter]]
    main: str


class Family(ABC):
    """An architecture of interatomic potentials.

    Attributes:
        Settings: What rebuilds a network.
        title: Its name in messages.
        citation: What a publication that uses it cites.
        packages: Distributions of which a release may build another network from the same settings.
        wraps: Whether its networks hold one of another family.
        groups: Group of weights -> patterns of parameter names in `FamilyPotential.model`. The
            adapters use ``readout``, and recipes may name any of them.
    """

    Settings: ClassVar[type[FamilySettings]]
    title: ClassVar[str]
    citation: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    wraps: ClassVar[bool] = False
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @abstractmethod
    def build(self, settings: Any, dtype: torch.dtype, head: str | None = None) -> FamilyPotential:
        """Return a potential with fresh weights, drawn from torch's global generator.

        Raises FoundationError for settings that cannot be built, and for a head that is unknown or
        missing.
        """

    @abstractmethod
    def example(self) -> FamilySettings:
        """Return settings of a small network for H, C, N and O, with which suites test."""

    def assemble(
        self, settings: Any, weights: Weights, dtype: torch.dtype, head: str | None
    ) -> tuple[FamilyPotential, Weights]:
        """Return a potential whose weights must be filled in, and the weights to fill in.

        Called for stored weights: the parameters of `FamilyPotential.model` by name, and what
        `FamilyPotential.further_weights` had added.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            return self.build(settings, dtype, head), weights

    def recognises(self, root: object) -> bool:
        """Whether a file, read by `finetune.potentials.archive`, holds a potential of the family.

        A file of a form that is not supported is recognised too; `read` then says what it is.
        """
        return False

    def read(self, content: Content) -> tuple[FamilySettings, Weights]:
        """Return settings and weights (in `FamilyPotential.model`'s names) of a recognised file.

        Nothing in the file may be executed. Raises FoundationError, whose text continues
        "'FILE' …", for one that is damaged or not understood.
        """
        raise FoundationError(f"holds a {self.title}, of which no files are read.")

    def read_trusted(self, path: Path) -> tuple[FamilySettings, Weights]:
        """Return what `read` does of a file loaded as torch does, which runs the code in it."""
        raise FoundationError(f"'{path}' holds nothing that loading its code would help to read.")

    def accelerate(self, potential: Any, kind: str) -> FamilyPotential:
        """Return a potential with the same predictions and the layers that the recipe asks for.

        ``auto`` is what is fastest here. Raises RecipeError if the family has no other layers.
        """
        if kind == "auto":
            return potential
        raise RecipeError(
            f"train.acceleration={kind} is not offered for {self.title}. Set "
            "train.acceleration=none."
        )

    def plain(self, potential: Any) -> FamilyPotential:
        """Return an accelerated potential with the family's own layers; others as they are."""
        return potential

    def formats(self) -> Mapping[str, Format]:
        """Return the files that other programs read, by name; the family's own first."""
        return {}

    def published(self) -> Mapping[str, Published]:
        """Return the published potentials of the family, by name."""
        return {}

    def matrix_stacks(self) -> Mapping[type, MatrixStack]:
        """Return layers, by class, that LoRA adapts beyond those of e3nn and torch."""
        return {}

    def groups_of(self, settings: Any) -> Mapping[str, tuple[str, ...]]:
        """Return the groups of weights of a network: `groups`, unless it `wraps` another."""
        return self.groups

    def matrix_stacks_of(self, settings: Any) -> Mapping[type, MatrixStack]:
        """Return the layers of a network: `matrix_stacks`, unless it `wraps` another."""
        return self.matrix_stacks()


families: Registry[Family] = Registry(
    "family",
    "piwsl_finetune.families",
    {
        "mace": (
            "finetune.potentials.mace.family:MaceFamily",
            "finetune.potentials.mace.settings:MaceSettings",
        ),
        "direct": (
            "finetune.potentials.direct.family:DirectFamily",
            "finetune.potentials.direct.settings:DirectSettings",
        ),
        "chgnet": (
            "finetune.potentials.chgnet.family:ChgnetFamily",
            "finetune.potentials.chgnet.settings:ChgnetSettings",
        ),
        "orb": (
            "finetune.potentials.orb.family:OrbFamily",
            "finetune.potentials.orb.settings:OrbSettings",
        ),
        "sevennet": (
            "finetune.potentials.sevennet.family:SevenNetFamily",
            "finetune.potentials.sevennet.settings:SevenNetSettings",
        ),
    },
    carries="Settings",
)
register_family = families.register
UNNAMED = "mace"
"""The family of stored potentials that name none: the first one."""


def settings_of(kind: str, value: Any) -> FamilySettings:
    """Return the settings of a family from plain values; a ValueError if it is not installed."""
    if isinstance(value, FamilySettings):
        return value
    try:
        return families.options(kind).model_validate(value)  # type: ignore[return-value]
    except RecipeError as error:
        raise ValueError(f"{error} Install the package that provides it") from error


def family(name: str) -> Family:
    """Return a family by name; a `FoundationError` for one that is not installed."""
    return families.get(name)()


ALWAYS = ("piwsl-finetune", "torch", "e3nn", "ase", "peft", "torch-ema", "numpy")
"""Distributions that decide every result."""
ABSENT = "not installed"


def versions() -> dict[str, str]:
    """Return the versions of what decides a result, the packages of the families among it."""
    packages = [package for name in families.names() for package in family(name).packages]
    found = {name: release(name) for name in dict.fromkeys((*ALWAYS, *packages))}
    absent = [name for name in found if found[name] == ABSENT and name not in ALWAYS]
    kept = {name: value for name, value in found.items() if name not in absent}
    return {"python": platform.python_version(), **kept}


@cache
def release(package: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT
