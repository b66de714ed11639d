"""What was measured, for people: the metrics that head a modality, its modes, and all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..pictures import heading
from .modes import GROUP, beside, differing, lost

ByRow = Mapping[str, Mapping[str, float]]
DATA = "data"  # the row of real examples
MARKS = "< and > differ from the data by more than chance and by a quarter; << is less than half as often: lost"


class Table(NamedTuple):
    """One table.

    Arguments:
        title: What it shows; empty for the first.
        lines: The name of each metric, and a cell for each way of sampling.
        below: What is said in words.
    """

    title: str
    lines: list[tuple[str, list[str]]]
    below: list[str]


def tables(by_steps: ByRow, headlines: Sequence[str] = ()) -> list[Table]:
    """All tables that are not empty, the headlines first.

    Arguments:
        by_steps: The metrics of each way of sampling, and of ``data``.
        headlines: Metrics of the first table; by default all but the modes.
    """
    metrics = dict.fromkeys(metric for row in by_steps.values() for metric in row)
    shown = [metric for metric in metrics if not metric.endswith(("_error", "_spread"))]
    plain = [metric for metric in shown if not metric.startswith(GROUP)]
    first = [metric for metric in plain if not headlines or metric in headlines]
    found = [
        Table("", _lines(by_steps, first), []),
        _modes(by_steps, [metric for metric in shown if metric.startswith(GROUP)]),
        Table("all other metrics", _lines(by_steps, [metric for metric in plain if metric not in first]), []),
    ]
    return [table for table in found if table.lines]


def _lines(by_steps: ByRow, metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [(metric, [_cell(row, metric) for row in by_steps.values()]) for metric in metrics]


def _modes(by_steps: ByRow, metrics: Sequence[str]) -> Table:
    """The modes that samples or data have, marked where they differ; the lost ones named."""
    present = [metric for metric in metrics if any(row.get(metric) for row in by_steps.values())]
    missing, marks = lost_modes(by_steps), {}
    for name, row in by_steps.items():
        found = beside(row, by_steps.get(DATA, {}))
        marks[name] = {GROUP + mode: "<>"[found[mode].z > 0] for mode in differing(found)}
        marks[name] |= {GROUP + mode: "<<" for mode in missing.get(name, [])}
    gone = [f"lost in {heading(name)}: {', '.join(modes)}" for name, modes in missing.items() if modes]
    lines = [
        (
            metric.removeprefix(GROUP),
            [f"{_cell(row, metric)} {marks[name].get(metric, '')}".strip() for name, row in by_steps.items()],
        )
        for metric in present
    ]
    compared = len(by_steps) > 1 and DATA in by_steps
    return Table("modes", lines, [MARKS, *(gone or ["no mode is lost"])] if compared else [])


def lost_modes(by_steps: ByRow) -> dict[str, list[str]]:
    """The modes of the data that each way of sampling has lost; none are known without a row of data."""
    data = by_steps.get(DATA, {})
    return {name: lost(beside(row, data)) for name, row in by_steps.items() if name != DATA}


def _cell(row: Mapping[str, float], metric: str) -> str:
    """A value, and its spread or error where it has one."""
    if row.get(metric) is None:
        return "-"
    error = row.get(f"{metric}_spread", row.get(f"{metric}_error"))
    return f"{row[metric]:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def markdown(by_steps: ByRow, headlines: Sequence[str] = ()) -> list[str]:
    """The same as Markdown."""
    head = [f"| | {' | '.join(by_steps)} |", "|---" * (len(by_steps) + 1) + "|"]
    lines: list[str] = []
    for table in tables(by_steps, headlines):
        lines += ["", f"### {table.title.capitalize()}", ""] if table.title else []
        lines += head + [f"| {' | '.join([metric.replace('_', ' '), *cells])} |" for metric, cells in table.lines]
        lines += [""] * bool(table.below) + [f"{line[0].upper()}{line[1:]}.  " for line in table.below]
    return lines
