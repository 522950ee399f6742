"""The published MACE foundation models that MACE knows by name.

Addresses and names in the cache are those of mace-torch 0.3.16, which publishes no digests. A
sha256 is given where one is on record: as several users noted it, or for the same file on Hugging
Face.
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune.core.resources import cache
from finetune.potentials.published import ASL, BY_HEAD, MPTRJ, Address, Published

_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/main/mace_off23"
_CC = "https://raw.githubusercontent.com/ACEsuit/mace/main/mace/calculators/foundations_models"
MIT = "MIT"
_MOLECULAR = tuple(range(1, 84))
_BIO = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
_HCNO = (1, 6, 7, 8)


_SHA256 = {
    "mace-mp-0-small": "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    "mace-mp-0-medium": "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
    "mace-mp-0b2-small": "d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
    "mace-mp-0b2-medium": "a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
    "mace-mp-0b2-large": "348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
    "mace-mp-0b3-medium": "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
    "mace-mpa-0-medium": "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
    "mace-mh-1": "ec00a2705854622fbbd898ccfb7701072fcd674709102d009fb919c1b8cc5dde",
}
_PBE_U, _WB97M = "PBE(+U)", "ωB97M-D3(BJ)/def2-TZVPPD"
_MATERIALS = (
    ("mace-mp-0-small", 32_581_838, "mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model"),
    ("mace-mp-0-medium", 44_422_970, "mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model"),
    ("mace-mp-0-large", None, "mace_mp_0/MACE_MPtrj_2022.9.model"),
    ("mace-mp-0b-small", 67_603_120, "mace_mp_0b/mace_agnesi_small.model"),
    ("mace-mp-0b-medium", 79_447_096, "mace_mp_0b/mace_agnesi_medium.model"),
    ("mace-mp-0b2-small", 67_622_684, "mace_mp_0b2/mace-small-density-agnesi-stress.model"),
    ("mace-mp-0b2-medium", 79_462_798, "mace_mp_0b2/mace-medium-density-agnesi-stress.model"),
    ("mace-mp-0b2-large", 98_544_548, "mace_mp_0b2/mace-large-density-agnesi-stress.model"),
    ("mace-mp-0b3-medium", 79_472_952, "mace_mp_0b3/mace-mp-0b3-medium.model"),
    ("mace-mpa-0-medium", 79_462_305, "mace_mpa_0/mace-mpa-0-medium.model"),
)
_OMAT = [
    (f"mace-omat-0-{size}", None, f"mace_omat_0/mace-omat-0-{size}.model")
    for size in ("small", "medium")
]
_PBE = [("mace-matpes-pbe-0", None, "mace_matpes_0/MACE-matpes-pbe-omat-ft.model")]
_R2SCAN = [("mace-matpes-r2scan-0", None, "mace_matpes_0/MACE-matpes-r2scan-omat-ft.model")]
_HEADS = [(f"mace-mh-{number}", None, f"mace_mh_1/mace-mh-{number}.model") for number in (0, 1)]
_SIZES = ("small", "medium", "large")
_ORGANIC = [(f"mace-off23-{size}", None, f"MACE-OFF23_{size}.model") for size in _SIZES]
_OMOL = [("mace-omol-0", None, "mace_omol_0/MACE-omol-0-extra-large-1024.model")]
_ANI = [("mace-ani-cc", None, "ani500k_large_CC.model")]
_Group = tuple[str, Sequence[tuple[str, int | None, str]], tuple[int, ...], str, str, bool]
_GROUPS: tuple[_Group, ...] = (
    (_MP, _MATERIALS, MPTRJ, _PBE_U, MIT, False),
    (_MP, _OMAT, MPTRJ, _PBE_U, ASL, False),
    (_FOUNDATIONS, _PBE, MPTRJ, "PBE", ASL, False),
    (_FOUNDATIONS, _R2SCAN, MPTRJ, "r2SCAN", ASL, False),
    (_FOUNDATIONS, _HEADS, MPTRJ, BY_HEAD, ASL, False),
    (_OFF, _ORGANIC, _BIO, _WB97M, ASL, True),
    (_FOUNDATIONS, _OMOL, _MOLECULAR, "ωB97M-V/def2-TZVPD", ASL, True),
    (_CC, _ANI, _HCNO, "CCSD(T)*/CBS", MIT, True),
)


def _address(url: str, keeps_punctuation: bool) -> Address:
    """Return where MACE fetches a model, and where it keeps it: not all files by their own name."""
    name = url.rpartition("/")[2]
    if not keeps_punctuation:
        name = "".join(letter for letter in name if letter.isalnum() or letter == "_")
    return Address(url, cache("mace") / name)


def published() -> dict[str, Published]:
    """Return the published models by name."""
    charged = frozenset({"charge", "spin"})
    return {
        name: Published(
            name=name,
            source=_address(f"{base}/{path}", own),
            elements=elements,
            level_of_theory=level,
            licence=licence,
            size=size,
            sha256=_SHA256.get(name),
            inputs=charged if elements is _MOLECULAR else frozenset(),
        )
        for base, rows, elements, level, licence, own in _GROUPS
        for name, size, path in rows
    }
