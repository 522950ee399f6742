"""The molecule list: hand-written names, systematic substitution, and the seeded split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from rdkit import Chem, RDLogger

MAX_HEAVY_ATOMS = 9


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Molecules taken from the substituted scaffolds, by number of heavy atoms (``None``: all of them).
QUOTA = {1: None, 2: None, 3: None, 4: None, 5: 425, 6: 475, 7: 425, 8: 350, 9: 275}

#: Always in the training set, at GFN2-xTB level.
NAMED = _words("""
    [H][H] O N C C=O CO CN C#N [C-]#[O+] O=C=O N#N CC C=C C#C CCO COC CC=O CC#N C=N CNC CCN OO NN
    NO N=O OC=O CC(=O)O COC=O NC=O CC(=O)N CNC=O CN(C)C NC(=O)N NC(=N)N C=C=C CC=C CC#C CCC C1CC1
    C1CO1 C1CN1 O=CC=CO O=CCC=O OC=C=CO CC(=O)CC(=O)C CC(=O)C=C(C)O CC(O)=CC(C)=O OC(O)=C OC=C
    C=CO C=CN NCC(=O)O N=CC(=O)O OC(=N)CO CC(N)C(=O)O OCC(N)C(=O)O CNCC(=O)O NCCC(=O)O OCC=O OCCO
    NCCN NCCO CC(C)=O CCC=O C=CC=O OC(=O)C(=O)O O=CC=O CC(=O)C=O CC(=O)C(=O)O CC(O)C(=O)O CCCC
    CC(C)C CCC(=O)O c1ccccc1 Cc1ccccc1 Oc1ccccc1 Nc1ccccc1 O=Cc1ccccc1 N#Cc1ccccc1 OC(=O)c1ccccc1
    Oc1ccccc1C=O c1ccncc1 c1cnccn1 c1cncnc1 c1ccnnc1 c1cc[nH]c1 c1ccoc1 c1c[nH]cn1 c1cn[nH]c1
    c1cocn1 c1cnoc1 O=c1cc[nH]c(=O)[nH]1 Nc1cc[nH]c(=O)n1 Cc1c[nH]c(=O)[nH]c1=O C[N+](=O)[O-]
    O=[N+]([O-])c1ccccc1 CC(=O)N(C)C CN(C)C=O CNC(C)=O C1CCOC1 C1CCCC1 C1CCCCC1 C1CCNC1 C1CCNCC1
    C1COCCO1 C1COCCN1
""")

#: Members of :data:`NAMED` with several trajectories each: the molecules of the examples.
EMPHASISED = (
    "CO",
    "CCO",
    "O=CC=CO",
    "O=CCC=O",
    "CC(=O)O",
    "NCC(=O)O",
    "CC(=O)CC(=O)C",
    "CC(=O)C=C(C)O",
    "O",
)

#: Second molecules of the dimers; all of them are in the training set.
PARTNERS = (
    "O",
    "N",
    "C",
    "CO",
    "C=O",
    "NC=O",
    "OC=O",
    "C=C",
    "C#C",
    "C#N",
    "O=C=O",
    "[H][H]",
    "CN",
    "CC(=O)O",
    "CCO",
    "COC",
    "CC#N",
    "CNC",
    "c1cc[nH]c1",
    "NCC(=O)O",
)

SCAFFOLDS = _words("""
    C CC CCC CCCC CC(C)C CCCCC CC(C)CC CC(C)(C)C CCCCCC CCCCCCC C=C CC=C CC=CC CC(C)=C C=CC=C
    CCC=C C#C CC#C CC#CC C=CC#C C=C=C C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1=CC1 C1=CCC1 C1=CCCC1
    C1=CCCCC1 C1=CC=CC1 C1CC1C1CC1 C1CC2CC12 c1ccccc1 c1ccncc1 c1cnccn1 c1cncnc1 c1ccnnc1
    c1cc[nH]c1 c1ccoc1 c1c[nH]cn1 c1cn[nH]c1 c1cocn1 c1cnoc1 c1nc[nH]n1 c1nnc[nH]1 c1ncon1 c1nnco1
    Cn1cccc1 Cn1ccnc1 C1CO1 C1CN1 C1COC1 C1CNC1 C1CCOC1 C1CCNC1 C1CCOCC1 C1CCNCC1 C1COCO1 C1COCCO1
    C1COCCN1 C1CNCCN1 C1C=CCO1 C1=COCC1 C1=CCNC1 C=O CC=O CC(C)=O CCC(C)=O C=CC=O O=C1CCC1
    O=C1CCCC1 O=C1CCCO1 O=C1CCCN1 O=C1CCN1 O=C1CCO1 O=C1C=CCO1 OC=O CC(=O)O COC=O CC(=O)OC NC=O
    CC(N)=O CNC=O CC(=O)NC CN(C)C=O NC(N)=O COC(N)=O CC(=O)OC(C)=O C=N CC=N CC=NC N=CN CC(=N)N
    C=NO CC=NO CN=NC NN CNN CON COC CCOC COCOC CN CCN CNC CN(C)C CO CCO OCCO NCCO NCCN OCC=O NCC=O
    NCC#N N#CC#N O=CC=O O=CCC=O OC=CC=O NC=CC=O CC#N CCC#N C=CC#N C[N+](=O)[O-]
