"""Chosen columns of a table of numbers and texts, such as a catalogue of earthquakes; every row is accounted for."""

from __future__ import annotations

import os
import re
import warnings
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..reading import check_size
from .points_table import OFTEN, finite_number, records

Choose = Callable[[list[str] | None, list[str]], list[int]]  # of names, if there are any, and the first row
Check = Callable[[Sequence[float]], str | None]  # what is wrong with the numbers of a row
TOLD = 5  # damaged rows that are told one by one


class Columns(NamedTuple):
    """Numbers ``(rows, columns)``, float64, and the names of their columns.

    Arguments:
        left_out: Line and complaint of each row that is not among them.
    """

    names: list[str]
    numbers: np.ndarray
    left_out: list[str]


def read_columns(path: str | os.PathLike, choose: Choose, check: Check, skip: bool = False) -> Columns:
    """Some columns of a file of one row a line, parted and named as in :func:`~flowmaps.data.points_table.read_table`.

    Arguments:
        choose: Which columns, by their number from 0.
        check: Says what is wrong with a row whose cells are numbers.
        skip: Leave damaged rows out, with a warning that counts them, instead of refusing the file.
    Raises: ValueError naming the lines of rows that are damaged and how many there are, or if nothing is left.
    Invariant: rows that are read and rows that are left out are all rows (``tests/data/test_columns.py``).
    """
    path = Path(path).expanduser()
    names, chosen = None, list[int]()
    numbers, damaged, kept = array("d"), list[str](), 0
    for line, names, width, row in records(path):
        if not chosen:
            chosen = _chosen(path, choose, names, row)
        try:
            numbers.extend(_numbers(row, chosen, width, names, check))
            kept += 1
        except ValueError as error:
            damaged.append(f"line {line}: {error}")
        if (kept + len(damaged)) % OFTEN == 0:
            check_size(str(path), 8 * len(numbers))
    _answer(path, damaged, kept, skip)
    titles = [names[i] for i in chosen] if names else [f"x{i + 1}" for i in chosen]
    return Columns(titles, np.array(numbers).reshape(kept, len(chosen)), damaged)


def _chosen(path: Path, choose: Choose, names: list[str] | None, row: list[str]) -> list[int]:
    try:
        return choose(names, row)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _numbers(row: list[str], chosen: list[int], width: int, names: list[str] | None, check: Check) -> list[float]:
    if len(row) != width:
        raise ValueError(f"it has {len(row)} cells where the first row has {width}")
    title = lambda i: names[i] if names else f"column {i + 1}"  # noqa: E731
    values = [finite_number(row[i], title(i)) for i in chosen]
    if (wrong := check(values)) is not None:
        raise ValueError(wrong)
    return values


def _answer(path: Path, damaged: list[str], kept: int, skip: bool) -> None:
    """Refuse or report what is damaged."""
    if not kept and not damaged:
        raise ValueError(f"{path} holds no row of numbers; give a file with one row a line")
    if not damaged:
        return
    more = f"; and {len(damaged) - TOLD} more" if len(damaged) > TOLD else ""
    said = f"{path}: {len(damaged)} of {kept + len(damaged)} rows are damaged ({'; '.join(damaged[:TOLD])}{more})"
    if not skip:
        raise ValueError(f"{said}; mend them, or leave them out by --task.skip true")
    if not kept:
        raise ValueError(f"{said}, and none is left")
    warnings.warn(f"{said}; they are left out", stacklevel=3)


def plain(name: str) -> str:
    """A column's name without its case and unit: ``Latitude (deg)`` and ``LATITUDE_deg`` are ``latitude``."""
    return re.split(r"[\s_(\[]", name.strip().lower())[0]


def by_name(wanted: str, names: list[str] | None, row: list[str]) -> list[int]:
    """The columns that a text such as ``lat,lon`` or ``3,4`` means, by name or by number from 1.

    Raises: ValueError naming the first that is not there.
    """
    found = list[int]()
    for part in (part.strip() for part in wanted.split(",")):
        same = [i for i, name in enumerate(names or []) if name.strip().lower() == part.lower()]
        same = same or [i for i, name in enumerate(names or []) if plain(name) == part.lower()]
        if not same and part.isdecimal() and 1 <= int(part) <= len(row):
            same = [int(part) - 1]
        if not same:
            there = ", ".join(names) if names else f"1 to {len(row)}, without names"
            raise ValueError(f"there is no column {part!r}; its columns are {there}")
        found.append(same[0])
    return found
