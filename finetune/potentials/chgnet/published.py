"""The published CHGNet models: checkpoints in the wheels of chgnet, which are on the package index.

Each platform has a wheel of its own, with the same checkpoints. The licence is chgnet's, a modified
BSD. Digests are those of chgnet 0.4.2.
"""

from __future__ import annotations

from finetune.potentials.published import MPTRJ, Published, Wheel

_R2SCAN = tuple(number for number in MPTRJ if number != 70)
"""Elements of the Materials Project's r2SCAN data, which lack ytterbium."""
_MEMBERS = (
    (
        *("chgnet-0.3.0", "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar", "PBE(+U)", 379_214),
        "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
    ),
    (
        "chgnet-r2scan",
        "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        *("r2SCAN", 379_214),
        "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
    ),
    (
        *("chgnet-0.2.0", "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar", "PBE(+U)", 367_383),
        "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
    ),
)


def published() -> dict[str, Published]:
    """Return the published models by name."""
    return {
        name: Published(
            name=name,
            source=Wheel(
                distribution="chgnet",
                version="0.4.2",
                member=f"chgnet/pretrained/{member}",
                name=f"{name}.pth.tar",
            ),
            elements=_R2SCAN if name == "chgnet-r2scan" else MPTRJ,
            level_of_theory=level,
            licence="BSD-3-Clause-LBNL",
            parameters=parameters,
            size=13_700_000,
            sha256=sha256,
        )
        for name, member, level, parameters, sha256 in _MEMBERS
    }
