"""Rows of SMILES out of tables as people keep them; a damaged row stays one row."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..reading import check_size, packing, read_text
from .molecules_graph import Unreadable, parse

Rows = list[tuple[int, str]]
Lines = Sequence[tuple[int, str]]
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
SPANNED = 1_000  # lines that one quoted cell may go over
ROW_BYTES = 250  # of memory, about, that a line takes


class _Record(NamedTuple):
    """A row of a table: its first line, its cells (``None`` if a quotation mark lacks its partner), and its text."""

    line: int
    cells: list[str] | None
    text: str


def read_smiles(path: str | os.PathLike, column: str | int | None = None) -> Rows:
    """The SMILES of a file with their line numbers (from 1), blank lines left out.

    ``.csv`` and ``.tsv`` files have columns, parted by what their first rows are parted by (comma, semicolon, tab);
    in all others SMILES is the first word of a line, unless they are such a table, too. A header is recognised by a
    cell named ``smiles``, by ``column`` being a name, or because its cell is no SMILES while the next one is.
    Any file may be packed as ``.gz`` or ``.xz``; suffixes may be in upper case, lines end in any way.

    A row whose quotation mark is never closed, or that has more cells than the header so that its SMILES may have
    moved, comes back whole, as a text that is no SMILES; the rows after it are read as if it were in order.

    Arguments:
        column: Name or number (from 0) of the column; default ``smiles`` (in any case), else the only one whose name
            contains it, else the first.
    Raises: ValueError if the file is missing, no text, too large or without rows, or has no such column.
    """
    path = Path(path).expanduser()
    text = read_text(path)
    check_size(f"{path} as rows", ROW_BYTES * text.count("\n"))
    lines = list(_lines(text))
    usual = DELIMITERS.get(path.with_suffix("").suffix.lower() if packing(path) else path.suffix.lower())
    if lines and (mark := re.fullmatch(r"sep=(.)\s*", lines[0][1], re.IGNORECASE)):  # as Excel writes it
        usual, lines = mark[1], lines[1:]
    if not lines:
        raise ValueError(f"{path} holds no row; give a file with one SMILES a line")
    delimiter = _delimiter(path, lines, usual, column)
    first = _first(lines, delimiter)
    place, header = _column(path, first, column)
    width = len(first[0])

    def is_row(cells: list[str]) -> bool:
        return len(cells) == width and _parses(cells[place])

    rows = [(record.line, _smiles(record, place, width if header else None))
            for record in islice(_records(lines, delimiter, is_row), header, None)]  # fmt: skip
    if not rows:
        raise ValueError(f"{path} holds a header and no row; give a file with one SMILES a line")
    return rows


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    number, start = 1, 0
    for match in re.finditer(r"[^\n]+", text):
        number += text.count("\n", start, match.start())
        start = match.start()
        if not match[0].isspace():
            yield number, match[0]


def _smiles(record: _Record, place: int, width: int | None) -> str:
    """The cell of the SMILES, or the row's whole text if nobody can tell which it is."""
    if record.cells is None:
        return record.text
    more = record.cells if width is None else record.cells[width:]
    if place and width is not None and any(more):
        return record.text
    return record.cells[place] if place < len(record.cells) else ""


def _records(
    lines: Lines, delimiter: str | None, is_row: Callable[[list[str]], bool] = lambda cells: False
) -> Iterator[_Record]:
    """Rows of a table that are not blank.

    A quoted cell may go over several lines, but not over lines that are rows themselves by ``is_row``: then it is a
    stray mark that would swallow them.
    """
    k = 0
    while k < len(lines):
        cells = _cells(lines[k][1], delimiter)
        taken = 1 if cells is not None else _spanned(lines[k : k + SPANNED], delimiter, is_row)
        text = "\n".join(line for _, line in lines[k : k + taken])
        if taken > 1:
            cells = _cells(text, delimiter)
        if cells is None or any(cells):
            yield _Record(lines[k][0], cells, text)
        k += taken


