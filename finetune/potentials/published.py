"""What is known of a published potential before it is there, and where it is fetched from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from finetune.core.resources import cache

ASL = "ASL"
"""The Academic Software License, which must be accepted."""
ASL_TERMS = "https://github.com/gabor1/ASL"
MPTRJ = (*range(1, 84), *range(89, 95))
"""Elements of the Materials Project's trajectories (MPtrj)."""
BY_HEAD = "by head"
"""The level of theory of a potential whose heads have different ones."""
TERMS = {ASL: f"Academic Software License, no commercial use: {ASL_TERMS}"}


@dataclass(frozen=True)
class Address:
    """A file on the web, kept in ``file``, which other programs may share."""

    url: str
    file: Path

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Wheel:
    """A member of a wheel on the package index, kept under ``name`` in this package's cache.

    ``sha256`` is the wheel's, None where each platform has a wheel of its own. Where the
    distribution is installed, its own copy of the member is used.
    """

    distribution: str
    version: str
    member: str
    name: str
    sha256: str | None = None

    @property
    def file(self) -> Path:
        """Where the member is kept."""
        folder = cache("piwsl-finetune") / "published" / f"{self.distribution}-{self.version}"
        return folder / self.name

    def same_file(self, other: Wheel) -> bool:
        """Whether another member is in the same wheel."""
        return (self.distribution, self.version) == (other.distribution, other.version)

    def __str__(self) -> str:
        return f"{self.member} in {self.distribution} {self.version} from the package index"


@dataclass(frozen=True)
class Published:
    """A potential that can be downloaded.

    Attributes:
        name: Name in the catalogue.
        source: Where it is fetched from.
        elements: Atomic numbers that its training data cover.
        level_of_theory: What it was fitted to.
        licence: Short name, e.g. ``MIT`` or ``ASL``.
        parameters: How many weights it has, where that is known.
        size: Bytes to download.
        sha256: Of its file.
        inputs: Which of ``charge`` and ``spin`` the energy depends on, too.
    """

    name: str
    source: Address | Wheel
    elements: tuple[int, ...]
    level_of_theory: str
    licence: str
    parameters: int | None = None
    size: int | None = None
    sha256: str | None = None
    inputs: frozenset[str] = field(default_factory=frozenset)

    @property
    def file(self) -> Path:
        """Where the downloaded file is kept."""
        return self.source.file

    @property
    def terms(self) -> str:
        """The licence and, where it must be accepted first, its terms."""
        return TERMS.get(self.licence, self.licence)

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of a foundation that is opened from the file."""
        facts = {"name": self.name, "level_of_theory": self.level_of_theory}
        return {**facts, "license": self.licence, "url": str(self.source)}
