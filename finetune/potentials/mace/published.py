"""The published MACE foundation models that MACE knows by name.

Addresses and names in the cache are those of mace-torch 0.3.16, which publishes no digests. A
sha256 is given where one is on record: as several users noted it, or for the same file on Hugging
Face.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.potentials.downloads import mace_cache

_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/main/mace_off23"
_CC = "https://raw.githubusercontent.com/ACEsuit/mace/main/mace/calculators/foundations_models"
MIT, ASL = "MIT", "ASL"
ASL_TERMS = "https://github.com/gabor1/ASL"


@dataclass(frozen=True)
class Published:
    """A foundation model that can be downloaded.

    Attributes:
        name: What recipes call it.
        url: Where it is.
        elements: How many elements its training data cover.
        level_of_theory: Of its training data.
        licence: ``MIT``, or ``ASL``: the Academic Software License, without commercial use.
        size: Bytes of the file, where known.
        sha256: Of the file, where known.
        keeps_punctuation: Whether MACE keeps the file's own name in its cache.
    """

    name: str
    url: str
    elements: int
    level_of_theory: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    keeps_punctuation: bool = False

    @property
    def file(self) -> Path:
        """Where MACE and this package keep the downloaded file."""
        name = self.url.rpartition("/")[2]
        if not self.keeps_punctuation:
            name = "".join(letter for letter in name if letter.isalnum() or letter == "_")
        return mace_cache() / name


_PBE_U, _WB97M = "PBE(+U)", "ωB97M-D3(BJ)/def2-TZVPPD"


def _materials(
    name: str, path: str, size: int | None = None, sha256: str | None = None
) -> Published:
    return Published(name, f"{_MP}/{path}", 89, _PBE_U, MIT, size, sha256)


_ALL = (
    _materials(
        "mace-mp-0-small",
        "mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        32_581_838,
        "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    ),
    _materials(
        "mace-mp-0-medium",
        "mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model",
        44_422_970,
        "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
    ),
    _materials("mace-mp-0-large", "mace_mp_0/MACE_MPtrj_2022.9.model"),
    _materials("mace-mp-0b-small", "mace_mp_0b/mace_agnesi_small.model", 67_603_120),
    _materials("mace-mp-0b-medium", "mace_mp_0b/mace_agnesi_medium.model", 79_447_096),
    _materials(
        "mace-mp-0b2-small",
        "mace_mp_0b2/mace-small-density-agnesi-stress.model",
        67_622_684,
        "d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
    ),
    _materials(
        "mace-mp-0b2-medium",
        "mace_mp_0b2/mace-medium-density-agnesi-stress.model",
        79_462_798,
        "a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
    ),
    _materials(
        "mace-mp-0b2-large",
        "mace_mp_0b2/mace-large-density-agnesi-stress.model",
        98_544_548,
        "348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
    ),
    _materials(
        "mace-mp-0b3-medium",
        "mace_mp_0b3/mace-mp-0b3-medium.model",
        79_472_952,
        "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
    ),
    _materials(
        "mace-mpa-0-medium",
        "mace_mpa_0/mace-mpa-0-medium.model",
        79_462_305,
        "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
    ),
    Published("mace-omat-0-small", f"{_MP}/mace_omat_0/mace-omat-0-small.model", 89, _PBE_U, ASL),
    Published("mace-omat-0-medium", f"{_MP}/mace_omat_0/mace-omat-0-medium.model", 89, _PBE_U, ASL),
    Published(
        "mace-matpes-pbe-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        89,
        "PBE",
        ASL,
    ),
    Published(
        "mace-matpes-r2scan-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        89,
        "r2SCAN",
        ASL,
    ),
    Published("mace-mh-0", f"{_FOUNDATIONS}/mace_mh_1/mace-mh-0.model", 89, "by head", ASL),
    Published(
        "mace-mh-1",
        f"{_FOUNDATIONS}/mace_mh_1/mace-mh-1.model",
        89,
        "by head",
        ASL,
        sha256="ec00a2705854622fbbd898ccfb7701072fcd674709102d009fb919c1b8cc5dde",
    ),
    *(
        Published(
            f"mace-off23-{size}",
            f"{_OFF}/MACE-OFF23_{size}.model",
            10,
            _WB97M,
            ASL,
            keeps_punctuation=True,
        )
        for size in ("small", "medium", "large")
    ),
    Published(
        "mace-omol-0",
        f"{_FOUNDATIONS}/mace_omol_0/MACE-omol-0-extra-large-1024.model",
        83,
        "ωB97M-V/def2-TZVPD",
        ASL,
        keeps_punctuation=True,
    ),
    Published(
        "mace-ani-cc",
        f"{_CC}/ani500k_large_CC.model",
        4,
        "CCSD(T)*/CBS",
        MIT,
        keeps_punctuation=True,
    ),
)
PUBLISHED = {entry.name: entry for entry in _ALL}
