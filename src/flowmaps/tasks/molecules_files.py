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


def write_smiles(path: str | os.PathLike, molecules: Sequence[Chem.RWMol]) -> int:
    """Write ``SMILES<tab>number of the sample`` a line, valid samples only; returns how many were valid."""
    rows = [(sanitised(Chem.RWMol(mol)), k) for k, mol in enumerate(molecules)]
    lines = [f"{smiles}\t{k}\n" for smiles, k in rows if smiles is not None]
    write_text(path, "".join(lines))
    return len(lines)


def write_structures(path: str | os.PathLike, molecules: Sequence[Chem.RWMol]) -> int:
    """Write valid samples as an SD file with depiction coordinates and their number as the title."""
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
    write_text(path, text.getvalue())
    return count


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
    drawn, legends, marked = zip(*(_panel(mol) for mol in molecules), strict=True)
    if names:
        legends = [f"{name}: {legend}" for name, legend in zip(names, legends, strict=True)]
    rows = -(-len(drawn) // columns)
    canvas = rdMolDraw2D.MolDraw2DCairo(side * min(columns, len(drawn)), side * rows, side, side)
    options = canvas.drawOptions()
    options.prepareMolsBeforeDrawing = False
    options.legendFontSize = 13
    colours = [dict.fromkeys(atoms, BAD) for atoms in marked]
    with rdBase.BlockLogs():
        canvas.DrawMolecules(
            list(drawn), legends=list(legends), highlightAtoms=list(marked), highlightAtomColors=colours
        )
        canvas.FinishDrawing()
    with replacing(path) as temporary:
        temporary.write_bytes(canvas.GetDrawingText())


def _panel(mol: Chem.RWMol) -> tuple[Chem.Mol, str, list[int]]:
    sample = inspect(mol)
    copy = Chem.RWMol(mol)
    valid = sanitised(copy) is not None
    if valid:
        Chem.Kekulize(copy)
    else:
        copy = Chem.RWMol(mol)
        copy.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(copy)
    rdDepictor.Compute2DCoords(copy)
    if not _drawable(copy):  # atoms on top of each other: show them without their bonds
        for bond in list(copy.GetBonds()):
            copy.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        rdDepictor.Compute2DCoords(copy)
    parts = len(Chem.GetMolFrags(mol))
    what = ("valid" if valid else "not valid") + (f", {parts} parts" if parts > 1 else "")
    return copy, what, [] if sample.whole else list(range(copy.GetNumAtoms()))


def _drawable(mol: Chem.Mol) -> bool:
    canvas = rdMolDraw2D.MolDraw2DSVG(60, 60)
    canvas.drawOptions().prepareMolsBeforeDrawing = False
    try:
        canvas.DrawMolecule(mol)
    except RuntimeError:
        return False
    return True
