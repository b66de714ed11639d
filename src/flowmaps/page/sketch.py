"""A scaffold that is drawn by clicks: a picture whose atoms and bonds are places, and what a click makes of it.

The state is the SMILES alone, so that what is drawn and what is typed are one text, and no script draws in the browser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from html import escape

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from ..data.molecules_graph import Unreadable, canonical, sanitised
from ..tasks.molecules_files import picture
from .answers import short

PARTS = {
    "CC": "ethane", "C1CO1": "oxirane", "C1CNC1": "azetidine", "C1CCNC1": "pyrrolidine", "C1CCOC1": "tetrahydrofuran",
    "c1ccccc1": "benzene", "c1ccncc1": "pyridine", "c1c[nH]cn1": "imidazole", "NC=O": "amide", "CC#N": "nitrile",
    "C1CNCCN1": "piperazine", "c1ccc2[nH]ccc2c1": "indole", "NS(=O)(=O)c1ccccc1": "benzenesulfonamide",
}  # fmt: skip  # where a drawing begins
BOND, ERASE, BENZENE = "bond", "erase", "benzene"
RINGS = {"ring of 3": 3, "ring of 5": 5, "ring of 6": 6, BENZENE: 6}
LONGEST = 200  # characters of a scaffold
WIDTH, HEIGHT, LENGTH = 260, 190, 34  # of the picture and of a bond, in pixels


def tools(elements: Sequence[str]) -> list[str]:
    """What a click can do: a bond, one of the elements, a ring, or nothing left."""
    return [BOND, *elements, *RINGS, ERASE]


def clicked(text: str, tool: str, place: str, most: int) -> str:
    """The canonical SMILES of a scaffold after a click.

    A bond raises its order, from triple back to single. An atom gets a bond to a new carbon, another element, or a
    ring; a ring on a bond is fused. A part begins a new scaffold.

    Arguments:
        text: SMILES of the scaffold, as drawn.
        tool: One of :func:`tools`.
        place: ``part SMILES``, ``atom NUMBER`` or ``bond NUMBER`` of the drawing.
        most: Heavy atoms of a molecule of the model.
    Raises: ValueError if there is no such place, or the molecule cannot be.
    """
    kind, _, what = place.partition(" ")
    if kind == "part" and what in PARTS:
        return what
    mol = read(text)
    count = {"atom": 0, "bond": 0} if mol is None else {"atom": mol.GetNumAtoms(), "bond": mol.GetNumBonds()}
    if mol is None or kind not in count or not what.isdecimal() or int(what) >= count[kind]:
        raise ValueError(f"there is no {place[:40]!r} in the drawing; click an atom, a bond, or a part")
    number = int(what)
    if tool == ERASE:
        return erased(mol, kind, number)
    if tool in RINGS:
        ring(mol, kind, number, RINGS[tool], tool == BENZENE)
    elif kind == "bond":
        return raised(mol, number)
    elif tool == BOND:
        mol.AddBond(number, mol.AddAtom(Chem.Atom("C")), Chem.BondType.SINGLE)
    else:
        changed(mol, number, tool)
    if mol.GetNumAtoms() > most:
        raise ValueError(f"that makes {mol.GetNumAtoms()} atoms, expected at most the {most} of the model")
    return told(mol)


def read(text: str) -> Chem.RWMol | None:
    """The molecule of a SMILES with single, double and triple bonds; ``None`` if nothing is written.

    Raises: ValueError with the reason if it is none.
    """
    written = short("the scaffold", text, LONGEST)
    if written is None:
        return None
    mol = Chem.RWMol(Chem.MolFromSmiles(checked(written)))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def checked(smiles: str) -> str:
    """The canonical SMILES of a scaffold.

    Raises: ValueError with the reason if it is none.
    """
    try:
        return canonical(smiles)
    except Unreadable as error:
        raise ValueError(f"the scaffold {smiles!r} cannot be used: {error}; write a SMILES such as C1CO1") from None


def told(mol: Chem.RWMol) -> str:
    """The canonical SMILES of an edited molecule.

    Raises: ValueError if an atom has too many bonds.
    """
    for atom in mol.GetAtoms():
        if not atom.GetFormalCharge():  # hydrogens follow from the bonds; an aromatic nitrogen had its own stated
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
    found = sanitised(mol)
    if found is None:
        raise ValueError("an atom would have more bonds than it takes; erase one of them first, or change the element")
    return found


def erased(mol: Chem.RWMol, kind: str, number: int) -> str:
    """Without an atom or a bond; an empty text if nothing is left.

    Raises: ValueError if the rest would fall apart.
    """
    if kind == "atom":
        mol.RemoveAtom(number)
    else:
        bond = mol.GetBondWithIdx(number)
        mol.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    if len(Chem.GetMolFrags(mol)) > 1:
        raise ValueError("what is left would be in several parts; erase from an end")
    return told(mol) if mol.GetNumAtoms() else ""


def raised(mol: Chem.RWMol, number: int) -> str:
    """With the next order of a bond that its atoms take: double, triple, single again."""
    orders = [Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
    now = orders.index(mol.GetBondWithIdx(number).GetBondType())
    for order in (*orders[now + 1 :], *orders[:now]):
        copy = Chem.RWMol(mol)
        copy.GetBondWithIdx(number).SetBondType(order)
        try:
            return told(copy)
        except ValueError:
            continue
    raise ValueError("the atoms of this bond take no other order; erase a bond of them first")


def ring(mol: Chem.RWMol, kind: str, number: int, size: int, aromatic: bool) -> None:
    """A ring of carbon, fused to a bond or on a single bond of an atom."""
    fused = kind == "bond"
    new = [mol.AddAtom(Chem.Atom("C")) for _ in range(size - 2 * fused)]
    for k, (i, j) in enumerate(zip(new, new[1:], strict=False)):
        double = aromatic and k % 2 == 0
        mol.AddBond(i, j, Chem.BondType.DOUBLE if double else Chem.BondType.SINGLE)
    ends = (new[0], new[-1])
    if fused:
        bond = mol.GetBondWithIdx(number)
        mol.AddBond(bond.GetBeginAtomIdx(), ends[0], Chem.BondType.SINGLE)
        mol.AddBond(bond.GetEndAtomIdx(), ends[1], Chem.BondType.SINGLE)
        if aromatic and not any(doubly(mol, k) for k in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())):
            bond.SetBondType(Chem.BondType.DOUBLE)
    else:
        mol.AddBond(*ends, Chem.BondType.SINGLE)
        mol.AddBond(number, new[0], Chem.BondType.SINGLE)


def doubly(mol: Chem.RWMol, number: int) -> bool:
    """Whether an atom has a double or triple bond."""
    return any(bond.GetBondType() != Chem.BondType.SINGLE for bond in mol.GetAtomWithIdx(number).GetBonds())


def changed(mol: Chem.RWMol, number: int, element: str) -> None:
    """Another element, without charge.

    Raises: ValueError if there is no such tool.
    """
    atom = mol.GetAtomWithIdx(number)
    try:
        with rdBase.BlockLogs():
            atom.SetAtomicNum(Chem.Atom(element).GetAtomicNum())
    except RuntimeError:
        raise ValueError(f"there is no tool {element[:40]!r}; choose one of those above the drawing") from None
    atom.SetFormalCharge(0)


def drawing(text: str, note: str, parts: Sequence[str]) -> str:
    """HTML of a scaffold to click on, of parts to begin with, and of what could not be done.

    Arguments:
        text: SMILES; what cannot be read is said instead of drawn.
        note: Why a click changed nothing; empty if it did.
        parts: Some of ``PARTS``.
    """
    try:
        mol = read(text)
    except ValueError as error:
        mol, note = None, str(error)
    said = f'<p class="fm-refused" role="alert">{escape(note[:1].upper() + note[1:])}</p>' if note else ""
    shown = "" if mol is None else f'<div class="fm-scaffold">{places(mol)}</div>'
    parts_of = f'<div class="fm-parts">{"".join(map(_part, parts))}</div>'
    return f'<div class="fm-sketch" data-drawn="{escape(text)}">{parts_of}{said}{shown}</div>'


def fitting(fits: Callable[[str], object]) -> list[str]:
    """The parts that a model can keep.

    Arguments:
        fits: Raises ValueError for one that it cannot.
    """
    found = []
    for smiles in PARTS:
        try:
            fits(smiles)
        except ValueError:
            continue
        found.append(smiles)
    return found


def places(mol: Chem.RWMol) -> str:
    """An SVG of a molecule whose atoms and bonds can be clicked on."""
    rdDepictor.Compute2DCoords(mol)
    canvas = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
    options = canvas.drawOptions()
    options.prepareMolsBeforeDrawing, options.clearBackground, options.fixedBondLength = False, False, LENGTH
    with rdBase.BlockLogs():
        canvas.DrawMolecule(mol)
        canvas.FinishDrawing()
    at = [canvas.GetDrawCoords(k) for k in range(mol.GetNumAtoms())]
    marks = []
    for bond in mol.GetBonds():
        a, b, name = at[bond.GetBeginAtomIdx()], at[bond.GetEndAtomIdx()], f"bond {bond.GetIdx()}"
        line = f'x1="{a.x:.1f}" y1="{a.y:.1f}" x2="{b.x:.1f}" y2="{b.y:.1f}"'
        marks.append(f'<line {_button(name, f"bond {bond.GetIdx() + 1}")} {line} stroke-width="12"/>')
    for atom, point in zip(mol.GetAtoms(), at, strict=True):
        label = f"atom {atom.GetIdx() + 1}, {atom.GetSymbol()}"
        circle = f'cx="{point.x:.1f}" cy="{point.y:.1f}" r="9"'
        marks.append(f"<circle {_button(f'atom {atom.GetIdx()}', label)} {circle}/>")
    text = canvas.GetDrawingText().partition("?>")[2].strip()
    return text.replace("</svg>", f"{''.join(marks)}</svg>")


def _button(place: str, label: str) -> str:
    return f'data-place="{place}" role="button" tabindex="0" aria-label="{label}"'


@cache
def _part(smiles: str) -> str:
    """A button with the picture of a part."""
    name, drawn = PARTS[smiles], picture(Chem.RWMol(Chem.MolFromSmiles(smiles)), 42)
    return f'<button type="button" data-place="part {smiles}" title="{name}" aria-label="{name}">{drawn}</button>'
