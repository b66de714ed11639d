"""What comparisons share that keep records."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from flowmaps.files import write_json, write_text
from flowmaps.maps import EndpointMap, FlowMap
from flowmaps.objectives import Consistency
from flowmaps.objectives.lagrangian import LagrangianFamily
from flowmaps.reading import read_json
from flowmaps.times import FullJump, PairLaw, Triangle
from flowmaps.train import Report

FOREVER = 10**9  # updates, where a budget of time ends a training
SAID = "\n## What it says\n"


class Interrupted(Exception):
    """A signal ended a training before its budget: nothing of it may be recorded."""


def require_whole(report: Report) -> None:
    """Refuse a training that did not come to the end of its budget.

    A trainer answers SIGTERM and Ctrl-C by ending early and in order, as a run should that is continued later. A row of
    a table would have had less than its budget, and nobody could tell.

    Raises: Interrupted if a signal ended it.
    """
    if report.reason not in ("steps", "seconds"):
        raise Interrupted(
            f"{report.reason} ended a training after {report.step} updates, before its budget: not recorded"
        )


def commit() -> str:
    """The code that runs, wherever it is started from."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def remarks(page: Path) -> str:
    """What a person has concluded from a page of results, with its heading: kept when the table is written again.

    Empty where there is no page, or no such heading.
    """
    _, heading, text = page.read_text().partition(SAID) if page.exists() else ("", "", "")
    return heading + text


class Record:
    """Rows of a comparison, one by objective and seed: ``OUT.json``, and a page of it, ``OUT.md``.

    Rows that are there already stay, but for those that are made again. Each says when it was made and of which code.

    Arguments:
        out: The two files without their suffixes.
        settings: What all rows have in common.
        table: The page of a record, without the remarks.
    Raises: ValueError if rows of other settings are there.
    """

    def __init__(self, out: Path, settings: dict[str, Any], table: Callable[[dict[str, Any]], str]):
        self.path, self.page, self.table = out.with_suffix(".json"), out.with_suffix(".md"), table
        hardware = f"{platform.machine()} CPU, {torch.get_num_threads()} thread, torch {torch.__version__}, float32"
        self.result = {"hardware": hardware, "settings": settings, "rows": []}
        if self.path.exists():
            self.result = read_json(self.path)
        if (found := self.result["settings"]) != settings:
            raise ValueError(f"{self.path} has rows of {found}, expected {settings}; name another file with --out")
        self.made = {"date": datetime.date.today().isoformat(), "commit": commit()}

    def add(self, row: dict[str, Any]) -> None:
        """Put a row in the place of the one of that objective and seed, or at the end; write both files."""
        rows = {(old["objective"], old["seed"]): old for old in self.result["rows"]}
        rows[row["objective"], row["seed"]] = {**row, **self.made}
        self.result["rows"] = list(rows.values())
        write_json(self.path, self.result)
        write_text(self.page, self.table(self.result) + remarks(self.page))


def by_objective(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a record by their objective, one a seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault(row["objective"], []).append(row)
    return found


def over_seeds(values: Sequence[float], form: str = ".3g", error: str = ".2g") -> str:
    """Mean and, of several values, standard deviation; empty for none."""
    if not values:
        return ""
    return f"{mean(values):{form}}" + (f" ± {stdev(values):{error}}" if len(values) > 1 else "")


def origins(result: dict[str, Any]) -> str:
    """Hardware and settings of a record, and of which day, code and seeds its rows are."""
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items() if value is not None)
    together: dict[str, list[str]] = {}
    for name, rows in by_objective(result).items():
        days = " and ".join(sorted({f"{row['date']} (code of {row['commit']})" for row in rows}))
        seeds = ", ".join(str(row["seed"]) for row in rows)
        together.setdefault(f"{days}, seed {seeds}", []).append(name)
    lines = [f"- {made}: {'; '.join(names)}" for made, names in together.items()]
    return f"{result['hardware']}; {settings}\n\n" + "\n".join(lines)


def with_error(rows: Sequence[dict[str, Any]], key: str, metric: str, scale: float) -> tuple[float, float] | None:
    """A metric of one sampler over the seeds of an objective, and the error of its mean; of one seed, of its samples.

    ``None`` where a seed has no such value.
    """
    found = [row["by_steps"][key] for row in rows]
    if any(metric not in each for each in found):
        return None
    values = [scale * each[metric] for each in found]
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else scale * found[0].get(f"{metric}_error", 0.0)
    return mean(values), error


def by_metric(result: dict[str, Any], title: str, shown: Mapping[str, tuple[str, float]]) -> str:
    """A page with one table a metric, a row an objective and a column a sampler.

    Errors are of the mean over seeds where there are several, else those of the samples.

    Arguments:
        shown: Metrics, with their titles and by how much they are multiplied.
    """

    def cell(rows: list[dict[str, Any]], key: str, metric: str, scale: float) -> str:
        if (found := with_error(rows, key, metric, scale)) is None:
            return "none"
        value, error = found
        return f"{value:.3g}" + (f" ± {error:.2g}" if error else "")

    samplers = list(result["rows"][0]["by_steps"])
    lines = [f"# {title}", "", origins(result), ""]
    for metric, (heading, scale) in shown.items():
        columns = [*samplers, "updates"]
        lines += [f"## {heading}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, rows in by_objective(result).items():
            cells = [cell(rows, key, metric, scale) for key in samplers]
            cells.append(f"{mean(row['updates'] for row in rows):.0f}")
            lines.append(f"| {' | '.join([name, *cells])} |")
        lines.append("")
    return "\n".join(lines)


def jumps(consistency: Consistency | None, flow_map: FlowMap, probability: float) -> PairLaw:
    """Some full jumps, but not where nothing is asked of them.

    At t = 1 the Lagrangian identity of an endpoint map holds for whatever it decodes, so its loss leaves such jumps
    out. A comparison on equal budgets draws others in their place.
    """
    blind = isinstance(consistency, LagrangianFamily) and isinstance(flow_map, EndpointMap)
    return Triangle() if blind else FullJump(probability=probability)
