"""A table of numbers out of a text file, as spreadsheets and numerical programs write them."""

from __future__ import annotations

import csv
import os
import re
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..reading import characters, check_size

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
LINE = 2**20  # characters that one row may have
OFTEN = 2**16  # rows after which the size is looked at


class Table(NamedTuple):
    """Numbers ``(rows, columns)``, float64, and the names of their columns."""

    names: list[str]
    numbers: np.ndarray


def read_table(path: str | os.PathLike) -> Table:
    """The numbers of a file, one row a line; blank lines and lines that begin with ``#`` are left out.

    Cells are parted by tabs, else by semicolons, else by commas, whichever the first row has, else by spaces. The
    first row names the columns if none of its cells is a number. The file may be packed as ``.gz`` or ``.xz``.

    Raises: ValueError naming the line of a cell that is no finite number or of a row that has another length, or if the
        file is missing, no text, too large or without rows.
    """
    path = Path(path).expanduser()
    names, numbers, width, rows = None, array("d"), 0, 0
    for record in records(path):
        line, names, width, row = record
        if len(row) != width:
            raise ValueError(f"{path}, line {line} has {len(row)} cells where the first row has {width}; complete it")
        numbers.extend(finite_number(cell, f"{path}, line {line}, column {i}") for i, cell in enumerate(row, 1))
        rows += 1
        if rows % OFTEN == 0:
            check_size(str(path), 8 * len(numbers))
    if not rows:
        raise ValueError(f"{path} holds no row of numbers; give a file with one point a line, such as 0.5,-1.2")
    return Table(names or [f"x{i + 1}" for i in range(width)], np.array(numbers).reshape(rows, width))


class Record(NamedTuple):
    """A row of a table: its line, the names of the columns if the first row has them, its cells and theirs."""

    line: int
    names: list[str] | None
    width: int
    cells: list[str]


def records(path: Path) -> Iterator[Record]:
    """The rows of a file but for the one that names the columns, parted as :func:`read_table` says."""
    names, width, delimiter = None, 0, None
    for line, text in rows_of(path):
        if not width:
            delimiter = next((mark for mark in "\t;," if mark in text), None)
        row = cells(text, delimiter)
        if not width:
            width = len(row)
            if not any(NUMBER.fullmatch(cell) for cell in row):
                names = row
                continue
        yield Record(line, names, width, row)


def rows_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers from 1."""
    rest, number = "", 0
    for part in chain(characters(path), ("\n",)):
        *lines, rest = (rest + part).split("\n")
        for line in lines:
            number += 1
            if line.strip() and not line.lstrip().startswith("#"):
                yield number, line
        if len(rest) > LINE:
            raise ValueError(f"{path}, line {number + 1} has more than {LINE:,} characters; give one point a line")


def cells(text: str, delimiter: str | None) -> list[str]:
    """The cells of a line."""
    if delimiter is None:
        return text.split()
    if '"' in text:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))]
    return [cell.strip() for cell in text.split(delimiter)]


def finite_number(cell: str, where: str) -> float:
    """The number of a cell.

    Raises: ValueError naming ``where`` it stands if it is none, or not finite.
    """
    value = float(cell) if NUMBER.fullmatch(cell) else None
    if value is None:
        hint = (
            "write it with a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", cell) else "mend it or leave the row out"
        )
        raise ValueError(f"{where} is {cell[:40]!r}, expected a number; {hint}")
    if not abs(value) < float("inf"):
        raise ValueError(f"{where} is {cell[:40]!r}, expected a finite number; mend it or leave the row out")
    return value
