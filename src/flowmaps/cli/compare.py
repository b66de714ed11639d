"""``flowmaps compare RUN RUN ...``"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..configuration.parsing import parse, parser, task_from
from ..files import write_json, write_text
from ..metrics.modes import GROUP
from ..metrics.tables import DATA, markdown
from ..pictures import heading
from .checkpoints import check_absent, new_folder
from .compare_plots import by_steps, curves_of
from .compared import Group, ends, grouped, read_run, settings, summary, ways
from .tables import show

HELP = """Runs side by side: how they ended, and what `flowmaps evaluate` measured, on the terminal, as Markdown, CSV
and JSON, and as pictures. Runs that differ by their seed alone are one column: mean ± standard deviation over
trainings."""
FILES = ("comparison.md", "comparison.csv", "comparison.json", "curves.png", "metrics.png")
Tables = dict[str, dict[str, dict[str, float]]]  # by way of sampling (or `training`), column and metric
TRAINING = "training"


def run(arguments: Sequence[str]) -> int:
    p = parser("compare RUN RUN", HELP)
    p.add_argument("runs", type=str, nargs="+", help="folders of runs, or checkpoints")
    p.add_argument("--metrics", type=str | None, help="names separated by commas (default: the headlines of the task)")
    p.add_argument("--out", type=str | None, help="folder of the files (default: a new one, comparison)")
    p.add_argument("--overwrite", action="store_true", help="replace earlier files there")
    cfg = parse(p, arguments)
    if len(cfg.runs) < 2:
        raise ValueError("compare needs two runs or more: flowmaps compare runs/a runs/b")
    if cfg.out:
        check_absent((Path(cfg.out) / name for name in FILES), cfg.overwrite)
    groups = grouped([read_run(name) for name in cfg.runs])
    tables = tables_of(groups)
    metrics = chosen(cfg.metrics, groups, tables)
    for name, table in tables.items():
        show(table, titled(name), metrics if name != TRAINING else ())
    differ = settings(groups)
    for name, values in differ.items():
        print(f"{name}: {', '.join(values)}")
    if len(tables) == 1:
        print("no run was measured; `flowmaps evaluate RUN` adds the quality of samples")
    directory = new_folder(Path("comparison")) if cfg.out is None else Path(cfg.out)
    print(f"wrote {', '.join(map(str, write(directory, groups, tables, metrics, differ)))}")
    return 0


def titled(name: str) -> str:
    """The title of a table."""
    return "how the trainings ended" if name == TRAINING else f"samples: {heading(name)}"


def tables_of(groups: Sequence[Group]) -> Tables:
    """What is compared; kinds of examples (modes) are left to `flowmaps evaluate`."""
    tables: Tables = {TRAINING: {group.title: summary([ends(run) for run in group.runs]) for group in groups}}
    for way in ways(groups):
        rows = {group.title: [run.by_steps[way] for run in group.runs if way in run.by_steps] for group in groups}
        tables[way] = {name: summary([plain(row) for row in found]) for name, found in rows.items() if found}
        if real := data_of(groups):
            tables[way][DATA] = real
    return tables


def data_of(groups: Sequence[Group]) -> dict[str, float]:
    """The metrics of real data that the first run with some has."""
    return next((plain(run.by_steps[DATA]) for group in groups for run in group.runs if DATA in run.by_steps), {})


def plain(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None and not name.startswith(GROUP)}


def chosen(names: str | None, groups: Sequence[Group], tables: Tables) -> list[str]:
    """The metrics that head the tables.

    Raises: ValueError if one is asked for that no run was measured by.
    """
    rows = [row for name, table in tables.items() if name != TRAINING for row in table.values()]
    known = [
        name for name in dict.fromkeys(name for row in rows for name in row) if not name.endswith(("_error", "_spread"))
    ]  # noqa: E501
    if names is None:
        heads = [name for name in task_from(groups[0].runs[0].config).headlines if name in known]
        return heads or known[:6]
    asked = names.split(",")
    if strange := [name for name in asked if name not in known]:
        raise ValueError(
            f"metrics has {strange[0]!r}, expected some of {', '.join(known) or 'none: nothing was measured'}"
        )
    return asked


def write(
    directory: Path, groups: Sequence[Group], tables: Tables, metrics: Sequence[str], differ: Mapping[str, list[str]]
) -> Iterator[Path]:
    """All files; a picture only where there is something to draw."""
    text, table, document, curves, measured = (directory / name for name in FILES)
    write_text(text, "\n".join(in_markdown(groups, tables, metrics, differ)))
    write_text(table, in_csv(tables))
    runs = {group.title: [str(run.folder) for run in group.runs] for group in groups}
    write_json(document, {"runs": runs, "settings": dict(differ), "tables": tables})
    yield from (text, table, document)
    recorded = {name for group in groups for run in group.runs for row in run.records for name in row}
    if losses := [
        name for name in ("train/loss", "valid/loss", "train/diagonal", "train/off_diagonal") if name in recorded
    ]:  # noqa: E501
        curves_of(curves, groups, losses)
        yield curves
    if metrics:
        found = [name for name in tables if name != TRAINING]
        rows = {way: {name: row for name, row in tables[way].items() if name != DATA} for way in found}
        by_steps(measured, found, rows, metrics, data_of(groups))
        yield measured


def in_markdown(
    groups: Sequence[Group], tables: Tables, metrics: Sequence[str], differ: Mapping[str, list[str]]
) -> Iterator[str]:
    """The tables, and in which settings the runs differ."""
    yield from ("# Runs side by side", "", "Mean ± standard deviation over n trainings that differ by their seed; "
                "for n = 1 ± is the error over samples, where one was measured.", "")  # fmt: skip
    for name, table in tables.items():
        yield from (f"## {titled(name).capitalize()}", "", *markdown(table, metrics if name != TRAINING else ()), "")
    if differ:
        head = [group.title for group in groups]
        yield from ("## Settings that differ", "", f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|")
        yield from (f"| {name} | {' | '.join(values)} |" for name, values in differ.items())
        yield ""


def in_csv(tables: Tables) -> str:
    """A line for each number, with its spread over trainings or its error."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "runs", "metric", "value", "spread", "error"])
    for name, table in tables.items():
        for column, row in table.items():
            for metric, value in row.items():
                if not metric.endswith(("_spread", "_error")):
                    more = [row.get(f"{metric}_{kind}", "") for kind in ("spread", "error")]
                    writer.writerow([name, column, metric, value, *more])
    return file.getvalue()
