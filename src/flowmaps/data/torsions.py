"""Torsion angles of RNA and proteins, and files of angles of one's own."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..reading import check_size
from ..spaces.torus import wrapped
from .columns import Columns, by_name, read_columns
from .points import PointData, PointSplits, Units
from .points_table import NUMBER
from .sources import data_folder, download
from .splits import parted

RNA = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "chi"]
RNA_MIRROR = (
    "https://raw.githubusercontent.com/vislearn/FFF/7b99c97693c0ea24ca8b84d1884766cec751fb5f/"
    "fff/data/raw_data/torus/rna.tsv"
)
RNA_SHA256 = "189183ca25bd45c8a7578d3c1cd8a555b5139bb1ab0ac1a0bd25672be19badf7"
SOURCES = ("rna", "protein", "alanine")
MOST = 1e6  # degrees: beyond, a number is no angle


def torsions(
    source: str,
    path: str | os.PathLike | None = None,
    columns: str | None = None,
    unit: str = "degrees",
    skip: bool = False,
    fetch: bool = False,
    seed: int = 42,
) -> PointSplits:
    """Angles in radians from -π to π, split 80 / 10 / 10 per cent at random.

    Arguments:
        source: ``rna`` (9,478 nucleotides, seven angles), ``protein`` (204,995 residues, φ and ψ), ``alanine`` (60,000
            frames of alanine dipeptide, φ and ψ), or a file.
        path: Folder of ``rna.tsv`` and ``protein_top8000.csv.gz``; default ``$FLOWMAPS_DATA/torsions``, else a cache
            folder. That of ``ala2_phipsi.npz`` is ``peptide``.
        columns: Names or numbers of the angles in a file; without, all columns that begin with a number.
        unit: ``degrees`` or ``radians``, of a file.
        skip: Leave damaged rows out instead of refusing the file.
        fetch: Download ``rna.tsv`` if it is missing, with a checksum.
        seed: Of the split.
    Raises: ValueError naming the lines of rows without their angles.

    Reference: Murray et al. 2003, RNA backbone is rotameric; Lovell et al. 2003, Structure validation by Cα geometry.
    """
    if unit not in ("degrees", "radians"):
        raise ValueError(f"unit is {unit!r}, expected degrees or radians")
    if source == "alanine":
        return alanine(path)
    if source in SOURCES:
        found, unit = _known(source, data_folder("torsions", path), fetch), "degrees"
    else:
        found = angles(source, columns, skip)
    if unit == "degrees" and len(found.numbers) > 20 and abs(found.numbers).max() <= 2 * math.pi:
        warnings.warn(
            f"{source}: all angles lie within 2π; if they are in radians, add --task.unit radians", stacklevel=2
        )
    x = torch.from_numpy(found.numbers)
    return parted(radians(x) if unit == "degrees" else wrapped(x), found.names, seed)


def _known(source: str, folder: Path, fetch: bool) -> Columns:
    if source == "protein":
        return angles(folder / "protein_top8000.csv.gz", "phi,psi")._replace(names=["phi", "psi"])
    if fetch and not (folder / "rna.tsv").exists():
        download([RNA_MIRROR], folder / "rna.tsv", RNA_SHA256)
    return angles(folder / "rna.tsv", "3,4,5,6,7,8,9")._replace(names=RNA)


def alanine(path: str | os.PathLike | None = None) -> PointSplits:
    """φ and ψ of three trajectories of alanine dipeptide, in radians.

    Frames that follow each other are alike: two trajectories train, the halves of the third validate and test.

    Raises: ValueError if the file holds anything else.
    """
    file = data_folder("peptide", path) / "ala2_phipsi.npz"
    check_size(str(file), file.stat().st_size)
    with np.load(file, allow_pickle=False) as found:
        runs = [found[name] for name in sorted(found.files)]
    shapes = [run.shape for run in runs]
    if len(runs) != 3 or any(len(shape) != 2 or shape[1] != 2 or shape[0] < 2 for shape in shapes):
        raise ValueError(f"{file} holds arrays of shape {shapes}, expected three of φ and ψ (frames, 2)")
    if not all(np.isfinite(run).all() for run in runs):
        raise ValueError(f"{file} holds angles that are not finite; leave those frames out")
    x = [wrapped(torch.from_numpy(run).double()) for run in runs]
    half = len(x[2]) // 2
    as_they_are = Units([0.0, 0.0], [1.0, 1.0])
    train, valid, test = (PointData(part, as_they_are) for part in (torch.cat(x[:2]), x[2][:half], x[2][half:]))
    return PointSplits(train, valid, test, as_they_are, ["phi", "psi"])


def angles(
    path: str | os.PathLike, columns: str | None = None, skip: bool = False, known: Sequence[str] = ()
) -> Columns:
    """The angles of the rows of a file, in its own unit.

    Arguments:
        known: Names of columns that are taken where the file has all of them.
    """

    def choose(names: list[str] | None, row: list[str]) -> list[int]:
        if known and set(known) <= set(names or []):
            return by_name(",".join(known), names, row)
        if columns is not None:
            return by_name(columns, names, row)
        found = [i for i, cell in enumerate(row) if NUMBER.fullmatch(cell)]
        if not found:
            raise ValueError("its first row has no number; say which columns are angles by --task.columns phi,psi")
        return found

    return read_columns(path, choose, _check, skip)


def _check(values: Sequence[float]) -> str | None:
    largest = max(values, key=abs)
    return f"{largest:g} is no angle" if abs(largest) > MOST else None


def radians(degrees: Tensor) -> Tensor:
    """Angles modulo 360, in radians from -π to π."""
    return wrapped(degrees.double() * (math.pi / 180))
