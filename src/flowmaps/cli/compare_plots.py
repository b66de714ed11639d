"""Pictures of runs side by side: records by update, and what was measured by number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..pictures import panels, save
from .compared import Group, series

Rows = Mapping[str, Mapping[str, float]]  # of one way of sampling, by group


def curves_of(path: Path, groups: Sequence[Group], names: Sequence[str]) -> None:
    """Draw records of several groups by update: a line is a mean, a band the standard deviation over trainings."""
    figure, axes = panels(len(names), 2, 5.0, 3.2)
    for axis, name in zip(axes, names, strict=True):
        for group in groups:
            if points := series(group, name):
                steps, means, spread = (list(part) for part in zip(*points, strict=True))
                (line,) = axis.plot(steps, means, linewidth=1.2, label=group.title)
                low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
                axis.fill_between(steps, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
        axis.set(title=name, xlabel="update")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, path)


def by_steps(path: Path, ways: Sequence[str], tables: Mapping[str, Rows], metrics: Sequence[str], data: Mapping[str, float]) -> None:  # fmt: skip  # noqa: E501
    """Draw metrics by way of sampling, a line for each group, real data as a dashed line.

    Arguments:
        ways: In order.
        tables: What each group has in each of them, and its spread or error.
    """
    figure, axes = panels(len(metrics), 3, 4.2, 3.2)
    for axis, metric in zip(axes, metrics, strict=True):
        for name in dict.fromkeys(name for rows in tables.values() for name in rows):
            there = [(i, row) for i, way in enumerate(ways) if metric in (row := tables[way].get(name, {}))]
            bars = [row.get(f"{metric}_spread", row.get(f"{metric}_error", 0.0)) for _, row in there]
            axis.errorbar(
                [i for i, _ in there], [row[metric] for _, row in there], bars, label=name, marker="o", capsize=3
            )
        if metric in data:
            axis.axhline(data[metric], linestyle="--", color="grey", label="data")
        axis.set(title=metric.replace("_", " "), xticks=range(len(ways)), xticklabels=ways, xlabel="steps")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, path)
