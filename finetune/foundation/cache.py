"""Where downloaded foundations and their conversions are kept.

Downloads lie where MACE itself keeps them, so that neither downloads what the other has.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

CONVERSION = 1
"""To be raised when a file may be converted to something else than before."""


def mace_cache() -> Path:
    """Return the folder in which MACE keeps the models that it downloads."""
    return _root() / "mace"


def conversion(sha256: str) -> Path:
    """Return the folder for the conversion of the file with this sha256.

    It belongs to one release of MACE, since another may build another model from the same settings,
    and to one way of converting.
    """
    release = f"conversion-{CONVERSION}-mace-torch-{version('mace-torch')}"
    return _root() / "piwsl-finetune" / release / sha256


def _root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
