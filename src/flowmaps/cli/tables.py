"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..metrics.tables import ByRow, tables
from ..pictures import heading


def show(by_steps: ByRow, title: str, headlines: Sequence[str] = ()) -> None:
    """Print the tables: one line a metric, one column a way of sampling."""
    from rich.console import Console
    from rich.table import Table as Drawn

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in tables(by_steps, headlines):
        drawn = Drawn(title=table.title or title, title_justify="left")
        drawn.add_column("", no_wrap=True)
        for name in by_steps:
            drawn.add_column(heading(name), justify="right")
        for metric, cells in table.lines:
            drawn.add_row(metric, *cells)
        console.print(drawn)
        for line in table.below:
            console.print(line, markup=False)
