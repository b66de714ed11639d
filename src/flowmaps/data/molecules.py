"""Molecules as categorical graphs: files of SMILES, QM9 and ZINC, prepared once and kept.

Each example has the fields ``atoms`` ``(n,)`` and ``bonds`` ``(n, n)``, symmetric with category 0 ("none") on the
diagonal. The mask of the bonds holds each pair of real atoms *once*, above the diagonal, so that a mean over bonds
counts unordered pairs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from ..fields import Batch, Condition
from .base import fingerprint
from .molecules_files import PARTS, Alphabet, Progress, Settings, load, prepare, read_smiles, shuffled
from .molecules_graph import LOST, Fragments, Order, pattern
from .sources import data_folder, download, writable

VERSION = 3  # of the prepared files


def graph_masks(sizes: Tensor, n: int) -> dict[str, Tensor]:
    """Positions that exist in graphs of ``sizes`` (B,) atoms padded to n: atoms (B, n), each pair once (B, n, n)."""
    atoms = torch.arange(n, device=sizes.device) < sizes.unsqueeze(-1)
    pairs = atoms.unsqueeze(-1) & atoms.unsqueeze(-2)
    return {"atoms": atoms, "bonds": pairs.triu(1)}


class MoleculeData:
    """Molecular graphs in memory; bonds are stored packed, above the diagonal.

    Arguments:
        atoms: Categories ``(N, n)`` uint8, 0 at padding.
        bonds: Categories of the pairs i < j, row by row, ``(N, n(n-1)/2)`` uint8.
        sizes: Number of atoms ``(N,)``.
        smiles: Canonical SMILES of each.
        label: Real-valued properties ``(N, p)``.
        known_share: Share of the examples of which a random part is given clean, to train completion.
        label_dropout: Share of the examples whose label is withheld, for classifier-free guidance.
    Invariant: what a batch holds is a function of its row numbers alone; ``bonds`` are symmetric.
    """

    def __init__(
        self,
        atoms: Tensor,
        bonds: Tensor,
        sizes: Tensor,
        smiles: list[str],
        label: Tensor | None = None,
        known_share: float = 0.0,
        label_dropout: float = 0.0,
    ):
        self.atoms, self.bonds, self.sizes, self.smiles, self.label = atoms, bonds, sizes.long(), smiles, label
        for name, share in (("known_share", known_share), ("label_dropout", label_dropout)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}, expected a share in [0, 1]")
        self.known_share, self.label_dropout = known_share, label_dropout
        self.n = atoms.shape[1]
        i, j = torch.triu_indices(self.n, self.n, 1)
        self.place = torch.full((self.n, self.n), bonds.shape[1])  # the diagonal reads a column of zeros
        self.place[i, j] = self.place[j, i] = torch.arange(bonds.shape[1])

    def __len__(self) -> int:
        return len(self.atoms)

    def batch(self, index: Tensor) -> Batch:
        """Rows ``index`` as dense padded graphs with their masks."""
        atoms = self.atoms[index].long()
        bonds = torch.nn.functional.pad(self.bonds[index], (0, 1)).long()[:, self.place]
        sizes = self.sizes[index]
        known = label = None
        random = np.random.default_rng(index.numpy())  # of the rows alone, so a resumed run sees the same
        if self.label is not None:
            withheld = torch.from_numpy(random.random(len(index)) < self.label_dropout)
            label = torch.where(withheld.unsqueeze(-1), torch.nan, self.label[index])
        if self.known_share:
            known = self._known(bonds, sizes, random)
        return Batch({"atoms": atoms, "bonds": bonds}, Condition(graph_masks(sizes, self.n), known, label))

    def _known(self, bonds: Tensor, sizes: Tensor, random: np.random.Generator) -> dict[str, Tensor]:
        """A connected part of some graphs: a ball of random radius around a random atom."""
        B, n = len(sizes), self.n
        centre = torch.from_numpy((random.random(B) * sizes.numpy()).astype(np.int64))
        ball = torch.zeros(B, n, dtype=torch.bool).scatter(1, centre.unsqueeze(1), True)
        radius = torch.from_numpy(random.integers(0, 4, B))
        adjacent = (bonds > 0).float()
        for r in range(1, 4):
            grown = ball | ((adjacent @ ball.unsqueeze(-1).float()).squeeze(-1) > 0)
            ball = torch.where((radius >= r).unsqueeze(-1), grown, ball)
        ball &= torch.from_numpy(random.random(B) < self.known_share).unsqueeze(-1)
        return {"atoms": ball, "bonds": ball.unsqueeze(-1) & ball.unsqueeze(-2)}

    def fingerprint(self) -> str:
        """Of the graphs, their properties and what is withheld of them."""
        return fingerprint(self.atoms, self.bonds, self.sizes, self.label, self.known_share, self.label_dropout)

    def subset(self, index: Tensor) -> MoleculeData:
        """The molecules of rows ``index``."""
        label = None if self.label is None else self.label[index]
        smiles = [self.smiles[i] for i in index.tolist()]
        return MoleculeData(
            self.atoms[index], self.bonds[index], self.sizes[index], smiles, label, self.known_share, self.label_dropout
        )

    def repeated(self, times: Mapping[str, int]) -> MoleculeData:
        """The molecules, those that match a SMARTS pattern as often as it says; several patterns multiply.

        Raises: ValueError if a pattern is no SMARTS, or a number is not at least 1.
        """
        count = torch.ones(len(self), dtype=torch.long)
        for text, k in times.items():
            if not isinstance(k, int) or k < 1:
                raise ValueError(f"repeat of {text!r} is {k!r}, expected a whole number of at least 1")
            query = pattern(text)
            found = [Chem.MolFromSmiles(smiles).HasSubstructMatch(query) for smiles in self.smiles]
            count *= torch.where(torch.tensor(found), k, 1)
        return self.subset(torch.repeat_interleave(torch.arange(len(self)), count))

    def conditioned(self, label: Tensor | None, known_share: float = 0.0, label_dropout: float = 0.0) -> MoleculeData:
        """The same molecules with other conditions."""
        return MoleculeData(self.atoms, self.bonds, self.sizes, self.smiles, label, known_share, label_dropout)

    def size_weights(self) -> Tensor:
        """How many molecules have 0..n atoms, ``(n + 1,)``: the distribution of the number of atoms."""
        return torch.bincount(self.sizes, minlength=self.n + 1)


class MoleculeSplits(NamedTuple):
    """Molecules in three disjoint parts with their alphabet.

    Arguments:
        rejected: The file that lists the rows left out, with reasons.
        summary: Numbers of ``rows``, of those ``left out`` (``mixtures left out`` among them), of ``duplicates``, and
            of the molecules without the stereochemistry, isotopes, atom maps or smaller fragments of their row.
    """

    train: MoleculeData
    valid: MoleculeData
    test: MoleculeData
    alphabet: Alphabet
    rejected: Path
    summary: dict[str, int]

    def report(self) -> str:
        """What was done to the rows, in one line; empty if every one is kept as it is and there is none twice."""
        n = self.summary
        lines = [f"{self.rejected} lists them with reasons"] if self.refused else []
        if n["mixtures left out"]:
            lines.append(f"{n['mixtures left out']:,} of them are salts or mixtures, whose largest fragment would stay "
                         "with task.fragments: largest")  # fmt: skip
        lines += [f"{n['duplicates']:,} duplicate{'s' * (n['duplicates'] > 1)}"] if n["duplicates"] else []
        lines += [f"{name} removed from {n[name]:,}" for name in LOST if n[name]]
        some = f"{self.refused:,} of {self.rows:,} rows are left out"
        first = some if self.refused else f"all {self.rows:,} rows stay"
        return "; ".join([first, *lines]) if lines else ""

    @property
    def rows(self) -> int:
        return self.summary["rows"]

    @property
    def refused(self) -> int:
        return self.summary["left out"]


def molecules(
    path: str | os.PathLike,
    column: str | int | None = None,
    *,
    valid: str | os.PathLike | None = None,
    test: str | os.PathLike | None = None,
    aromatic: bool = False,
    max_atoms: int | None = None,
    fragments: Fragments = "refuse",
    order: Order = "file",
    cache: str | os.PathLike | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> MoleculeSplits:
    """Molecules of a file of SMILES, prepared on all cores once and kept in a cache.

    Where ``valid`` and ``test`` files are not given, a molecule's part follows from the BLAKE2 hash of its canonical
    SMILES: 80 / 10 / 10 per cent whatever the order of the file, and equal molecules are never in two parts. Within a
    part that hash is the order too, so its first rows are a fair choice. Where they are given, a molecule that occurs
    in several files belongs to the last of them: test, then validation. Rows that are left out are listed with line
    number and reason beside the cache.

    Arguments:
        path, column: File of SMILES, and where in it they are; see :func:`read_smiles`.
        valid, test: Files of the other parts; both or neither.
        aromatic, max_atoms: Keep aromatic bonds as a category of their own; refuse larger molecules.
        fragments: Of salts and mixtures, ``refuse`` all or keep the ``largest`` fragment.
        order: Of the atoms of a molecule: as in the ``file``, or that of its ``canonical`` SMILES.
        cache: Folder of prepared files; default the ``molecules`` folder of the cache.
        processes: Worker processes; default one per core.
        progress: Called with the rows done and the rows in all.
    Raises: ValueError if a file cannot be read or a part ends up empty.
    """
    _check(fragments, order)
    sources = [read_smiles(file, column) for file in _files(path, valid, test)]
    settings = Settings(aromatic, max_atoms, fragments, order)
    prepared = _place(path, cache, [*settings.key(), sources])
    if not prepared.exists():
        prepare(prepared, sources, settings, processes, progress)
    return _splits(prepared)


def _check(fragments: str, order: str) -> None:
    if fragments not in ("refuse", "largest"):
        raise ValueError(f"fragments is {fragments!r}, expected refuse or largest")
    if order not in ("file", "canonical"):
        raise ValueError(f"order is {order!r}, expected file or canonical")


def _files(
    path: str | os.PathLike, valid: str | os.PathLike | None, test: str | os.PathLike | None
) -> list[str | os.PathLike]:
    if (valid is None) != (test is None):
        raise ValueError("validation and test files come together: give both or neither")
    return [file for file in (path, valid, test) if file is not None]


def _place(path: str | os.PathLike, cache: str | os.PathLike | None, contents: list[object]) -> Path:
    """The prepared file of such contents."""
    digest = hashlib.sha256(json.dumps([VERSION, *contents]).encode()).hexdigest()[:16]
    folder = data_folder("molecules") if cache is None else Path(cache).expanduser()
    return writable(folder) / f"{Path(path).name.split('.')[0]}-{digest}.npz"


def _splits(prepared: Path) -> MoleculeSplits:
    arrays, alphabet, smiles, summary = load(prepared)
    atoms, bonds, sizes = (torch.from_numpy(arrays[name]) for name in ("atoms", "bonds", "sizes"))
    whole = MoleculeData(atoms, bonds, sizes, smiles)
    order = torch.tensor(sorted(range(len(smiles)), key=lambda k: shuffled(smiles[k])))
    parts = [order[torch.from_numpy(arrays["part"] == k)[order]] for k in range(3)]
    for name, rows in zip(PARTS, parts, strict=True):
        if not len(rows):
            raise ValueError(f"the {name} part of {len(whole)} molecules is empty; give more, or a file for each part")
    train, valid, test = (whole.subset(rows) for rows in parts)
    rejected = prepared.with_suffix(".rejected.csv")
    return MoleculeSplits(train, valid, test, alphabet, rejected, summary)


class Options(TypedDict, total=False):
    """What :func:`qm9` and :func:`zinc250k` pass on to :func:`molecules`."""

    aromatic: bool
    max_atoms: int | None
    fragments: Fragments
    order: Order
    cache: str | os.PathLike | None
    processes: int | None
    progress: Progress | None


QM9_MIRROR = (
    "https://raw.githubusercontent.com/aspuru-guzik-group/selfies/"
    "f345587e9a85c1ec81e4b657b25c8c843adbf12b/tests/test_sets/130K_QM9.txt"
)
QM9_SHA256 = "80c060e299a44112b89be3fc6d95145dfeda97aa3eab1e2662aafdfbb00f7929"
ZINC_MIRROR = (
    "https://raw.githubusercontent.com/aspuru-guzik-group/chemical_vae/master/models/zinc_properties/"
    "250k_rndm_zinc_drugs_clean_3.csv"
)
ZINC_SHA256 = "35e3f1a52b1badc0697e373d73a18ad773f415936ff992f4c6baa2e067b3e6ae"
ZINC_PARTS_MIRROR = "https://raw.githubusercontent.com/wengong-jin/icml18-jtnn/master/data/zinc/"
ZINC_PARTS_SHA256 = {
    "valid": "ad7d9c2bfebd93ffda6c32ed0e89d1714ae1f592f6340c0e6ae057521bbae30d",
    "test": "31f6ce92914814db33bf0dbfc45f3836193e27cb80a59c54d88bc05a1f5fab83",
}


def qm9(path: str | os.PathLike | None = None, fetch: bool = False, **options: Unpack[Options]) -> MoleculeSplits:
    """QM9: 133,885 molecules of at most nine heavy atoms, hydrogens implied.

    Arguments:
        path: Folder of ``qm9_smiles.csv``; default ``$FLOWMAPS_DATA/molecules``, else a cache folder.
        fetch: Download the file if it is missing, with a checksum.
        options: Passed to :func:`molecules`.
    Reference: Ramakrishnan et al. 2014, *Quantum chemistry structures and properties of 134 kilo molecules*.
    """
    file = data_folder("molecules", path) / "qm9_smiles.csv"
    if fetch and not file.exists():
        download([QM9_MIRROR], file, QM9_SHA256)
    return molecules(file, **options)


def zinc250k(path: str | os.PathLike | None = None, fetch: bool = False, **options: Unpack[Options]) -> MoleculeSplits:
    """ZINC250k, 249,455 drug-like molecules of up to 38 heavy atoms, in the split of the junction-tree autoencoder.

    The validation and test parts are that split's files; all other molecules of the whole set are for training.

    Arguments:
        path: Folder of ``250k_rndm_zinc_drugs_clean_3.csv`` (or ``zinc250k_train.txt``), ``zinc250k_valid.txt`` and
            ``zinc250k_test.txt``; default as for :func:`qm9`.
        fetch: Download what is missing, with checksums.
        options: Passed to :func:`molecules`.
    Reference: Gómez-Bombarelli et al. 2018, *Automatic chemical design*, arXiv 1610.02415 (the set);
        Jin et al. 2018, *Junction tree variational autoencoder*, arXiv 1802.04364 (the split).
    """
    folder = data_folder("molecules", path)
    valid, test, train = (folder / f"zinc250k_{part}.txt" for part in ("valid", "test", "train"))
    whole = folder / "250k_rndm_zinc_drugs_clean_3.csv"
    source = train if train.exists() else whole
    if fetch and not source.exists():
        download([ZINC_MIRROR], whole, ZINC_SHA256)
    for part, file in (("valid", valid), ("test", test)):
        if fetch and not file.exists():
            download([f"{ZINC_PARTS_MIRROR}{part}.txt"], file, ZINC_PARTS_SHA256[part])
    return molecules(source, valid=valid, test=test, **options)
