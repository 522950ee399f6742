"""The published SevenNet models: checkpoints in the wheel of sevenn, which is on the package index.

The files are MIT-licensed from sevenn 0.12 on. Digests are those of sevenn 0.13.0.
"""

from __future__ import annotations

from finetune.potentials.published import BY_HEAD, MPTRJ, Published, Wheel

_WHEEL = "9378f7df2b75fe83274483a5f804790ae1023dd22ddeb6a48c1a03de97e22620"
_MEMBERS = (
    (
        *("sevennet-0", "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth", "PBE(+U)", 842_440),
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
    ),
    (
        *("sevennet-0-may", "SevenNet_0__22May2024/checkpoint_sevennet_0.pth"),
        *("PBE(+U)", 842_440),
        "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1",
    ),
    (
        *("sevennet-l3i5", "SevenNet_l3i5/checkpoint_l3i5.pth", "PBE(+U)", 1_171_144),
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
    ),
    (
        *("sevennet-mf-0", "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", BY_HEAD, 845_896),
        "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
    ),
)


def published() -> dict[str, Published]:
    """Return the published models by name."""
    return {
        name: Published(
            name=name,
            source=Wheel(
                distribution="sevenn",
                version="0.13.0",
                member=f"sevenn/pretrained_potentials/{member}",
                name=f"{name}.pth",
                sha256=_WHEEL,
            ),
            elements=MPTRJ,
            level_of_theory=level,
            licence="MIT",
            parameters=parameters,
            size=43_193_213,
            sha256=sha256,
        )
        for name, member, level, parameters, sha256 in _MEMBERS
    }
