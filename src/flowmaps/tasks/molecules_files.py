"""Generated molecules as files: SMILES, structures, and a picture in which validity is marked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import StringIO

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from ..files import replacing, write_text
from ..metrics.molecules import inspect, sanitised

BAD = (1.0, 0.75, 0.75)
KEPT = (0.72, 0.85, 1.0)  # the colour of a scaffold


def write_smiles(path: str | os.PathLike, molecules: Sequence[Chem.RWMol]) -> int:
    """Write ``SMILES<tab>number of the sample`` a line, valid samples only; returns how many were valid."""
    rows = [(sanitised(Chem.RWMol(mol)), k) for k, mol in enumerate(molecules)]
    lines = [f"{smiles}\t{k}\n" for smiles, k in rows if smiles is not None]
    write_text(path, "".join(lines))
    return len(lines)


def write_structures(path: str | os.PathLike, molecules: Sequence[Chem.RWMol]) -> int:
    """Write valid samples as an SD file, see :func:`structures`; returns how many were valid."""
    text, count = structures(molecules)
    write_text(path, text)
    return count


def structures(molecules: Sequence[Chem.RWMol]) -> tuple[str, int]:
    """Valid samples as the text of an SD file, with depiction coordinates and their number as the title; how many."""
    text, count = StringIO(), 0
    writer = Chem.SDWriter(text)
    for k, mol in enumerate(molecules):
        copy = Chem.RWMol(mol)
        smiles = sanitised(copy)
        if smiles is not None:
            rdDepictor.Compute2DCoords(copy)
            copy.SetProp("_Name", str(k))
            copy.SetProp("SMILES", smiles)
            writer.write(copy)
            count += 1
    writer.close()
    return text.getvalue(), count


def draw_grid(
    path: str | os.PathLike,
    molecules: Sequence[Chem.RWMol],
    names: Sequence[str] = (),
    columns: int = 8,
    side: int = 180,
) -> None:
    """Draw samples as a PNG: what is not one valid molecule on red, each with its name and what it is below."""
    if not molecules:
        raise ValueError("no molecule to draw; ask for at least one sample")
    drawn, legends, marked = zip(*(_panel(mol, side) for mol in molecules), strict=True)
    if names:
        legends = [f"{name}: {legend}" for name, legend in zip(names, legends, strict=True)]
    picture = _draw(drawn, legends, marked, side, columns)
    with replacing(path) as temporary:
        temporary.write_bytes(picture)


def picture(mol: Chem.RWMol, side: int, kept: Chem.Mol | None = None) -> str:
    """One sample as an SVG: what is not one valid molecule on red, and on blue the part that was given.

    Arguments:
        kept: The given part, where it is to be seen.
    """
    drawn, _, marked = _panel(mol, side)
    part = [] if kept is None or marked else list(drawn.GetSubstructMatch(kept))
    bonds = [bond.GetIdx() for bond in drawn.GetBonds() if {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()} <= set(part)]
    canvas = rdMolDraw2D.MolDraw2DSVG(side, side)
    options = canvas.drawOptions()
    options.prepareMolsBeforeDrawing, options.clearBackground, options.padding = False, False, 0.08
    atoms, colour = (marked, BAD) if marked else (part, KEPT)
    with rdBase.BlockLogs():
        canvas.DrawMolecule(drawn, highlightAtoms=atoms, highlightAtomColors=dict.fromkeys(atoms, colour),
                            highlightBonds=bonds, highlightBondColors=dict.fromkeys(bonds, colour))  # fmt: skip
        canvas.FinishDrawing()
    return canvas.GetDrawingText().partition("?>")[2].strip()


def _draw(
    drawn: Sequence[Chem.Mol], legends: Sequence[str], marked: Sequence[list[int]], side: int, columns: int
) -> bytes:
    rows = -(-len(drawn) // columns)
    canvas = rdMolDraw2D.MolDraw2DCairo(side * min(columns, len(drawn)), side * rows, side, side)
    canvas.drawOptions().prepareMolsBeforeDrawing = False
    canvas.drawOptions().legendFontSize = 13
    colours = [dict.fromkeys(atoms, BAD) for atoms in marked]
    with rdBase.BlockLogs():
        canvas.DrawMolecules(
            list(drawn), legends=list(legends), highlightAtoms=list(marked), highlightAtomColors=colours
        )
        canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _panel(mol: Chem.RWMol, side: int) -> tuple[Chem.Mol, str, list[int]]:
    """A molecule ready to be drawn, what it is, and the atoms to mark: all, unless it is one valid molecule."""
    sample = inspect(mol)
    copy = Chem.RWMol(mol)
    if sample.smiles is not None:
        sanitised(copy)
        Chem.Kekulize(copy)
    else:
        copy.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(copy)
    parts = len(Chem.GetMolFrags(mol))
    what = ("valid" if sample.smiles is not None else "not valid") + (f", {parts} parts" if parts > 1 else "")
    marked = [] if sample.whole else list(range(copy.GetNumAtoms()))
    rdDepictor.Compute2DCoords(copy)
    try:
        _draw([copy], [what], [marked], side, 1)
    except RuntimeError:  # atoms on top of each other: show them without their bonds
        for bond in list(copy.GetBonds()):
            copy.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        rdDepictor.Compute2DCoords(copy)
    return copy, what, marked