""")

GROUPS = _words("""
    C CC C=C C#C O OC N NC N(C)C C=O C(C)=O C(=O)O C(=O)OC C(N)=O C#N CO CN COC C=N [N+](=O)[O-]
    C1CC1 NC=O OC=O CC#N CC=O C(C)C OCC C(C)(C)C NC(C)=O OC(C)=O
""")

_UNWANTED = [
    Chem.MolFromSmarts(pattern)
    for pattern in (
        "[OX2][OX2]",
        "[#7][#7][#7;!r]",
        "[OX2;!r][NX3;!$([N+])]",
        "[NX3;!r;!$([N+])][NX3;!r]",
        "[OX2H][CX4][OX2,NX3]",
        "[NX3H2][CX4][OX2,NX3;!$([N+])]",
        "[OX2,NX3][CX2]",
        "[OX2H][NX3,NX2]",
        "[OX2,NX3][CX4]([OX2,NX3])[OX2,NX3]",
        "[N+][OX2,NX3]",
        "C#CC#C",
        "[CX2]=[CX2]",
    )
]


def canonical(smiles: str) -> str:
    """Canonical SMILES; raises ``ValueError`` for what RDKit cannot read."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"not a valid SMILES string: {smiles!r}")
    return Chem.MolToSmiles(molecule)


def heavy_atoms(smiles: str) -> int:
    """Number of atoms other than hydrogen."""
    return sum(a.GetAtomicNum() > 1 for a in Chem.MolFromSmiles(smiles).GetAtoms())


def _substituted(smiles: str) -> Iterator[str]:
    """Every molecule got by replacing one hydrogen atom with one of :data:`GROUPS`."""
    core = Chem.MolFromSmiles(smiles)
    sites = [a.GetIdx() for a in core.GetAtoms() if a.GetTotalNumHs() > 0]
    ranks = list(Chem.CanonicalRankAtoms(core, breakTies=False))
    sites = list({ranks[i]: i for i in sites}.values())
    for site in sites:
        for group in GROUPS:
            substituent = Chem.MolFromSmiles(group)
            if core.GetNumHeavyAtoms() + substituent.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
                continue
            product = Chem.RWMol(Chem.CombineMols(core, substituent))
            product.AddBond(site, core.GetNumAtoms(), Chem.BondType.SINGLE)
            atom = product.GetAtomWithIdx(site)
            if atom.GetNumExplicitHs() > 0:
                atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
            try:
                Chem.SanitizeMol(product)
            except Chem.MolSanitizeException:
                continue
            yield Chem.MolToSmiles(product)


def _acceptable(smiles: str) -> bool:
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or Chem.GetFormalCharge(molecule) != 0:
        return False
    if any(a.GetNumRadicalElectrons() for a in molecule.GetAtoms()):
        return False
    return not any(molecule.HasSubstructMatch(pattern) for pattern in _UNWANTED)


def _hash(smiles: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{smiles}".encode()).digest()[:8], "big")


def named_molecules() -> set[str]:
    """Canonical SMILES of the molecules that are always in the training set."""
    return {canonical(s) for s in (*NAMED, *EMPHASISED, *PARTNERS)}


def enumerate_molecules(seed: int) -> list[str]:
    """Canonical SMILES of all molecules, in a seeded random order, the named ones first."""
    RDLogger.DisableLog("rdApp.*")
    named = named_molecules()
    once = {canonical(s) for s in SCAFFOLDS}
    for smiles in sorted(once):
        once = once | set(_substituted(smiles))
    small = sorted(s for s in once if heavy_atoms(s) <= 5)
    twice = once | {p for s in small for p in _substituted(s)}
    candidates = sorted((s for s in twice - named if _acceptable(s)), key=lambda s: _hash(s, seed))
    taken: list[str] = []
    for size, quota in QUOTA.items():
        taken += [s for s in candidates if heavy_atoms(s) == size][:quota]
    rng = np.random.default_rng(seed)
    return sorted(named) + [taken[i] for i in rng.permutation(len(taken))]


def split_of(smiles: str, seed: int, named: Iterable[str]) -> str:
    """``train``, ``valid`` (5 %) or ``test`` (9 %) by a seeded hash of the canonical SMILES."""
    if smiles in named:
        return "train"
    fraction = _hash(smiles, seed + 1) / 2**64
    return "test" if fraction < 0.09 else "valid" if fraction < 0.14 else "train"
