"""``flowmaps train PRESET``"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..fields import Data
from ..files import write_json
from ..maps import FlowMap
from ..reading import Document
from ..tasks.base import Task
from ..train import Report, Trainer, read_config
from ..train.checkpoint import newest
from ..train.folder import check_free, taken
from ..train.state import versions
from ..train.verdict import nothing_learned
from .config import (
    Experiment,
    add_own_data,
    experiment,
    parse_with_own_data,
    preset_of,
    steps_list,
    training_parser,
)
from .evaluate import Rows, measure

HELP = """Train a preset (see `flowmaps presets`) or a YAML file. Every value can be overridden by its dotted name, such
as --trainer.max_steps 100 or --task.width 64; --print_config shows the configuration and stops."""


def run(arguments: Sequence[str]) -> int:
    p = training_parser("train PRESET", HELP)
    add_own_data(p)
    p.add_argument("--out", type=str | None, help="folder of the run (default: runs/PRESET)")
    p.add_argument("--resume", action="store_true", help="continue the run in that folder")
    p.add_argument("--quality", type=str | None, help="step counts whose samples are measured in the end, such as 1,4")
    preset = preset_of(p, arguments, "flowmaps train digits")
    if preset is None:
        return 0
    cfg = parse_with_own_data(p, preset, arguments)
    directory = Path(cfg.out or Path("runs") / preset.stem)
    check_directory(directory, cfg.resume)
    chosen = experiment(p, cfg)
    chosen = chosen._replace(config={**chosen.config, "command": shlex.join(["flowmaps", "train", *arguments])})
    steps = steps_list(cfg.quality) if cfg.quality else []
    report = fit(chosen, directory, cfg.resume, steps)
    code = interrupted(report, f"flowmaps train {' '.join(arguments)}")
    if code or not report.first:
        return code
    samples = draw(chosen.task, report.flow_map, [1, 2, 4, 8], chosen.task.drawn, chosen.trainer["seed"])
    chosen.task.write(samples, directory)
    write_json(directory / "metrics.json", summary(chosen, report))
    print(f"{report.step} updates in {report.seconds:.0f} s; {directory} holds samples, curves, metrics, checkpoint")
    if empty := nothing_learned(report.step, chosen.config, report.records):
        print(empty)
    return 0


def fit(chosen: Experiment, directory: Path, resume: bool, steps: Sequence[int] = ()) -> Report:
    """Train, telling on the way; samples at ``steps`` are measured when the trainer evaluates."""

    def evaluate(flow_map: FlowMap, step: int) -> Rows:
        task = chosen.task
        return measure(task, flow_map, task.rows(steps, None), task.samples, [chosen.trainer["seed"]])[0]

    with told():
        saved = newest(directory / "checkpoint") if resume else None
        if saved is not None and isinstance(state := read_config(saved).get("state"), Mapping):
            chosen.task.restore(state)  # the data must still teach it: what is learned by chance is not learned anew
        trainer = chosen.fit_on(directory, evaluate if steps else None)
        return _fit(trainer, resume)


def _fit(trainer: Trainer, resume: bool) -> Report:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return trainer.fit(resume)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}; see accelerator, devices and strategy") from error


def summary(chosen: Experiment, report: Report) -> Document:
    """What ``metrics.json`` says of a training."""
    from ..train.logs import finite

    return finite({
        "train_seconds": round(report.seconds, 2), "steps": report.step, "reason": report.reason,
        "seed": chosen.trainer["seed"], "versions": versions(), "last": report.metrics,
    })  # fmt: skip


def draw(task: Task, flow_map: FlowMap, steps: Sequence[int], n: int, seed: int) -> dict[str, Data]:
    """``n`` samples a step count, all from the same noise."""
    device = flow_map.device
    make: Callable[[], torch.Generator] = lambda: torch.Generator(device).manual_seed(seed)  # noqa: E731
    return {name: task.sample(flow_map, n, sampler, make()) for name, sampler in task.rows(steps, None).items()}


def interrupted(report: Report, command: str) -> int:
    """The exit code of a training that a signal ended, 0 for others."""
    if not report.reason.startswith("SIG"):
        return 0
    again = command if "--resume" in command else f"{command} --resume"
    if report.first:
        print(f"{report.reason} at update {report.step}, saved; continue with: {again}", file=sys.stderr)
    return 128 + signal.Signals[report.reason]


def check_directory(directory: Path, resume: bool) -> None:
    """Refuse a folder that cannot be written, in which a training goes on, or that holds a run and is not to resume it.

    Raises: ValueError naming it.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file, expected a folder for the run; choose another --out")
    check_free(directory)
    if (found := taken(directory)) and not resume:
        raise ValueError(
            f"{directory} holds {found} of an earlier run; add --resume to continue it there, or choose another --out"
        )
    place = next(place for place in (directory.absolute(), *directory.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"cannot write in {place}; choose another --out")


@contextmanager
def told():
    """Where no bar can be drawn, the records of a training are told line by line."""
    log, handler = logging.getLogger("flowmaps"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for noisy in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    level, before = log.level, log.propagate
    log.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = before
