"""``flowmaps quickstart``: from nothing to measured samples of a categorical flow map on real digits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..configuration.parsing import parse
from ..fields import Data, take
from ..files import numbered, write_json
from ..likelihood import CutOff
from ..reading import Document
from ..train import Report
from ..train.folder import check_free, taken
from ..train.logs import finite
from .config import Experiment, experiment, steps_list, training_parser
from .evaluate import measure
from .presets import find_preset
from .tables import show
from .train import check_directory, fit, interrupted, summary

HELP = """Train a categorical flow map on scikit-learn's handwritten digits (preset `digits`), sample it in 1, 2, 4
and 8 steps and by its differential equation in 64, and measure the samples beside real data. About three minutes on
two cores. An earlier run in the same folder is kept under another name."""
NAIVE = ("--task.flow_map=flowmaps.maps.VelocityMap", "--objective.consistency=flowmaps.objectives.Lagrangian")


def run(arguments: Sequence[str]) -> int:
    p = training_parser("quickstart", HELP)
    p.add_argument("--out", type=str, default="runs/quickstart", help="folder of the run")
    p.add_argument("--seconds", type=float | None, help="time budget of the training (default: the preset's updates)")
    p.add_argument("--resume", action="store_true", help="continue an interrupted run")
    p.add_argument("--baseline", action="store_true", help="also train the naive baseline, under the same budget")
    p.add_argument("--steps", type=str, default="1,2,4,8", help="step counts that are measured")
    p.add_argument("--ode", type=int, default=64, help="steps of the differential equation")
    preset = f"--config={find_preset('digits')}"
    cfg = parse(p, [preset, *arguments])
    steps = steps_list(cfg.steps)
    if cfg.ode < 1:
        raise ValueError(f"ode is {cfg.ode}, expected at least 1 step")
    directory = Path(cfg.out)
    begun = time.monotonic()
    chosen = budgeted(experiment(p, cfg), cfg.seconds)
    baseline = None
    if cfg.baseline:
        baseline = budgeted(experiment(p, parse(p, [preset, *arguments, *NAIVE])), cfg.seconds)
    if not cfg.resume:
        step_aside(directory)
    check_directory(directory, cfg.resume)
    print(f"Training a categorical flow map on handwritten digits in {directory} ...", flush=True)
    report = fit(chosen, directory, cfg.resume)
    again = " ".join(["flowmaps quickstart", *arguments])
    if code := interrupted(report, again):
        return code
    results, samples = results_of(chosen, report, steps, cfg.ode)
    if baseline is not None:
        print("Training the naive baseline under the same budget ...", flush=True)
        naive = fit(baseline, directory / "naive", cfg.resume)
        if code := interrupted(naive, again):
            return code
        results["naive"], drawn = measured(chosen, naive, steps, cfg.ode)  # samples either map, with the same judge
        samples |= {f"naive {name}": row for name, row in drawn.items()}
    results["total_seconds"] = round(time.monotonic() - begun, 2)
    chosen.task.write(samples, directory)
    write_json(directory / "metrics.json", finite(results))
    tell(results, directory)
    return 0


def budgeted(chosen: Experiment, seconds: float | None) -> Experiment:
    """The experiment with another time budget, if one is given."""
    if seconds is None:
        return chosen
    config = {**chosen.config, "trainer": {**chosen.config["trainer"], "max_seconds": seconds}}
    return chosen._replace(trainer={**chosen.trainer, "max_seconds": seconds}, config=config)


def step_aside(directory: Path) -> None:
    """Rename an earlier run, unless it still goes on, and say so."""
    for place in (directory, directory / "naive"):
        check_free(place)
    if not taken(directory):
        return
    place = directory.rename(numbered(directory))
    print(f"The earlier run in {directory} is kept as {place}.")


def results_of(chosen: Experiment, report: Report, steps: Sequence[int], ode: int) -> tuple[Document, dict[str, Data]]:
    """What ``metrics.json`` says, and the samples that are drawn."""
    results = summary(chosen, report)
    with torch.no_grad():
        noise = torch.Generator(report.flow_map.device).manual_seed(results["seed"])
        bound = chosen.task.likelihood(report.flow_map, noise, CutOff())  # pyright: ignore[reportArgumentType]  (the preset's map predicts endpoints)
    results["nll_bits_per_dim"], results["nll_bits_per_dim_error"] = bound.bits_per_position, bound.bits_error
    results["nll_vacuous"] = bound.vacuous
    rows, samples = measured(chosen, report, steps, ode)
    results["by_steps"] = {**rows["by_steps"], "data": chosen.task.of_data()}
    return results, samples


def measured(chosen: Experiment, report: Report, steps: Sequence[int], ode: int) -> tuple[Document, dict[str, Data]]:
    """Quality by step count, with the time of training, and some samples of each row."""
    task = chosen.task
    rows = task.rows(steps, ode)
    by_steps, samples = measure(task, report.flow_map, rows, task.samples, [chosen.trainer["seed"]])
    few: dict[str, Data] = {name: take(row, slice(20)) for name, row in samples.items()}
    return {"train_seconds": round(report.seconds, 2), "by_steps": by_steps}, few


def tell(results: Document, directory: Path) -> None:
    """The table, and where to look."""
    show(results["by_steps"], f"Categorical flow map on digits, {results['train_seconds']:.0f} s of training")
    if "naive" in results:
        show(results["naive"]["by_steps"], f"The naive baseline, {results['naive']['train_seconds']:.0f} s of training")
    error = results["nll_bits_per_dim_error"]
    note = " (vacuous: no better than a uniform distribution)" if results["nll_vacuous"] else ""
    print(f"held-out bits per pixel, at most: {results['nll_bits_per_dim']:.3f} ± {error:.3f}{note}")
    print(f"look at {directory / 'samples.png'} and {directory / 'curves.png'}; numbers: {directory / 'metrics.json'}")
