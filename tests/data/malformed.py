"""Structure files with one fault each, made by damaging good ones."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import h5py
import numpy as np
from ase import Atoms

from finetune.data.store import write_store
from finetune.data.structures import from_atoms
from finetune.recipe.sections import LabelKeys

FRAMES = 3


@dataclass(frozen=True)
class Case:
    """A file with a fault.

    Attributes:
        name: Of the fault.
        write: Writes the file into a folder and returns what names it.
        message: What the error says, a pattern; "" where the file is read as it is.
        intact: Structures that are read when faulty ones are skipped; None where it is not tested.
    """

    name: str
    write: Callable[[Path], str]
    message: str
    intact: int | None = None


def good(index: int) -> list[str]:
    """Return the lines of a water molecule with labels."""
    shift = 0.02 * index
    header = (
        f'Lattice="9.0 0.0 0.0 0.0 9.0 0.0 0.0 0.0 9.0" Properties=species:S:1:pos:R:3:REF_forces:'
        f'R:3 REF_energy={-2080.0 - index} REF_stress="0 0 0 0 0 0" pbc="T T T"'
    )
    return [
        "3",
        header,
        f"O 1.00 1.00 {1 + shift:.2f} 0.1 0.0 -0.1",
        "H 1.00 1.76 1.60 0.0 0.1 0.0",
        "H 1.00 0.24 1.60 -0.1 -0.1 0.1",
    ]


def _line(number: int, old: str, new: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        assert old in lines[number], (number, old)
        lines[number] = lines[number].replace(old, new, 1)

    return change


def _insert(number: int, text: str) -> Callable[[list[str]], None]:
    return lambda lines: lines.insert(number, text)


def _drop(number: int) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        del lines[number]

    return change


HEADER, OXYGEN = 1, 2
VALUES: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "no atoms": (lambda lines: lines.__setitem__(slice(0, 5), ["0", "empty"]), "has 0 atoms"),
    "NaN position": (_line(OXYGEN, "1.00", "nan"), "positions or a cell that are NaN"),
    "infinite position": (_line(OXYGEN, "1.00", "inf"), "positions or a cell that are NaN"),
    "absurd position": (_line(OXYGEN, "1.00", "1e30"), "spreads over"),
    "coordinate is text": (_line(OXYGEN, "1.00", "one"), "cannot be read"),
    "coordinate overflowed": (_line(OXYGEN, "1.00", "******"), "cannot be read"),
    "too few columns": (_line(OXYGEN, " -0.1", ""), "cannot be read"),
    "element unknown": (_line(OXYGEN, "O", "Qq"), "unknown element"),
    "element is X": (_line(OXYGEN, "O", "X"), "unknown element"),
    "no element": (_line(OXYGEN, "O 1.00", "1.00"), "cannot be read"),
    "atoms collide": (_line(4, "0.24", "1.75"), "apart"),
    "NaN energy": (_line(HEADER, "REF_energy=-208", "REF_energy=nan x=-208"), "NaN"),
    "infinite energy": (_line(HEADER, "REF_energy=-208", "REF_energy=inf x=-208"), "infinite"),
    "energy is text": (_line(HEADER, "REF_energy=", "REF_energy=low x="), "not numeric"),
    "energy is true": (_line(HEADER, "REF_energy=", "REF_energy=T x="), "not numeric"),
    "two energies": (_line(HEADER, "REF_energy=", 'REF_energy="1 2" x='), "one number"),
    "energy named twice": (_line(HEADER, "pbc", "REF_energy=-1.0 pbc"), "'REF_energy' twice"),
    "lattice named twice": (_line(HEADER, "pbc", 'Lattice="9 0 0 0 9 0 0 0 9" pbc'), "twice"),
    "forces named twice": (_line(HEADER, ":R:3 ", ":R:3:REF_forces:R:3 "), "cannot be read"),
    "NaN force": (_line(OXYGEN, "0.1 0.0", "nan 0.0"), "'REF_forces' contains NaN"),
    "infinite force": (_line(OXYGEN, "0.1 0.0", "-inf 0.0"), "'REF_forces' contains NaN"),
    "two force columns": (_line(HEADER, "REF_forces:R:3", "REF_forces:R:2"), "forces need"),
    "four force columns": (_line(HEADER, "REF_forces:R:3", "REF_forces:R:4"), "cannot be read"),
    "forces of other atoms": (
        _line(HEADER, "REF_forces:R:3", 'other:R:3 REF_forces="1 2 3 4 5 6"'),
        "forces need",
    ),
    "property of no type": (_line(HEADER, "pos:R:3", "pos:Q:3"), "cannot be read"),
    "property without a size": (_line(HEADER, "pos:R:3", "pos:R"), "cannot be read"),
    "no positions": (_line(HEADER, "pos:R:3", "pox:R:3"), "cannot be read|apart"),
    "five stresses": (_line(HEADER, '"0 0 0 0 0 0"', '"0 0 0 0 0"'), "stress needs"),
    "NaN stress": (_line(HEADER, '"0 0 0 0 0 0"', '"0 0 nan 0 0 0"'), "'REF_stress' contains NaN"),
    "lattice of eight": (_line(HEADER, "0.0 9.0 0.0 ", "9.0 0.0 "), "cannot be read"),
    "lattice of text": (_line(HEADER, "9.0 0.0", "nine 0.0"), "cannot be read"),
    "lattice with NaN": (_line(HEADER, "9.0 0.0", "nan 0.0"), "NaN"),
    "lattice vector of zero": (_line(HEADER, "9.0 0.0", "0.0 0.0"), "zero|parallel"),
    "lattice flat": (_line(HEADER, "0.0 0.0 9.0", "0.0 9.0 0.0"), "parallel"),
    "lattice in nm": (_line(HEADER, "9.0 0.0", "0.09 0.0"), "cell vector of"),
    "lattice absurd": (_line(HEADER, "9.0 0.0", "9e9 0.0"), "spreads over"),
    "pbc unknown": (_line(HEADER, '"T T T"', '"Q Q Q"'), "pbc"),
    "pbc of two": (_line(HEADER, '"T T T"', '"T T"'), "cannot be read"),
    "half a charge": (_line(HEADER, "pbc", "charge=0.5 pbc"), "'charge' must be"),
    "charge absurd": (_line(HEADER, "pbc", "charge=1e9 pbc"), "'charge' must be"),
    "charge is text": (_line(HEADER, "pbc", "charge=plus pbc"), "'charge' is not numeric"),
    "spin of zero": (_line(HEADER, "pbc", "spin=0 pbc"), "'spin' must be"),
    "spin is NaN": (_line(HEADER, "pbc", "spin=nan pbc"), "'spin' contains NaN"),
    "not UTF-8": (_line(HEADER, "pbc", "comment=\udce5 pbc"), "not UTF-8"),
    "zero bytes": (_line(OXYGEN, "1.00", "\0\0"), "cannot be read"),
    "an atom is lacking": (_drop(4), "should have 3 atoms"),
    "an empty line within": (_insert(3, ""), "should have 3 atoms"),
    "one atom too many": (_line(0, "3", "4"), "should have 4 atoms"),
    "count absurd": (_line(0, "3", "999999999999"), "should have 999999999999 atoms"),
}
"""Faults of one structure, after which the next one can be found."""
COUNTS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "one atom too few": (_line(0, "3", "2"), "should be a number of atoms"),
    "count is text": (_line(0, "3", "three"), "should be a number of atoms"),
    "count is real": (_line(0, "3", "3.0"), "should be a number of atoms"),
    "count lacks": (_drop(0), "should be a number of atoms"),
    "count negative": (_line(0, "3", "-3"), "has -3 atoms"),
}
"""Faults after which what follows may be counted otherwise."""
HARMLESS: dict[str, Callable[[list[str]], None]] = {
    "empty line before": _insert(0, ""),
    "empty lines after": lambda lines: lines.extend(["", "  "]),
    "spaces around the count": _line(0, "3", "  3  "),
    "Windows line ends": lambda lines: lines.__setitem__(
        slice(None), [f"{line}\r" for line in lines]
    ),
    "further columns": _line(OXYGEN, "-0.1", "-0.1 7 7"),
    "no energy": _line(HEADER, "REF_energy", "other"),
    "no stress": _line(HEADER, "REF_stress", "other"),
    "cell without periodicity": _line(HEADER, '"T T T"', '"F F F"'),
    "forces as text": _line(HEADER, "REF_forces:R:3", "REF_forces:S:3"),
    "small letters": _line(OXYGEN, "O", "o"),
}


def xyz_cases() -> Iterator[Case]:
    """Yield faults of extended XYZ, in the first, middle and last structure."""
    for place in range(FRAMES):
        for name, (change, message) in {**VALUES, **COUNTS}.items():
            intact = FRAMES - 1 if name in VALUES else None
            yield Case(f"xyz {place}: {name}", _xyz(place, change), message, intact)
        for name, harmless in HARMLESS.items():
            yield Case(f"xyz {place}: {name}", _xyz(place, harmless), "", FRAMES)


def _xyz(place: int, change: Callable[[list[str]], None]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        frames = [good(index) for index in range(FRAMES)]
        change(frames[place])
        text = "".join(f"{line}\n" for frame in frames for line in frame)
        path = folder / "damaged.xyz"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return str(path)

    return write


def _atoms() -> list[Atoms]:
    text = "".join(f"{line}\n" for index in range(FRAMES) for line in good(index))
    return list(ase.io.read(io.StringIO(text), ":", format="extxyz"))


def _write_store(path: Path) -> None:
    items = [
        from_atoms(atoms, LabelKeys(), f"'made', structure {index}")
        for index, atoms in enumerate(_atoms())
    ]
    write_store(path, [items])


def _arrays() -> dict[str, np.ndarray]:
    atoms = _atoms()
    return {
        "R": np.stack([item.positions for item in atoms]),
        "z": atoms[0].numbers,
        "E": np.array([-47970.0, -47971.0, -47972.0]),
        "F": np.stack([item.arrays["REF_forces"] for item in atoms]),
    }


def _write_ani(path: Path) -> None:
    arrays = _arrays()
    with h5py.File(path, "w") as file:
        group = file.create_group("H2O")
        group["coordinates"], group["atomic_numbers"] = arrays["R"], arrays["z"]
        group["REF_energy"], group["REF_forces"] = arrays["E"] / 627.5, arrays["F"]


def _whole(path: Path) -> None:
    """Write a good file of the kind that the name tells."""
    if path.name == "store.h5":
        _write_store(path)
    elif path.name == "ani.h5":
        _write_ani(path)
    elif path.suffix == ".npz":
        np.savez(path, **_arrays())
    elif path.suffix == ".gz":
        text = "".join(f"{line}\n" for index in range(FRAMES) for line in good(index))
        path.write_bytes(gzip.compress(text.encode()))
    else:
        ase.io.write(path, _atoms())


CUT = {
    "a.traj": r"structure [02] cannot be read by ASE \(.+\)\. Is the file complete",
    "a.db": r"structure 0 cannot be read by ASE \(DatabaseError: .+\)\. Is the file complete",
    "store.h5": r"cannot be read as HDF5 \(.+\)\. Is it complete\?",
    "ani.h5": r"cannot be read as HDF5 \(.+\)\. Is it complete\?",
    "a.npz": r"is not a complete NumPy archive \(BadZipFile: .+\)\. Copy or write it again",
    "a.xyz.gz": r"cannot be decompressed \(.+\)\. Is it complete\?",
}
"""What damaged files of binary kinds get for a message."""


def cut_cases() -> Iterator[Case]:
    """Yield files of every binary kind that are cut off, and ones whose middle is noise."""
    for name, message in CUT.items():
        for part in (0.0, 0.02, 0.2, 0.5, 0.8, 0.97):
            said = message if part else r"is empty\. Was it written to the end\?"
            if name == "a.db" and part == 0.97:  # what is cut off are unused pages, no labels
                said = "no energies under 'REF_energy'"
            yield Case(f"{name}: cut at {part:.0%}", _cut(name, part), said)
        yield Case(f"{name}: noise", _noise(name), message)
        text = "is not HDF5, although its name says so" if name.endswith("h5") else message
        yield Case(f"{name}: text under its name", _text(name, "hello\nworld\n"), text)


def _cut(name: str, part: float) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        path = folder / name
        _whole(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        return str(path)

    return write


def _noise(name: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        path = folder / name
        _whole(path)
        content = bytearray(path.read_bytes())
        start = len(content) // 3
        noise = np.random.default_rng(0).bytes(len(content) // 3)
        content[start : start + len(noise)] = noise
        path.write_bytes(bytes(content))
        return str(path)

    return write


def _text(name: str, text: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_text(text)
        return str(folder / name)

    return write


def npz_cases() -> Iterator[Case]:
    """Yield faults of NumPy archives."""
    changes: dict[str, tuple[dict[str, object], str]] = {
        "no species": ({"z": None}, "a NumPy archive needs"),
        "no coordinates": ({"R": None}, "a NumPy archive needs"),
        "two coordinates": ({"R": np.ones((3, 3, 2))}, "needs .structures, atoms, 3"),
        "coordinates of text": ({"R": np.full((3, 3, 3), "x")}, "it needs"),
        "species of other atoms": ({"z": np.array([8, 1])}, "do not fit"),
        "species of text": ({"z": np.array(["O", "H", "H"])}, "do not fit"),
        "unknown species": ({"z": np.array([8, 1, 999])}, "unknown element"),
        "too many energies": ({"E": np.zeros(4)}, "4 energies for 3"),
        "forces of other atoms": ({"F": np.zeros((3, 2, 3))}, "forces need"),
        "forces of other structures": ({"F": np.zeros((2, 3, 3))}, "forces need"),
        "NaN energy": ({"E": np.array([1.0, np.nan, 1.0])}, "structure 1: 'E' contains NaN"),
        "NaN force": ({"F": np.full((3, 3, 3), np.nan)}, "structure 0: 'F' contains NaN"),
        "NaN coordinate": ({"R": np.full((3, 3, 3), np.nan)}, "NaN"),
        "unknown unit": ({"e_unit": np.array("barrel")}, "units that are unknown"),
        "pickled energies": ({"E": np.array([1, None, "x"], dtype=object)}, "pickled"),
        "no structures": ({"R": np.zeros((0, 3, 3)), "E": None, "F": None}, "no structures"),
        "no labels": ({"E": None, "F": None}, "no energies under 'E'"),
        "energies as a column": ({"E": np.ones((3, 1))}, ""),
    }
    for name, (change, message) in changes.items():
        yield Case(f"npz: {name}", _npz(change), message)
    yield Case("npz: claims too much", _claiming, "claims")
    yield Case("npz: a zip of text", _zip, "is not a complete NumPy archive")


def _npz(change: dict[str, object]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        arrays = {k: v for k, v in {**_arrays(), **change}.items() if v is not None}
        np.savez(folder / "damaged.npz", **arrays)  # type: ignore[arg-type]
        return str(folder / "damaged.npz")

    return write


def _claiming(folder: Path) -> str:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3, 3)}
    )
    with zipfile.ZipFile(folder / "damaged.npz", "w") as archive:
        archive.writestr("R.npy", header.getvalue())
    return str(folder / "damaged.npz")


def _zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "damaged.npz", "w") as archive:
        archive.writestr("R.npy", b"hello")
    return str(folder / "damaged.npz")


def hdf5_cases() -> Iterator[Case]:
    """Yield faults of ANI files and of stores."""
    ani: dict[str, tuple[dict[str, object], str]] = {
        "no species": ({"atomic_numbers": None}, "no atomic_numbers"),
        "no coordinates": ({"coordinates": None}, "neither a store"),
        "species of other atoms": (
            {"atomic_numbers": np.array([8, 1])},
            r"atomic_numbers of shape \(2,\) and coordinates .* do not fit",
        ),
        "unknown symbol": ({"atomic_numbers": np.array([b"O", b"Q", b"H"])}, "cannot be read"),
        "energies of others": ({"REF_energy": np.zeros(2)}, "it needs"),
        "forces of others": ({"REF_forces": np.zeros((3, 2, 3))}, "it needs"),
        "NaN in a force": (
            {"REF_forces": np.where(np.arange(27).reshape(3, 3, 3) == 4, np.nan, 0.0)},
            "structure 0: 'REF_forces' contains NaN",
        ),
        "no label at all": (
            {"REF_energy": np.full(3, np.nan), "REF_forces": None},
            "no usable structure: none of them has a label",
        ),
        "another level": ({"REF_energy": None, "REF_forces": None}, "no energies under"),
        "no conformers": (
            {"coordinates": np.zeros((0, 3, 3)), "REF_energy": None, "REF_forces": None},
            "no structures",
        ),
    }
    for name, (change, message) in ani.items():
        yield Case(f"ani: {name}", _hdf5("ani.h5", change, "H2O/"), message)
    store: dict[str, tuple[dict[str, object], str]] = {
        "no positions": ({"positions": None}, "cannot be read as a store"),
        "fewer positions": ({"positions": np.zeros((8, 3))}, "8 rows for 9 atoms"),
        "NaN position": ({"positions": np.full((9, 3), np.nan)}, "NaN"),
        "offsets fall": ({"offsets": np.array([0, 6, 3, 9])}, "do not rise"),
        "offsets end late": ({"offsets": np.array([0, 3, 6, 10**12])}, "rows for"),
        "no structures": ({"offsets": np.array([0])}, "do not rise"),
        "energy rows of others": ({"energy/row": np.array([0, 1, 7])}, "does not number"),
        "energies lack": ({"energy/values": np.zeros(1)}, "does not have 3 rows"),
        "NaN energies": ({"energy/values": np.full(3, np.nan)}, "NaN"),
        "forces lack": ({"forces/values": np.zeros((3, 3))}, "does not have 9 rows"),
        "level of none": ({"level": np.array([0, 4, 0])}, "levels of theory"),
        "source of none": ({"source": np.full((3, 2), 5)}, "files that do not exist"),
        "fewer cells": ({"cell": np.zeros((1, 3, 3))}, "1 rows for 3"),
        "no charges": ({"charge": None}, "cannot be read as a store"),
    }
    for name, (change, message) in store.items():
        yield Case(f"store: {name}", _hdf5("store.h5", change, ""), message)
    yield Case("store: a later version", _later, "reads version")


def _hdf5(name: str, change: dict[str, object], group: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        _whole(folder / name)
        with h5py.File(folder / name, "r+") as file:
            for key, value in change.items():
                del file[group + key]
                if value is not None:
                    file[group + key] = value
        return str(folder / name)

    return write


def _later(folder: Path) -> str:
    _write_store(folder / "store.h5")
    with h5py.File(folder / "store.h5", "r+") as file:
        file.attrs["format_version"] = 99
    return str(folder / "store.h5")


XSF = """# total energy = -100.5 eV
CRYSTAL
PRIMVEC
 9.0 0.0 0.0
 0.0 9.0 0.0
 0.0 0.0 9.0
