"""Which kinds of molecules there are: aromatic, charged and acyclic ones, ring sizes, groups, multiple bonds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from rdkit import Chem

from .modes import Measure, Mode, share

RING_SIZES = range(3, 8)  # the last stands for itself and all larger ones
GROUPS = {
    "alcohol": "[CX4][OX2H]",
    "ether": "[OX2;!$(O[#6]=[O,N])]([#6])[#6]",
    "aldehyde": "[CX3;H1,H2]=[OX1]",
    "ketone": "[#6][CX3](=[OX1])[#6]",
    "acid": "[CX3](=[OX1])[OX2H,OX1-]",
    "ester": "[CX3](=[OX1])[OX2H0][#6]",
    "amide": "[CX3](=[OX1])[NX3]",
    "amine": "[NX3;+0;!$(N[#6]=[O,N]);!$(N[#6]#N);!$(N~[!#6])]",
    "imine": "[CX3]=[NX2;+0]",
    "nitrile": "[CX2]#[NX1]",
    "alkene": "[CX3]=[CX3]",
    "alkyne": "[CX2]#[CX2]",
    "halide": "[#6][F,Cl,Br,I]",
    "nitro": "[NX3+](=[OX1])[OX1-]",
    "sulfonyl": "[SX4](=[OX1])=[OX1]",
    "thioether": "[SX2]([#6])[#6]",
}


def _has(pattern: Chem.Mol, mol: Chem.Mol) -> float:
    return float(mol.HasSubstructMatch(pattern))


def _has_ring(size: int, mol: Chem.Mol) -> float:
    sizes = [len(ring) for ring in mol.GetRingInfo().AtomRings()]
    return float(any(k == size or k > size == RING_SIZES[-1] for k in sizes))


def _bonds(kind: Chem.BondType, mol: Chem.Mol) -> float:
    return float(sum(bond.GetBondType() == kind for bond in mol.GetBonds()))


def is_aromatic(mol: Chem.Mol) -> bool:
    """Whether an atom is aromatic."""
    return any(atom.GetIsAromatic() for atom in mol.GetAtoms())


MODES: dict[str, Callable[[Chem.Mol], float]] = {
    "aromatic": is_aromatic,
    "charged": lambda mol: float(any(atom.GetFormalCharge() for atom in mol.GetAtoms())),
    "acyclic": lambda mol: float(not mol.GetRingInfo().NumRings()),
    **{f"ring_{k}{'+' * (k == RING_SIZES[-1])}": partial(_has_ring, k) for k in RING_SIZES},
    **{name: partial(_has, Chem.MolFromSmarts(smarts)) for name, smarts in GROUPS.items()},
    "double_bonds": partial(_bonds, Chem.BondType.DOUBLE),  # those of aromatic rings apart
    "triple_bonds": partial(_bonds, Chem.BondType.TRIPLE),
}


def features(smiles: Sequence[str]) -> dict[str, np.ndarray]:
    """For every mode 1 or 0 for each molecule, or its number of bonds, ``(n,)``; distinct ones are looked at once."""
    distinct, place = np.unique(np.asarray(smiles), return_inverse=True)
    molecules = [Chem.MolFromSmiles(text) for text in distinct]
    return {name: np.array([f(mol) for mol in molecules])[place] for name, f in MODES.items()}


def shares(smiles: Sequence[str]) -> dict[str, Measure]:
    """The share of each kind among molecules (of bonds, the number a molecule), with its standard error."""
    return {name: share(hits) for name, hits in features(smiles).items()}


def modes(samples: Sequence[str], data: Sequence[str]) -> dict[str, Mode]:
    """Every kind among samples beside that among data, see :mod:`~flowmaps.metrics.modes`.

    Arguments:
        samples: SMILES of valid samples ``(n,)``, duplicates included.
        data: SMILES of real molecules ``(m,)`` that the samples should be distributed as.
    Raises: ValueError if either is empty.
    """
    if not len(samples) or not len(data):
        raise ValueError(f"{len(samples)} samples and {len(data)} molecules of data; give at least one of each")
    own, real = shares(samples), shares(data)
    return {name: Mode(*own[name], *real[name]) for name in MODES}
