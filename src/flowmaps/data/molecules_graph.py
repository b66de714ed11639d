r"""SMILES to graphs of categories and back.

A molecule becomes the categories of its heavy atoms and of the bonds between them; hydrogens are what valence rules
leave over. Where they would be guessed wrongly (radicals, unusual valences), the atom's category states their number.
Stereochemistry, isotopes (of hydrogen, too) and atom maps are not part of the graph: every spelling of a molecule gives
the same canonical SMILES, so that it is one molecule for the split and for the metrics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

BONDS = ("none", "single", "double", "triple", "aromatic")
_TYPES = {
    1: Chem.BondType.SINGLE,
    2: Chem.BondType.DOUBLE,
    3: Chem.BondType.TRIPLE,
    4: Chem.BondType.AROMATIC,
}
_CATEGORIES = {kind: category for category, kind in _TYPES.items()}
_NAME = re.compile(r"([A-Z][a-z]?)([+-]\d+)?(H\d+)?")
LOST = ("stereochemistry", "isotopes", "atom maps", "smaller fragments")
_MARKS = frozenset("[@/\\| ")  # a text without them has nothing that its graph loses
LONGEST = 5_000  # characters of one SMILES: RDKit's time and the table of bonds grow with their square
Fragments = Literal["refuse", "largest"]
Order = Literal["file", "canonical"]


class Graph(NamedTuple):
    """A molecule as categories.

    Arguments:
        atoms: Names of the atoms.
        bonds: ``(i, j, category)`` with i < j.
        smiles: Canonical SMILES of what the graph holds.
        lost: What of the text it does not hold, some of ``LOST``.
    """

    atoms: tuple[str, ...]
    bonds: tuple[tuple[int, int, int], ...]
    smiles: str
    lost: tuple[str, ...] = ()


class Unreadable(ValueError):
    """Why a row is not a molecule that the graph can hold."""


def name_of(atom: Chem.Atom, hydrogens: int | None = None) -> str:
    """The category of an atom: element, formal charge unless 0, hydrogens where they are stated.

    >>> name_of(Chem.MolFromSmiles("[O-]").GetAtomWithIdx(0))
    'O-1'
    """
    charge = atom.GetFormalCharge()
    return atom.GetSymbol() + (f"{charge:+d}" if charge else "") + ("" if hydrogens is None else f"H{hydrogens}")


@cache
def atom_of(name: str) -> Chem.Atom:
    """The atom of a category.

    Raises: ValueError if the name is not an element with optional charge and hydrogens.
    """
    match = _NAME.fullmatch(name)
    unreadable = ValueError(f"atom category {name!r} is not written like C, N+1 or C-1H2")
    if match is None:
        raise unreadable
    try:
        atom = Chem.Atom(match[1])
    except RuntimeError:
        raise unreadable from None
    atom.SetFormalCharge(int(match[2] or 0))
    if match[3]:
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(int(match[3][1:]))
    return atom


def build(atoms: Sequence[str], bonds: Sequence[tuple[int, int, int]]) -> Chem.RWMol:
    """The molecule of a graph, not sanitised: anything the categories can say."""
    mol = Chem.RWMol()
    for name in atoms:
        mol.AddAtom(atom_of(name))
    for i, j, category in bonds:
        mol.AddBond(int(i), int(j), _TYPES[int(category)])
        if category == 4:
            for k in (i, j):
                mol.GetAtomWithIdx(int(k)).SetIsAromatic(True)
    return mol


def sanitised(mol: Chem.Mol) -> str | None:
    """Canonical SMILES without stereo marks if RDKit accepts the molecule as it is, else ``None``; works in place."""
    with rdBase.BlockLogs():
        if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
            return None
        return Chem.MolToSmiles(mol, isomericSmiles=False)


def parse(text: str) -> Chem.Mol:
    """A sanitised molecule.

    Raises: Unreadable with the reason.
    """
    if reason := _no_smiles(text):
        raise Unreadable(reason)
    with rdBase.BlockLogs():
        try:
            mol = Chem.MolFromSmiles(text)
        except UnicodeEncodeError:
            raise Unreadable("not a SMILES string") from None
        if mol is not None and mol.GetNumAtoms():
            return mol
        raw = Chem.MolFromSmiles(text, sanitize=False)
        if raw is None or not raw.GetNumAtoms():
            raise Unreadable("not a SMILES string")
        problems = [problem.Message() for problem in Chem.DetectChemistryProblems(raw)]
        raise Unreadable("; ".join(problems) or "RDKit cannot sanitise it")


def _no_smiles(text: str) -> str | None:
    """What RDKit would not say, or would read over: after white space it takes everything as a name."""
    if not text:
        return "empty, not a SMILES string"
    if len(text) > LONGEST:
        return f"{len(text):,} characters, more than {LONGEST:,}"
    if '"' in text:
        return "a quotation mark without its partner"
    if "\t" in text or set(",;") & set(text.split(" ")[0]):
        return "more cells than the header"
    return "a reaction, not a molecule" if ">>" in text else None


def pattern(smarts: str) -> Chem.Mol:
    """The query of a SMARTS pattern; hydrogens of molecules are counted, not drawn.

    Raises: ValueError if it is none, or asks for an isotope, which no graph keeps.
    """
    query = Chem.MolFromSmarts(smarts, mergeHs=True)
    if query is None or not smarts:
        raise ValueError(f"{smarts!r} is no SMARTS pattern")
    if any("AtomIsotope" in atom.DescribeQuery() for atom in query.GetAtoms()):
        raise ValueError(f"{smarts!r} asks for an isotope, which no molecule of the data keeps; leave it out")
    return query


def canonical(text: str) -> str:
    """The canonical SMILES of all spellings of a molecule that its graph does not tell apart.

    Raises: Unreadable with the reason.
    """
    mol = parse(text)
    plain = mol if _MARKS.isdisjoint(text) else _plain(mol)[0]
    return Chem.MolToSmiles(plain, isomericSmiles=False)


def encode(text: str, aromatic: bool = False, fragments: Fragments = "refuse", order: Order = "file") -> Graph:
    """The graph of a SMILES string.

    Arguments:
        text: SMILES of one molecule.
        aromatic: Keep aromatic bonds as their own category; otherwise one Kekulé structure is taken.
        fragments: Of a salt or mixture, ``refuse`` all or keep the ``largest`` fragment: of the most heavy atoms, then
            the heaviest, charges as they are.
        order: Of the atoms: as in the text, or that of the canonical SMILES, in which every spelling of a molecule is
            the same graph, Kekulé structure included.
    Raises: Unreadable if it cannot be parsed, is not connected, holds bonds or atoms without a category, or does not
        come back from its graph.
    Invariant: ``sanitised(build(graph.atoms, graph.bonds)) == graph.smiles``.
    """
    mol, lost = _plain(parse(text))
    smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
    if "." in smiles:
        if fragments == "refuse":
            raise Unreadable(f"{smiles.count('.') + 1} fragments")
        mol, lost = _largest(mol), (*lost, "smaller fragments")
        smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
    if order == "canonical":
        mol = Chem.RenumberAtoms(mol, list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]))
    if not aromatic:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    graph = Graph(tuple(_names(mol)), tuple(_bonds(mol)), smiles, lost)
    back = sanitised(build(graph.atoms, graph.bonds))
    if back != smiles:
        raise Unreadable(f"comes back from its graph as {back}")
    return graph


def _plain(mol: Chem.Mol) -> tuple[Chem.Mol, tuple[str, ...]]:
    """The molecule without stereochemistry, isotopes, atom maps and written hydrogens; and which of ``LOST`` it had."""
    atoms = list(mol.GetAtoms())
    had = (
        any(atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for atom in atoms)
        or any(bond.GetStereo() > Chem.BondStereo.STEREOANY for bond in mol.GetBonds()),
        any(atom.GetIsotope() for atom in atoms),
        any(atom.GetAtomMapNum() for atom in atoms),
    )
    Chem.RemoveStereochemistry(mol)
    for atom in atoms:
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    if any(atom.GetAtomicNum() == 1 for atom in atoms):
        with rdBase.BlockLogs():
            mol = Chem.RemoveHs(mol, _every_hydrogen())  # those kept for the isotope or the stereo mark they carried
    return mol, tuple(name for name, true in zip(LOST, had, strict=False) if true)


@cache
def _every_hydrogen() -> Chem.RemoveHsParameters:
    parameters = Chem.RemoveHsParameters()
    parameters.removeDefiningBondStereo = parameters.removeNontetrahedralNeighbors = True
    return parameters


def _largest(mol: Chem.Mol) -> Chem.Mol:
    """The fragment of the most heavy atoms, then the heaviest, then the first by its SMILES: no spelling matters."""

    def size(part: Chem.Mol) -> tuple[int, float, str]:
        return part.GetNumHeavyAtoms(), rdMolDescriptors.CalcExactMolWt(part), Chem.MolToSmiles(part)

    return max(Chem.GetMolFrags(mol, asMols=True), key=size)


def _names(mol: Chem.Mol) -> list[str]:
    """Categories of the atoms; hydrogens are stated where valence rules alone would give another number."""
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise Unreadable("a dummy atom (*)")
    true = [atom.GetTotalNumHs() for atom in mol.GetAtoms()]
    bare = Chem.RWMol(mol)
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
        atom.SetNumRadicalElectrons(0)
    bare.UpdatePropertyCache(strict=False)
    names = []
    for atom, hydrogens in zip(bare.GetAtoms(), true, strict=True):
        # Kekulé structures of aromatic rings are found again only if hydrogens of heteroatoms are stated.
        ring = atom.GetIsAromatic() and atom.GetSymbol() != "C" and hydrogens > 0
        stated = hydrogens if ring or atom.GetTotalNumHs() != hydrogens else None
        names.append(name_of(atom, stated))
    return names


def _bonds(mol: Chem.Mol) -> list[tuple[int, int, int]]:
    bonds = []
    for bond in mol.GetBonds():
        category = _CATEGORIES.get(bond.GetBondType())
        if category is None:
            raise Unreadable(f"a bond of type {bond.GetBondType()}")
        i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        bonds.append((i, j, category))
    return sorted(bonds)
