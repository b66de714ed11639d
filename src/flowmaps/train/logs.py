"""What a run tells: one record per logging interval as JSONL and CSV, what else is told of them, and curves."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..files import same_file, write_text
from ..pictures import curves
from .tensors import CheckpointError, unwritable

log = logging.getLogger("flowmaps.train")
# the only numbers that differ between an unbroken and a resumed run
TIMINGS = ("seconds", "cpu_seconds", "examples_per_second")

Row = dict[str, Any]


class Window:
    """Running sums of the scalars of the updates since the last record; they stay on the device until they are read.

    >>> window = Window()
    >>> window.add({"loss": torch.tensor(1.0)})
    >>> window.add({"loss": torch.tensor(2.0)})
    >>> window.means()
    {'loss': 1.5}
    """

    def __init__(self, counts: Mapping[str, int] | None = None, total: Iterable[Tensor] = ()):
        self.counts = dict(sorted((counts or {}).items()))
        self.sums = dict(zip(self.counts, total, strict=True))

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            # always a new tensor: the next replay of a compiled graph may write over the one it returned
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()
            self.counts[name] = self.counts.get(name, 0) + 1

    def total(self, reduce: Callable[[Tensor], Tensor] = lambda total: total) -> Tensor:
        """The sums in alphabetical order, reduced over processes; what a checkpoint keeps beside the counts."""
        return reduce(torch.stack([self.sums[name] for name in sorted(self.sums)])) if self.sums else torch.zeros(0)

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda total: total) -> dict[str, float]:
        """The mean of each name; the one place that waits for the device."""
        total = self.total(reduce).tolist()
        return {name: value / self.counts[name] for name, value in zip(sorted(self.sums), total, strict=True)}


class Monitor(Protocol):
    """What numbers are told to, as loggers of Lightning Fabric are."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def finalize(self, status: str) -> None: ...


class Records:
    """The files ``metrics.jsonl`` and ``metrics.csv`` of a run, continued from a step.

    The table is the same records with one column for each name, in order of appearance. A number that is not finite is
    ``null`` in the first and empty in the second.

    Arguments:
        directory: The run's folder.
        step: Records beyond it are dropped, so that a resumed run's files equal those of an unbroken one but for
            ``TIMINGS``; so is a last line that a kill cut short.
        monitors: What each record is also told to; they are closed with the files.
    Raises: CheckpointError if a file cannot be written.
    """

    def __init__(self, directory: Path, step: int, monitors: Sequence[Monitor] = ()):
        self.path, self.table = directory / "metrics.jsonl", directory / "metrics.csv"
        self.picture = directory / "curves.png"
        self.rows = [row for row in read_records(self.path) if row["step"] <= step]
        self.columns: list[str] = []
        self._begin()
        self._monitors = monitors

    def write(self, row: Row) -> None:
        """Append one record; it is in the hands of the system when this returns."""
        row = {name: finite(value) for name, value in row.items()}
        self.rows.append(row)
        if same_file(self.path, self._file.fileno()) and same_file(self.table, self._csv.fileno()):
            self._append(row)
        else:
            log.warning("%s or %s was removed or replaced; both are written anew", self.path, self.table.name)
            self._file.close()
            self._csv.close()
            self._begin()
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        for monitor in self._monitors:
            monitor.log_metrics(numbers, row["step"])

    def moved(self, directory: Path, row: Row) -> Records:
        """All records so far, up to and with ``row``, in another folder."""
        self.close()
        rows = [*(past for past in self.rows if past["step"] < row["step"]), finite(row)] if row else self.rows
        with _writing(directory):
            write_text(directory / self.path.name, "".join(map(_line, rows)))
        return Records(directory, rows[-1]["step"] if rows else 0)

    def flush(self) -> None:
        """Put the records on the disk, before a checkpoint that presupposes them."""
        with _writing(self.path):
            os.fsync(self._file.fileno())

    def draw(self) -> None:
        """Draw the records so far as ``curves.png``."""
        rows = [{name: value for name, value in row.items() if name not in TIMINGS} for row in self.rows]
        if any(len(row) > 1 for row in rows):
            with _writing(self.picture):
                curves(self.picture, rows)

    def close(self) -> None:
        for file in (self._file, self._csv):
            with suppress(OSError):  # each record was flushed when it was written, and failed then if at all
                file.close()
        for monitor in self._monitors:
            monitor.finalize("success")

    def _begin(self) -> None:
        """Write the records so far, and open the files for more."""
        with _writing(self.path):
            write_text(self.path, "".join(map(_line, self.rows)))
            self._tabulate()
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            self._csv = open(self.table, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _append(self, row: Row) -> None:
        with _writing(self.path):
            self._file.write(_line(row))
            self._file.flush()
            if set(row) <= set(self.columns):
                csv.DictWriter(self._csv, self.columns, lineterminator="\n").writerow(row)
                self._csv.flush()
            else:
                self._csv.close()
                self._tabulate()
                self._csv = open(self.table, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _tabulate(self) -> None:
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        if self.columns:
            writer.writeheader()
        writer.writerows(self.rows)
        with _writing(self.table):
            write_text(self.table, text.getvalue())


def read_records(path: Path) -> list[Row]:
    """The records of a ``metrics.jsonl``, up to the first line that is not whole; none if there is no file."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(finite(row))
    return rows


def finite(value: Any) -> Any:  # noqa: ANN401  (of JSON)
    """``value`` as JSON has it: tensors and numpy numbers as Python's, numbers that are not finite as ``None``.

    >>> finite({"a": float("nan"), "b": torch.tensor(1)})
    {'a': None, 'b': 1}
    """
    if isinstance(value, Mapping):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(tree: Mapping[str, object], prefix: str) -> Row:
    """Nested results under slash-separated names.

    >>> flat({"by_steps": {"1": 0.5}}, "quality")
    {'quality/by_steps/1': 0.5}
    """
    row: Row = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}"
        row.update(flat(value, path) if isinstance(value, Mapping) else {path: value})
    return row


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


class _writing:
    """Turns the error of a full disk or a lost folder into one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            raise CheckpointError(unwritable(self.path, error, "the checkpoints are untouched")) from error
