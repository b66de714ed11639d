"""From files of SMILES to prepared arrays: read on all cores once, kept as an ``.npz`` without pickles."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from ..files import replacing, write_text
from ..reading import read_bytes
from .molecules_graph import BONDS, Graph, Unreadable, encode, parse

PARTS = ("train", "valid", "test")
Progress = Callable[[int, int], None]
Rows = list[tuple[int, str]]


@dataclass(frozen=True)
class Alphabet:
    """The categories of a set of molecules, kept with every model that is trained on them.

    Arguments:
        atoms: Names such as ``C``, ``N+1``, ``C-1H2`` (element, charge, stated hydrogens), most frequent first.
        bonds: ``none``, ``single``, ``double``, ``triple`` and perhaps ``aromatic``.
        size: Atoms of the largest molecule, the size of the padded graph.
    """

    atoms: tuple[str, ...]
    bonds: tuple[str, ...]
    size: int

    def to_json(self) -> dict[str, Any]:
        return {"atoms": list(self.atoms), "bonds": list(self.bonds), "size": self.size}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Alphabet:
        return cls(tuple(value["atoms"]), tuple(value["bonds"]), int(value["size"]))


def read_smiles(path: str | os.PathLike, column: str | int | None = None) -> Rows:
    """The SMILES of a file with their line numbers (from 1), blank lines left out.

    ``.csv`` and ``.tsv`` files have columns; in all others SMILES is the first word of a line. A header is recognised
    by a cell named ``smiles``, by ``column`` being a name, or because its cell is no SMILES while the next one is.
    Any file may be packed as ``.gz`` or ``.xz``.

    Arguments:
        column: Name or number (from 0) of the column; default ``smiles`` (in any case), else the first.
    Raises: ValueError if the file is missing, empty or has no such column.
    """
    path = Path(path).expanduser()
    text = read_bytes(path).decode("utf-8-sig", errors="replace")
    kind = [suffix for suffix in path.suffixes if suffix not in (".gz", ".xz")][-1:]
    if kind in ([".csv"], [".tsv"]):
        reader = csv.reader(io.StringIO(text), delimiter="\t" if kind == [".tsv"] else ",")
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    else:
        rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise ValueError(f"{path} holds no row; give a file with one SMILES a line")
    place, header = _column(path, [row for _, row in rows[:2]], column)
    return [(number, row[place] if place < len(row) else "") for number, row in rows[header:]]


def _column(path: Path, first: list[list[str]], column: str | int | None) -> tuple[int, int]:
    """The place of the SMILES column and the number of header rows."""
    head = [cell.lower() for cell in first[0]]
    if isinstance(column, str) and not column.isdigit():
        if column.lower() not in head:
            raise ValueError(f"{path} has no column {column!r}; its first row is {first[0]}")
        return head.index(column.lower()), 1
    if column is None and "smiles" in head:
        return head.index("smiles"), 1
    place = int(column or 0)
    if place < 0 or place >= len(head):
        raise ValueError(f"{path} has {len(head)} columns, so there is no column {place}; count from 0")
    if len(first) < 2 or place >= len(first[1]):
        return place, 0
    return place, int("smiles" in head[place] or (not _parses(first[0][place]) and _parses(first[1][place])))


def _parses(text: str) -> bool:
    try:
        return parse(text) is not None
    except Unreadable:
        return False


def part_of(smiles: str) -> int:
    """The part of a molecule by the hash of its canonical SMILES: 0 train (80 %), 1 valid (10 %), 2 test (10 %)."""
    return max(0, shuffled(smiles) * 10 // 2**64 - 7)


def shuffled(smiles: str) -> int:
    """A number below 2^64 by which molecules are in no order: the BLAKE2 hash of the SMILES."""
    return int.from_bytes(hashlib.blake2b(smiles.encode(), digest_size=8).digest(), "little")


class _Row(NamedTuple):
    part: int
    line: int
    text: str
    graph: Graph | None
    reason: str = ""


def _read_rows(job: tuple[int, Rows, bool, int | None]) -> list[_Row]:
    part, rows, aromatic, max_atoms = job
    result = []
    for line, text in rows:
        try:
            graph = encode(text, aromatic)
            if max_atoms is not None and len(graph.atoms) > max_atoms:
                raise Unreadable(f"{len(graph.atoms)} atoms, more than {max_atoms}")
            result.append(_Row(part, line, text, graph))
        except Unreadable as error:
            result.append(_Row(part, line, text, None, str(error)))
    return result


def _disjoint(rows: Iterable[_Row]) -> list[_Row]:
    """Refuse a molecule in one part if a later one holds it too: nothing that is measured was trained on."""
    rows = list(rows)
    last: dict[str, int] = {}
    for row in rows:
        if row.graph is not None:
            last[row.graph.smiles] = max(row.part, last.get(row.graph.smiles, 0))

    def kept(row: _Row) -> _Row:
        if row.graph is None or last[row.graph.smiles] == row.part:
            return row
        return row._replace(graph=None, reason=f"also in the {PARTS[last[row.graph.smiles]]} part")

    return [kept(row) for row in rows]


def _jobs(sources: list[Rows], aromatic: bool, max_atoms: int | None, size: int = 500) -> list[Any]:
    return [
        (part, rows[start : start + size], aromatic, max_atoms)
        for part, rows in enumerate(sources)
        for start in range(0, len(rows), size)
    ]


def _read_all(jobs: list[Any], processes: int, progress: Progress | None) -> Iterator[_Row]:
    """Rows in order, read by ``processes`` workers."""
    total, done = sum(len(job[1]) for job in jobs), 0

    def counted(results: Iterable[list[_Row]]) -> Iterator[_Row]:
        nonlocal done
        for rows in results:
            yield from rows
            done += len(rows)
            if progress is not None:
                progress(done, total)

    if processes < 2 or len(jobs) < 2:
        yield from counted(map(_read_rows, jobs))
        return
    # A fork needs no guard in the caller's script; the workers touch nothing but RDKit.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        yield from counted(pool.map(_read_rows, jobs))


def prepare(
    prepared: Path,
    sources: list[Rows],
    aromatic: bool = False,
    max_atoms: int | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Read rows into ``prepared``, and list those that are left out in ``*.rejected.csv`` beside it.

    A row is left out if it cannot be read, or if a later part holds the same molecule (stereochemistry apart).

    Arguments:
        sources: Rows of one file, or of a training, a validation and a test file.
    Raises: ValueError if no row can be read or there are more than 255 kinds of atoms.
    """
    jobs = _jobs(sources, aromatic, max_atoms)
    rows = _disjoint(_read_all(jobs, processes or os.cpu_count() or 1, progress))
    good = [(row.part, row.graph) for row in rows if row.graph is not None]
    bad = [row for row in rows if row.graph is None]
    if not good:
        first = f"line {bad[0].line}: {bad[0].reason}" if bad else "it is empty"
        raise ValueError(f"no row could be read as a molecule ({first}); check the file and its column")
    count = Counter(name for _, graph in good for name in graph.atoms)
    names = sorted(count, key=lambda name: (-count[name], name))
    alphabet = Alphabet(tuple(names), BONDS if aromatic else BONDS[:4], max(len(graph.atoms) for _, graph in good))
    report = io.StringIO()
    table = csv.writer(report, lineterminator="\n")
    table.writerow(["part", "line", "smiles", "reason"])
    table.writerows([PARTS[row.part] if len(sources) > 1 else "", row.line, row.text, row.reason] for row in bad)
    write_text(prepared.with_suffix(".rejected.csv"), report.getvalue())
    if len(names) > 255:
        raise ValueError(f"{len(names)} kinds of atoms, expected at most 255; give molecules of fewer elements")
    with replacing(prepared) as temporary, open(temporary, "wb") as file:
        arrays = {**_arrays(good, alphabet, len(sources) > 1), "refused": np.array(len(bad))}
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _arrays(good: list[tuple[int, Graph]], alphabet: Alphabet, given_parts: bool) -> dict[str, np.ndarray]:
    n, category = alphabet.size, {name: k for k, name in enumerate(alphabet.atoms)}
    place = np.zeros((n, n), dtype=np.int64)
    place[np.triu_indices(n, 1)] = np.arange(n * (n - 1) // 2)
    atoms = np.zeros((len(good), n), dtype=np.uint8)
    bonds = np.zeros((len(good), n * (n - 1) // 2), dtype=np.uint8)
    for k, (_, graph) in enumerate(good):
        atoms[k, : len(graph.atoms)] = [category[name] for name in graph.atoms]
        for i, j, bond in graph.bonds:
            bonds[k, place[i, j]] = bond
    smiles = [graph.smiles for _, graph in good]
    parts = [part if given_parts else part_of(graph.smiles) for part, graph in good]
    return {
        "atoms": atoms,
        "bonds": bonds,
        "sizes": np.array([len(graph.atoms) for _, graph in good], dtype=np.int16),
        "part": np.array(parts, dtype=np.uint8),
        "smiles": np.frombuffer("\n".join(smiles).encode(), dtype=np.uint8),
        "alphabet": np.frombuffer(json.dumps(alphabet.to_json()).encode(), dtype=np.uint8),
    }


def load(prepared: Path) -> tuple[dict[str, np.ndarray], Alphabet, list[str]]:
    """The arrays of a prepared file, its alphabet and the canonical SMILES.

    Raises: ValueError if the file is damaged.
    """
    try:
        with np.load(prepared, allow_pickle=False) as file:
            arrays = dict(file)
        alphabet = Alphabet.from_json(json.loads(arrays.pop("alphabet").tobytes()))
        return arrays, alphabet, arrays.pop("smiles").tobytes().decode().split("\n")
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"{prepared} is damaged ({error}); remove it, it will be prepared again") from error
