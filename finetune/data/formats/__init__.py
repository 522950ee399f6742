"""The formats of structure files, one file a family; a new family is a file here and a line below.

Stores are no family: they are read in place, by `finetune.data.store`.
"""

from __future__ import annotations

from finetune.data.formats.arrays import NPZ
from finetune.data.formats.cfg import CFG
from finetune.data.formats.databases import DATABASE
from finetune.data.formats.deepmd import DEEPMD
from finetune.data.formats.dumps import DUMP
from finetune.data.formats.entries import ENTRIES
from finetune.data.formats.frames import Format
from finetune.data.formats.hdf5 import HDF5
from finetune.data.formats.ml_ab import ML_AB
from finetune.data.formats.programs import ASE
from finetune.data.formats.quantum_chemistry import QUANTUM_CHEMISTRY
from finetune.data.formats.solid_state import SOLID_STATE
from finetune.data.formats.xyz import XYZ

FORMATS: dict[str, Format] = {
    "deepmd": DEEPMD,
    "hdf5": HDF5,
    "npz": NPZ,
    "entries": ENTRIES,
    "cfg": CFG,
    "ml_ab": ML_AB,
    "quantum chemistry": QUANTUM_CHEMISTRY,
    "solid state": SOLID_STATE,
    "xyz": XYZ,
    "dump": DUMP,
    "db": DATABASE,
    "ase": ASE,
}
"""By name, in the order in which they are asked whether they recognise a file."""
