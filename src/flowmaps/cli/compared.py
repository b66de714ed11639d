"""Runs side by side: what each left behind, which differ by their seed alone, and means with their spread."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from ..hub import find
from ..hub.card import measured
from ..reading import Document
from ..train import read_config, read_state
from ..train.checkpoint import run_of
from ..train.logs import Row, read_records

SEEDED = ("seed",)  # settings of the trainer that make no other experiment
ENDS = ("train/loss", "valid/loss", "train/diagonal", "seconds", "cpu_seconds")  # records whose last value is compared


class Found(NamedTuple):
    """What a run left behind.

    Arguments:
        folder: Of the run.
        config: Of its newest checkpoint.
        step: Updates behind it.
        records: In order.
        by_steps: What `flowmaps evaluate` measured last, by way of sampling; nothing if it was not run.
    """

    folder: Path
    config: Document
    step: int
    records: list[Row]
    by_steps: Mapping[str, Mapping[str, float]]

    @property
    def seed(self) -> object:
        return self.config.get("trainer", {}).get("seed")


class Group(NamedTuple):
    """Runs that differ by their seed alone; ``name`` is that of the first."""

    name: str
    runs: list[Found]

    @property
    def title(self) -> str:
        seeds = ", ".join(str(run.seed) for run in self.runs)
        return f"{self.name}, n = {len(self.runs)} (seeds {seeds})" if len(self.runs) > 1 else f"{self.name}, n = 1"


def read_run(name: str) -> Found:
    """What the run of a folder, or of one of its checkpoints, left behind.

    Raises: CheckpointError, ValueError in one line if it holds no checkpoint, or a file is damaged.
    """
    checkpoint = find(name)
    folder = run_of(checkpoint) or checkpoint
    report = measured(checkpoint) or _of_quickstart(folder)
    step = int(read_state(checkpoint).get("step") or 0)
    return Found(
        folder, read_config(checkpoint), step, read_records(folder / "metrics.jsonl"), report.get("by_steps", {})
    )


def _of_quickstart(folder: Path) -> Document:
    file = folder / "metrics.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); remove it, and run `flowmaps evaluate` on the run") from None
    return found if isinstance(found, dict) else {}


def grouped(runs: Sequence[Found]) -> list[Group]:
    """The runs in groups, in the order they were given."""
    groups: dict[str, Group] = {}
    for run in runs:
        key = json.dumps(without_seed(run.config), sort_keys=True)
        groups.setdefault(key, Group(run.folder.name, [])).runs.append(run)
    names = [group.name for group in groups.values()]
    return [group if names.count(group.name) == 1 else group._replace(name=str(group.runs[0].folder))
            for group in groups.values()]  # fmt: skip


def without_seed(config: Document) -> Document:
    """What makes an experiment: task, objective and trainer but for the seed."""
    result = {name: copy.deepcopy(config.get(name)) for name in ("task", "objective", "trainer")}
    for name in SEEDED:
        if isinstance(result["trainer"], dict):
            result["trainer"].pop(name, None)
    return result


def settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The settings in which groups differ, by their dotted name, a value for each group."""
    trees = [_flat(without_seed(group.runs[0].config)) for group in groups]
    names = dict.fromkeys(name for tree in trees for name in tree)
    rows = {name: [str(tree.get(name, "-")) for tree in trees] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _flat(tree: object, name: str = "") -> dict[str, object]:
    if not isinstance(tree, Mapping):
        return {name: tree}
    parts = (_flat(part, f"{name}.{key}" if name else str(key)) for key, part in tree.items() if part is not None)
    return {key: value for part in parts for key, value in part.items()}


def summary(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each number over trainings, with ``..._spread``, its standard deviation, where there are several.

    A single training keeps the errors that it came with; of several, they are part of the spread.

    >>> summary([{"fcd": 1.0, "fcd_error": 0.1}, {"fcd": 2.0, "fcd_error": 0.1}])["fcd"]
    1.5
    """
    result: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [value for row in rows if isinstance(value := row.get(name), int | float)]
        part_of_spread = name.endswith(("_error", "_spread")) and len(rows) > 1
        if len(values) < len(rows) or not values or part_of_spread:
            continue
        result[name] = mean(values)
        if len(values) > 1:
            result[f"{name}_spread"] = stdev(values)
    return result


def ends(run: Found) -> Row:
    """The last of each record that is compared, and the updates."""
    last = {name: row[name] for row in run.records for name in ENDS if row.get(name) is not None}
    return {"updates": run.step, **{name: last[name] for name in ENDS if name in last}}


def ways(groups: Iterable[Group]) -> list[str]:
    """The ways of sampling that some run was measured by, data last."""
    found = dict.fromkeys(way for group in groups for run in group.runs for way in run.by_steps)
    return [way for way in found if way != "data"]


def series(group: Group, name: str) -> list[tuple[float, float, float]]:
    """A record of a group by update: mean and standard deviation over the runs, where all of them have it."""
    values: dict[int, list[float]] = {}
    for run in group.runs:
        for row in run.records:
            if isinstance(value := row.get(name), int | float):
                values.setdefault(row["step"], []).append(value)
    whole = {step: found for step, found in sorted(values.items()) if len(found) == len(group.runs)}
    return [(step, mean(found), stdev(found) if len(found) > 1 else 0.0) for step, found in whole.items()]
