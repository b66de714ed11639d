"""Tuned grids, kept in the folder of a checkpoint beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..reading import Document, expect
from ..samplers.grids import TimeGrid
from .checkpoint import GRIDS, attach, attached
from .tensors import CheckpointError

MOST = 1024  # steps of a grid that is kept
VALUES = {"value": float, "error": float, "uniform": float, "uniform_error": float}
RECORD: Document = {
    "times": [float], "overshoot": float, "by": str, "metric": str, "n": range(2**53), "seed": range(2**63),
    "versions": {str: str}, "guards": {str: VALUES}, **VALUES,
}  # fmt: skip  # of one number of steps


class Tuned(NamedTuple):
    """A grid with what it was found by.

    Arguments:
        grid: Times, overshoot and spread.
        record: As in ``grids.json``: how it was chosen (``by``), the ``metric`` with its ``value`` and ``error`` and
            those of equal steps on the same noise, ``guards``, ``n``, ``seed`` and ``versions``.
    """

    grid: TimeGrid
    record: Document

    @property
    def equal(self) -> bool:
        """Whether tuning found nothing better than plain jumps of equal steps."""
        return self.grid == TimeGrid.uniform(self.grid.steps)


def read_grids(folder: Path) -> dict[int, Tuned]:
    """The tuned grids of a checkpoint by their number of steps; none if it was never tuned.

    Raises: CheckpointError in one line if the file is not what :func:`keep_grid` writes.
    """
    try:
        document = attached(folder, GRIDS)
        return {} if document is None else parsed(document)
    except ValueError as error:
        remedy = "tune again by `flowmaps tune`, remove the file, or ask for the grid uniform"
        raise CheckpointError(f"{error}; {remedy}") from error


def keep_grid(folder: Path, tuned: Tuned) -> None:
    """Add the grid of one number of steps to those of a checkpoint; a file of nonsense is replaced.

    Raises: CheckpointError if the folder cannot be written.
    """
    try:
        kept = read_grids(folder)
    except CheckpointError:
        kept = {}
    kept[tuned.grid.steps] = tuned
    attach(folder, GRIDS, as_document(kept))


def as_document(kept: dict[int, Tuned]) -> Document:
    """Grids as ``grids.json`` has them."""
    grids = {
        str(steps): {**tuned.record, **tuned.grid._asdict(), "times": list(tuned.grid.times)}
        for steps, tuned in sorted(kept.items())
    }
    return {"grids": grids}


def parsed(document: Document) -> dict[int, Tuned]:
    """Grids from a document.

    Raises: ValueError naming the first value that is of another type or range.
    """
    expect(document, {"grids": {str: RECORD}}, GRIDS)
    kept = {}
    for name, record in document["grids"].items():
        times, where = record["times"], f"{GRIDS}.grids.{name:.20}"
        if not 2 <= len(times) <= MOST + 1 or name != str(len(times) - 1):
            raise ValueError(f"{where} has {len(times)} times, expected one more than its number of steps")
        spread = record.get("spread", 1.0)  # older files have none
        expect(spread, float, f"{where}.spread")
        grid = TimeGrid(tuple(map(float, times)), float(record["overshoot"]), float(spread))
        try:
            grid.sampler()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        kept[grid.steps] = Tuned(grid, record)
    return kept