def _spanned(lines: Lines, delimiter: str | None, is_row: Callable[[list[str]], bool]) -> int:
    """How many lines the row takes whose first line ends within a quoted cell; 1 if that mark is a stray one."""
    marks = lines[0][1].count('"')
    for k, (_, line) in enumerate(lines[1:], 1):
        alone = _cells(line, delimiter)
        if alone is not None and is_row(alone):
            return 1
        marks += line.count('"')
        if '"' in line and marks % 2 == 0:
            return k + 1 if _cells("\n".join(line for _, line in lines[: k + 1]), delimiter) is not None else 1
    return 1


def _cells(text: str, delimiter: str | None) -> list[str] | None:
    """The cells of one row, words without a delimiter; ``None`` if its quotation marks do not fit."""
    if delimiter is None or '"' not in text:
        return [cell.strip() for cell in text.split(delimiter)]
    cells, field, at = [], _field(delimiter), 0
    while (match := field.match(text, at)) is not None:
        quoted, plain, end = match.groups()
        cells.append((plain if quoted is None else quoted.replace('""', '"')).strip())
        if not end:
            return cells
        at = match.end()
    return None


@cache
def _field(delimiter: str) -> re.Pattern[str]:
    """A quoted cell, or one that does not begin with a mark, up to the delimiter; of any length, unlike ``csv``'s."""
    d = re.escape(delimiter)
    return re.compile(rf' *(?:"([^"]*(?:""[^"]*)*)" *|(?!")([^{d}\n]*))({d}|\Z)')


def _delimiter(path: Path, lines: Lines, usual: str | None, column: str | int | None) -> str | None:
    """What parts the cells: that by which most of the first rows have a SMILES in its column; if none, the usual."""

    def readable(delimiter: str | None) -> int:
        first = _first(lines, delimiter, 6)
        try:
            place, header = _column(path, first, column)
        except ValueError:
            return 0 if delimiter == usual else -1
        return sum(place < len(cells) and _parses(cells[place]) for cells in first[header:])

    return max(dict.fromkeys((usual, ",", ";", "\t")), key=readable)


def _first(lines: Lines, delimiter: str | None, n: int = 2) -> list[list[str]]:
    """The cells of the first ``n`` rows."""
    records = islice(_records(lines[: 10 * n], delimiter), n)
    return [[record.text] if record.cells is None else record.cells for record in records] or [[""]]


def _column(path: Path, first: list[list[str]], column: str | int | None) -> tuple[int, int]:
    """The place of the SMILES column and the number of header rows."""
    head = [cell.lower() for cell in first[0]]
    shown = ", ".join(map(repr, first[0]))[:200]
    if isinstance(column, str) and (column.lower() in head or not column.isdecimal()):
        if column.lower() not in head:
            raise ValueError(f"{path} has no column {column!r}; its first row is {shown}")
        return head.index(column.lower()), 1
    if column is None:
        named = [k for k, cell in enumerate(head) if cell == "smiles"] or _like_smiles(first[0])
        if len(named) > 1:
            raise ValueError(f"{path} has several columns of SMILES among {shown}; name one: column")
        if named:
            return named[0], 1
    place = int(column or 0)
    if place < 0 or place >= len(head):
        raise ValueError(f"{path} has {len(head)} columns, so there is no column {place}; count from 0")
    if len(first) < 2 or place >= len(first[1]):
        return place, int("smiles" in head[place])
    word = re.fullmatch(r"[\w .:-]*", head[place]) and not _parses(first[0][place])  # else it is a damaged row
    return place, int("smiles" in head[place] or bool(word and _parses(first[1][place])))


def _like_smiles(head: list[str]) -> list[int]:
    """Columns of a header such as ``canonical_smiles``."""
    return [k for k, cell in enumerate(head) if "smiles" in cell.lower() and not _parses(cell)]


def _parses(text: str) -> bool:
    try:
        return parse(text) is not None
    except Unreadable:
        return False
