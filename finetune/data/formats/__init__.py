"""The formats of structure files, one file a family; a new family is a file here and a line below.

Stores are no family: they are read in place, by `finetune.data.store`.
"""

from __future__ import annotations

from finetune.core.errors import DataError
from finetune.data.formats.ani import ANI
from finetune.data.formats.arrays import NPZ
from finetune.data.formats.frames import File, Format, Frames
from finetune.data.formats.programs import ASE
from finetune.data.formats.xyz import XYZ
from finetune.recipe.sections import LabelKeys

FORMATS: dict[str, Format] = {"ani": ANI, "npz": NPZ, "xyz": XYZ, "ase": ASE}
"""By name, in the order in which they are asked whether they recognise a file."""


def open_frames(file: File, keys: LabelKeys) -> Frames:
    """Open a file that is no store with the first format that recognises it."""
    if file.path.stat().st_size == 0:
        raise DataError(f"'{file.name}' is empty. Was it written to the end?")
    suffix, formats = file.path.suffix, FORMATS.values()
    known = (item for item in formats if suffix in item.suffixes)
    found = next(known, None) or next(item for item in formats if item.recognises(file))
    return found.open(file, keys)
