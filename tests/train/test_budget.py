"""Budgets of time, and runs that write no file."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from flowmaps.train import CheckpointError, Cosine, read_state
from flowmaps.train.clock import Clock
from flowmaps.train.logs import TIMINGS, read_records
from flowmaps.train.parallel import launchable
from flowmaps.train.run import Run
from flowmaps.train.settings import Budget
from train.toys import LeastSquares, trainer


def busy(seconds: float) -> None:
    """Use the processor for so long."""
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass


class Slow(LeastSquares):
    """An update takes 20 ms of processor time."""

    def after_step(self) -> None:
        super().after_step()
        busy(0.02)


def plain(rows):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def test_a_run_without_a_directory_writes_nothing_and_learns_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quality = {"evaluate": lambda flow_map, step: {"bias": flow_map.decoder.bias.sum()}, "evaluate_every": 10}
    report = trainer(None, **quality).fit()
    assert not list(tmp_path.iterdir())
    kept = trainer(tmp_path / "run", **quality).fit()
    assert (report.checkpoint, report.best) == (None, None)
    for ours, theirs in zip(report.flow_map.parameters(), kept.flow_map.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert plain(report.records) == plain(kept.records) == plain(read_records(tmp_path / "run" / "metrics.jsonl"))
    assert plain([report.metrics]) == plain([kept.metrics])
    with pytest.raises(CheckpointError, match="without a directory keeps no checkpoint to resume from"):
        trainer(None).fit(resume=True)


def test_a_budget_of_processor_time_is_that_of_the_updates_alone(tmp_path):
    def evaluate(flow_map: nn.Module, step: int) -> dict[str, float]:
        busy(0.1)
        return {}

    settings = {"max_cpu_seconds": 0.3, "max_steps": 1000, "evaluate": evaluate, "evaluate_every": 2}
    report = trainer(tmp_path, Slow(), schedule=Cosine(warmup=2, floor=0.0), **settings).fit()
    assert report.reason == "seconds" and 0.3 <= report.cpu_seconds < 0.5
    assert 5 <= report.step <= 15, "updates take 20 ms and more; those of evaluations do not count"
    assert read_state(report.checkpoint)["cpu_seconds"] == report.cpu_seconds
    again = trainer(tmp_path, Slow(), **settings).fit(resume=True)
    assert (again.step, again.reason, again.cpu_seconds) == (report.step, "seconds", report.cpu_seconds)


def test_the_schedule_is_stretched_over_the_updates_that_processor_time_allows():
    assert Clock(Budget(max_steps=1000)).steps(7) == 1000
    assert Clock(Budget(max_steps=1000, max_cpu_seconds=10)).steps(1) == 1000, "nothing is known yet"
    assert Clock(Budget(max_steps=1000, max_cpu_seconds=10), step=100, cpu_seconds=2.0).steps(101) == 500
    assert Clock(Budget(max_steps=1000, max_cpu_seconds=10), step=100, cpu_seconds=0.5).steps(101) == 1000
    assert Clock(Budget(max_steps=1000, max_cpu_seconds=10), step=100, cpu_seconds=10.0).steps(101) == 101
    assert Clock(Budget(max_steps=1000, max_cpu_seconds=float("inf")), step=9, cpu_seconds=2.0).steps(10) == 1000
    assert Clock(Budget(max_steps=1000, max_seconds=10), step=100, seconds=9.0).steps(101) == 1000, "counts updates"


def test_a_budget_above_zero_is_asked_for():
    with pytest.raises(ValueError, match="max_cpu_seconds is 0, expected a number above 0, or None"):
        trainer(None, max_cpu_seconds=0)


def test_an_objective_is_one():
    with pytest.raises(ValueError, match="objective is a Linear, expected an objective"):
        trainer(None, nn.Linear(1, 1))


def test_a_run_has_at_most_a_dozen_attributes():
    plan = trainer(None)
    assert len(vars(Run(launchable(plan), plan))) <= 12


def test_a_stretched_schedule_ends_with_the_seconds(tmp_path):
    settings = {"max_seconds": 0.4, "stretch": True, "max_steps": 100_000, "log_every": 1, "validate_every": 100_000}
    report = trainer(tmp_path, Slow(), schedule=Cosine(warmup=1, floor=0.0), **settings).fit()
    rates = [row["train/lr"] for row in read_records(tmp_path / "metrics.jsonl") if "train/lr" in row]
    assert report.reason == "seconds" and report.step < 100_000
    assert rates[-1] < 0.05 * max(rates)  # plain counting would still be at the top
    with pytest.raises(ValueError, match="stretch fits the schedule to max_seconds, but there is none"):
        Budget(stretch=True)
