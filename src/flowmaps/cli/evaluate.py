"""``flowmaps evaluate CHECKPOINT``"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from jsonargparse import Namespace

from ..configuration.parsing import parse
from ..fields import Data, take
from ..files import write_json
from ..maps import FlowMap
from ..metrics.tables import lost_modes
from ..pictures import heading
from ..reading import Document
from ..samplers import Sampler
from ..samplers.grids import TimeGrid
from ..seeds import check_seed
from ..tasks.base import Task
from ..train.logs import finite
from ..train.state import versions
from .checkpoints import (
    add_grid,
    add_options,
    check_out,
    checkpoint_parser,
    chosen_options,
    grid_of,
    modality,
    open_checkpoint,
    origin,
    results,
    say_if_empty,
)
from .config import steps_list
from .tables import show

HELP = """Measure samples at several step counts and of the flow's own differential equation, beside real data."""
SHOWN = 64  # samples a row that are written as files

Rows = dict[str, dict[str, float]]


def run(arguments: Sequence[str]) -> int:
    p = checkpoint_parser("evaluate", HELP)
    p.add_argument("--steps", type=str, default="1,2,4,8", help="step counts of the flow map")
    more = "steps of the differential equation; 0 leaves it out (default: by the task)"
    p.add_argument("--ode", type=int | None, help=more)
    p.add_argument("--n", type=int | None, help="samples a row (default: by the task)")
    p.add_argument("--seeds", type=int, default=1, help="repetitions; the table then shows mean and spread")
    add_grid(p)
    p.add_argument("--uniform", type=bool, default=True, help="equal steps beside tuned ones, too")
    names = add_options(p, modality(arguments), "studies")
    cfg = parse(p, arguments)
    steps = steps_list(cfg.steps)
    check(cfg)
    opened = open_checkpoint(cfg)
    task = opened.task
    check_out(cfg, task)
    studies = task.studies(**chosen_options(p.instantiate(cfg), names))
    seeds = [cfg.seed + i for i in range(cfg.seeds)]
    n = cfg.n or task.samples
    data = task.of_data(cfg.n)  # first: it tells whether there are data enough
    grids = {n: grid_of(opened, n, cfg.grid) for n in steps}
    rows = on_grids(task.rows(steps, (task.ode if cfg.ode is None else cfg.ode) or None), grids, cfg.uniform)
    directory = results(cfg, opened, "evaluation")
    report: Document = {**origin(opened), "n": n, "seeds": seeds, "versions": versions(), "by_steps": {"data": data}}
    report["grids"] = {str(n): grid._asdict() for n, grid in grids.items()}
    keep = partial(_keep, directory / "metrics.json", report)
    _, samples = measure(task, opened.flow_map, rows, n, seeds, keep)
    task.write({name: take(row, slice(SHOWN)) for name, row in samples.items()}, directory)
    report["lost_modes"] = lost_modes(report["by_steps"])
    for name, study in studies.items():
        report[name], files = study(opened.flow_map, rows, n, cfg.seed, data, directory)
        if files:
            print("wrote " + ", ".join(str(file) for file in files))
    write_json(directory / "metrics.json", finite(report))
    show(report["by_steps"], f"{opened.folder}: {n} samples a row", task.headlines)
    print(f"wrote {directory / 'metrics.json'}")
    say_if_empty(opened)
    return 0


def _keep(file: Path, report: Document, line: str, rows: Rows) -> None:
    """Tell those who wait, and write the rows that are done: whoever interrupts has them."""
    print(line, file=sys.stderr)
    report["by_steps"] = {**rows, "data": report["by_steps"]["data"]}
    write_json(file, finite(report))


def check(cfg: Namespace) -> None:
    """Refuse numbers out of range.

    Raises: ValueError naming the option.
    """
    for name in ("seeds", "n"):
        value = getattr(cfg, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if cfg.ode is not None and cfg.ode < 0:
        raise ValueError(f"ode is {cfg.ode}, expected a number of steps, or 0 for none")
    check_seed(cfg.seed + cfg.seeds - 1)


def on_grids(rows: Mapping[str, Sampler], grids: Mapping[int, TimeGrid], uniform: bool) -> dict[str, Sampler]:
    """The rows of a table, jumps on the grids of their step counts; ``uniform`` puts as many equal ones beside."""
    result: dict[str, Sampler] = {}
    chosen = {str(n): grid for n, grid in grids.items() if grid != TimeGrid.uniform(n)}
    for name, sampler in rows.items():
        result[name] = chosen[name].sampler() if name in chosen else sampler
        if name in chosen and uniform:
            result[f"{name} uniform"] = sampler
    return result


def measure(
    task: Task,
    flow_map: FlowMap,
    rows: Mapping[str, Sampler],
    n: int,
    seeds: Sequence[int],
    tell: Callable[[str, Rows], None] | None = None,
) -> tuple[Rows, dict[str, Data]]:
    """Quality of ``n`` samples a row, and the samples of the first seed.

    With several seeds each value is a mean, and ``..._spread`` its standard deviation over them.

    Arguments:
        tell: Called with a line on each row that is done, for those who wait, and all rows so far.
    """
    device = flow_map.device
    values: Rows = {}
    samples: dict[str, Data] = {}
    for name, sampler in rows.items():
        runs, begun, drawing = [], time.monotonic(), 0.0
        for seed in seeds:
            start = time.monotonic()
            drawn = task.sample(flow_map, n, sampler, torch.Generator(device).manual_seed(seed))
            drawing += time.monotonic() - start
            samples.setdefault(name, drawn)
            runs.append(task.quality(drawn))
        values[name] = {metric: mean(run[metric] for run in runs) for metric in runs[0]}
        if len(runs) > 1:
            values[name] |= {f"{metric}_spread": stdev(run[metric] for run in runs) for metric in runs[0]}
        if tell is not None:
            judging = time.monotonic() - begun - drawing
            line = f"{heading(name)}: {n * len(seeds):,} samples drawn in {drawing:.0f} s, judged in {judging:.0f} s"
            tell(line, values)
    return values, samples