PRIMCOORD
2 1
Ti 0.0 0.0 0.0 0.1 0.0 0.0
O  2.0 0.0 0.0 -0.1 0.0 0.0
"""


def program_cases() -> Iterator[Case]:
    """Yield faults of XSF files and of outputs of programs."""
    xsf = {
        "whole": ("", "", ""),
        "no cell": ("PRIMVEC", "PRIMVEK", "cannot be read by ASE"),
        "an atom is lacking": ("2 1\n", "3 1\n", "should have 3 atoms, but has 2 rows"),
        "count absurd": ("2 1\n", "99999999999 1\n", "should have 99999999999 atoms"),
        "count is text": ("2 1\n", "two\n", "should have two atoms"),
        "element unknown": ("Ti", "Qq", "cannot be read by ASE"),
        "column is lacking": ("-0.1 0.0 0.0", "-0.1 0.0", "cannot be read by ASE"),
        "energy is text": ("-100.5", "low", ""),
        "energy is damaged": ("-100.5", "-1-e.", "cannot be read by ASE"),
        "NaN force": ("0.1 0.0 0.0\nO", "nan 0.0 0.0\nO", "NaN"),
        "atoms collide": ("O  2.0", "O  0.1", "apart"),
        "cell is flat": ("0.0 0.0 9.0", "0.0 9.0 0.0", "parallel"),
    }
    for name, (old, new, message) in xsf.items():
        assert old in XSF
        yield Case(f"xsf: {name}", _text("a.xsf", XSF.replace(old, new, 1)), message)
    texts = {
        "vasprun.xml": ('<?xml version="1.0"?>\n<modeling>\n<generator>', "structure 0 cannot be"),
        "OUTCAR": (" vasp.6.3.0\n executed on\n POSCAR = Si\n", r"by ASE \(.*Incomplete OUTCAR"),
        "POSCAR": (
            "Si\n1.0\n5 0 0\n0 5 0\n0 0 5\nSi\n999999999\nDirect\n0 0 0\n",
            "should have 999999999 atoms, but the file has only 9 lines",
        ),
        "pw.out": ("     Program PWSCF v.7.0 starts\n", r"no structures \(.*espresso.*\)\. Is it"),
        "orca.out": (
            "                                 * O   R   C   A *\n  FINAL SINGLE POINT",
            r"no structures \(ORCA output\)",
        ),
        "gaussian.log": (" Entering Gaussian System, Link 0\n", r"no structures \(Gaussian.*\)"),
        "a.cif": ("data_x\n_cell_length_a 5\n", r"no structures \(CIF.*\)\. Is it complete"),
        "a.json": ('{"1": {"numbers": [1', "structure 0 cannot be read by ASE .*line 1 column"),
        "notes.txt": ("these are no structures\n", "its format is unknown"),
        "nothing": ("", "is empty. Was it written to the end"),
        "binary": ("\0\1\2", "its format is unknown"),
    }
    for name, (text, message) in texts.items():
        yield Case(f"program: {name}", _text(name, text), message)


def source_cases() -> Iterator[Case]:
    """Yield names that stand for nothing that can be read."""

    def folder_of(*names: str) -> Callable[[Path], str]:
        def write(folder: Path) -> str:
            for name in names:
                _whole(folder / name) if not name.endswith(".md") else (folder / name).touch()
            return str(folder)

        return write

    def indexed(index: str) -> Callable[[Path], str]:
        def write(folder: Path) -> str:
            _whole(folder / "a.xyz")
            return f"{folder / 'a.xyz'}@{index}"

        return write

    yield Case("folder: empty", folder_of(), "no file with a suffix of a structure file")
    yield Case("folder: of several kinds", folder_of("a.xyz", "a.traj"), "several kinds")
    yield Case("folder: of one kind", folder_of("a.xyz", "README.md"), "")
    yield Case("pattern: of nothing", lambda folder: f"{folder}/*.xyz", "no structure file matches")
    yield Case("file: missing", lambda folder: f"{folder}/a.xyz", "no structure file")
    for index in ("7", "5:7", "-9"):
        yield Case(f"index: {index}", indexed(index), "contains no structures at that index")
    yield Case("index: ::0", indexed("::0"), "the step of '::0' is zero")
    for index in ("first", "1:2:3:4"):
        yield Case(f"index: {index}", indexed(index), f"'{index}' is not an index expression")
    yield Case("text of 16 bits", _utf16, "UTF-16")
    yield Case("large.xyz.gz: cut at 97%", _large, r"cannot be decompressed \(EOFError")


def _large(folder: Path) -> str:
    """Write an archive whose fault lies behind what its format is recognised by."""
    random = np.random.default_rng(0)
    frames = [good(index) for index in range(600)]
    frames = [[*lines[:1], f"{lines[1]} x={random.random()}", *lines[2:]] for lines in frames]
    content = gzip.compress("".join(f"{line}\n" for lines in frames for line in lines).encode())
    (folder / "large.xyz.gz").write_bytes(content[: int(0.97 * len(content))])
    return str(folder / "large.xyz.gz")


def _utf16(folder: Path) -> str:
    (folder / "a.xyz").write_bytes("\n".join(good(0)).encode("utf-16"))
    return str(folder / "a.xyz")


CASES = [
    *xyz_cases(),
    *cut_cases(),
    *npz_cases(),
    *hdf5_cases(),
    *program_cases(),
    *source_cases(),
]
