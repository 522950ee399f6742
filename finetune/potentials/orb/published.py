"""The published ORB v3 and OrbMol models (Apache-2.0), which orb-models fetches from one bucket.

Those whose atoms see their 20 nearest neighbours alone have the same weights by name and shape as
the others, so a file does not tell them apart; they are left out.
"""

from __future__ import annotations

from finetune.core.resources import cache
from finetune.potentials.published import MPTRJ, Address, Published

_BUCKET = "https://orbitalmaterials-public-models.s3.us-west-1.amazonaws.com/forcefields"
_PBE, _OMOL = "PBE(+U)", "ωB97M-V/def2-TZVPD"
OMOL = tuple(range(1, 84))
"""Elements of the OMol25 data."""
_MODELS = (
    ("orb-v3-direct-inf-omat", "orb-v3/{}-20250404", _PBE, 25_644_000),
    ("orb-v3-conservative-inf-omat", "orb-v3/{}-20250404", _PBE, 25_511_000),
    ("orb-v3-direct-inf-mpa", "orb-v3/{}-20250404", _PBE, 25_644_000),
    ("orb-v3-conservative-inf-mpa", "orb-v3/{}-20250404", _PBE, 25_511_000),
    ("orb-v3-direct-omol", "{}-20250820", _OMOL, 25_906_000),
    ("orb-v3-conservative-omol", "{}-20250820", _OMOL, 25_840_000),
)


def published() -> dict[str, Published]:
    """Return the published models by name."""
    folder = cache("piwsl-finetune") / "published" / "orb"
    return {
        name: Published(
            name=name,
            source=Address(f"{_BUCKET}/{place.format(name)}.ckpt", folder / f"{name}.ckpt"),
            elements=OMOL if level == _OMOL else MPTRJ,
            level_of_theory=level,
            licence="Apache-2.0",
            parameters=parameters,
            inputs=frozenset({"charge", "spin"} if level == _OMOL else ()),
        )
        for name, place, level, parameters in _MODELS
    }
