"""Which kinds of molecules samples hold, and whether some that the data have are missing.

Distances such as the FCD fall when a rare kind is left out and the rest is drawn well; shares by kind do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from rdkit import Chem

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


class Mode(NamedTuple):
    """One kind of molecule among samples and among data.

    Arguments:
        value, error: Share of the samples (or number a molecule, of bonds) and its standard error.
        data, data_error: The same of the data.
        z: Difference over its standard error if both had one distribution, so 0 where neither has any.
    """

    value: float
    error: float
    data: float
    data_error: float
    z: float


def features(smiles: Sequence[str]) -> dict[str, np.ndarray]:
    """For every mode 1 or 0 for each molecule, or its number of bonds, ``(n,)``; distinct ones are looked at once."""
    distinct, place = np.unique(np.asarray(smiles), return_inverse=True)
    molecules = [Chem.MolFromSmiles(text) for text in distinct]
    return {name: np.array([f(mol) for mol in molecules])[place] for name, f in MODES.items()}


def modes(samples: Sequence[str], data: Sequence[str]) -> dict[str, Mode]:
    r"""Every mode of samples beside that of data.

    .. math:: z = \frac{\bar x - \bar y}{\sigma \sqrt{1/n + 1/m}}, \qquad \sigma \text{ of both together}

    Arguments:
        samples: SMILES of valid samples ``(n,)``, duplicates included.
        data: SMILES of real molecules ``(m,)`` that the samples should be distributed as.
    Raises: ValueError if either is empty.
    """
    if not len(samples) or not len(data):
        raise ValueError(f"{len(samples)} samples and {len(data)} molecules of data; give at least one of each")
    own, real = features(samples), features(data)
    return {name: _mode(own[name], real[name]) for name in MODES}


def _mode(x: np.ndarray, y: np.ndarray) -> Mode:
    n, m = len(x), len(y)
    deviation = float(np.concatenate([x, y]).std()) * (1 / n + 1 / m) ** 0.5
    difference = float(x.mean() - y.mean())
    z = difference / deviation if deviation else 0.0
    return Mode(float(x.mean()), float(x.std()) / n**0.5, float(y.mean()), float(y.std()) / m**0.5, z)


def differing(found: Mapping[str, Mode], level: float = 0.01) -> list[str]:
    """Modes whose shares differ by more than chance, the largest z first.

    Arguments:
        level: Probability that any is named although samples and data have one distribution (Bonferroni).
    """
    least = NormalDist().inv_cdf(1 - level / (2 * len(found)))
    named = [name for name, mode in found.items() if abs(mode.z) > least]
    return sorted(named, key=lambda name: -abs(found[name].z))


def lost(found: Mapping[str, Mode], level: float = 0.01, share: float = 0.5) -> list[str]:
    """Modes that the samples hold less than ``share`` as often as the data, by more than chance: dropped modes."""
    return [name for name in differing(found, level) if found[name].value < share * found[name].data]
