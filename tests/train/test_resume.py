"""Interrupted and resumed equals uninterrupted, bit for bit: weights, averages, optimiser, records."""

from __future__ import annotations

import csv
import os
import signal

import pytest
import torch

from flowmaps.train import CheckpointError, Cosine, read_state
from flowmaps.train.logs import TIMINGS, read_records
from train.toys import LeastSquares, Pairs, Signalling, assert_equal_bits, tensors_of, trainer


def records(directory):
    rows = read_records(directory / "metrics.jsonl")
    with open(directory / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    return [
        [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows] for rows in (rows, table)
    ]


def assert_same_run(one, other):
    assert_equal_bits(tensors_of(one.checkpoint), tensors_of(other.checkpoint))
    first, second = read_state(one.checkpoint), read_state(other.checkpoint)
    for state in (first, second):
        del state["seconds"], state["cpu_seconds"]
        state["metrics"] = {name: value for name, value in state["metrics"].items() if name not in TIMINGS}
    assert first == second
    directories = (one.checkpoint.parent.parent, other.checkpoint.parent.parent)
    assert records(directories[0]) == records(directories[1])


class Failing(Pairs):
    """Data of which batch number ``at`` cannot be had."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def batch(self, index):
        self.at -= 1
        if self.at == 0:
            raise IndexError
        return super().batch(index)


@pytest.mark.parametrize(
    "settings", [{}, {"accumulation": 2}, {"ema": None}, {"prefetch": 2}, {"batch_size": 24}], ids=str
)
def test_sigterm_then_resume_equals_unbroken(tmp_path, settings):
    unbroken = trainer(tmp_path / "unbroken", **settings).fit()
    count = 17 * settings.get("accumulation", 1)  # in the middle of a logging window and between two checkpoints
    stopped = trainer(tmp_path / "stopped", data=Signalling(count), **settings).fit()
    assert stopped.reason == "SIGTERM" and 15 <= stopped.step <= 17
    resumed = trainer(tmp_path / "stopped", **settings).fit(resume=True)
    assert (resumed.step, resumed.reason) == (40, "steps")
    assert_same_run(unbroken, resumed)


def test_stopping_at_every_step_equals_unbroken(tmp_path):
    unbroken = trainer(tmp_path / "unbroken", max_steps=12, validate_every=5).fit()
    for step in range(1, 13):
        report = trainer(tmp_path / "stopped", max_steps=12, validate_every=5, data=Signalling(1)).fit(resume=True)
        assert (report.step, report.reason) == (step, "SIGTERM")
    report = trainer(tmp_path / "stopped", max_steps=12, validate_every=5).fit(resume=True)
    assert (report.step, report.reason) == (12, "steps")
    assert_same_run(unbroken, report)


class Named(Pairs):
    """Data that say which they are."""

    def fingerprint(self) -> str:
        return str(float(self.y.sum()))


def test_other_data_of_equal_size_cannot_be_resumed(tmp_path):
    trainer(tmp_path, data=Named(seed=0), config={"state": {"atoms": ["C", "O"]}}).fit()
    before = tensors_of(next((tmp_path / "checkpoint").glob("step-*")))
    for data, atoms, message in (
        (Named(seed=1), ["C", "O"], "was trained with data = .*, and now it is"),
        (Named(seed=0), ["O", "C"], r"trained on other data: atoms was \['C', 'O'\] and is now \['O', 'C'\]"),
    ):
        with pytest.raises(CheckpointError, match=message):
            trainer(tmp_path, data=data, config={"state": {"atoms": atoms}}, max_steps=50).fit(resume=True)
    assert_equal_bits(before, tensors_of(next((tmp_path / "checkpoint").glob("step-*"))))
    again = trainer(tmp_path, data=Named(seed=0), config={"state": {"atoms": ["C", "O"], "new": 1}}, max_steps=50)
    assert again.fit(resume=True).step == 50


@pytest.mark.parametrize("stopped_at", [20, 40], ids=["within", "at the end"])
def test_a_signal_ends_an_evaluation_at_once_and_resuming_makes_up_for_it(tmp_path, stopped_at):
    """Also if the run is then killed between making up for it and the next checkpoint."""
    settings = {"evaluate_every": 20, "save_every": 25, "schedule": Cosine(warmup=5)}
    quality = lambda flow_map, step: {"bias": flow_map.decoder.bias.sum(), "step": step}  # noqa: E731
    unbroken = trainer(tmp_path / "unbroken", evaluate=quality, **settings).fit()

    def signalled(flow_map, step):
        if step == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the evaluation went on")
        return quality(flow_map, step)

    directory = tmp_path / "stopped"
    report = trainer(directory, evaluate=signalled, **settings).fit()
    assert (report.step, report.reason) == (stopped_at, "SIGTERM")
    assert all(row["step"] < stopped_at for row in read_records(directory / "metrics.jsonl"))
    assert read_state(report.checkpoint)["unmeasured"] and report.flow_map.training is False
    if stopped_at == 20:
        with pytest.raises(IndexError):
            trainer(directory, data=Failing(4), evaluate=quality, **settings).fit(resume=True)
        assert read_records(directory / "metrics.jsonl")[-1]["step"] == 20
    resumed = trainer(directory, evaluate=quality, **settings).fit(resume=True)
    assert resumed.reason == "steps"
    assert_same_run(unbroken, resumed)


def test_a_signal_during_the_last_update_is_answered(tmp_path):
    report = trainer(tmp_path, data=Signalling(40)).fit()
    assert (report.step, report.reason) == (40, "SIGTERM")
    assert trainer(tmp_path).fit(resume=True).reason == "steps"


def test_new_objective_is_filled_whatever_its_start(tmp_path):
    unbroken = trainer(tmp_path / "unbroken").fit()
    trainer(tmp_path / "stopped", data=Signalling(12)).fit()
    resumed = trainer(tmp_path / "stopped", LeastSquares(seed=7)).fit(resume=True)
    assert_same_run(unbroken, resumed)


def test_other_weights_and_learned_weights_and_teacher_are_kept(tmp_path):
    report = trainer(tmp_path).fit()
    kept = tensors_of(report.checkpoint)
    objective = LeastSquares()
    start = objective.state_dict()
    for name in ("log_weight", "teacher", "updates"):
        assert not torch.equal(kept[f"training.safetensors:objective/{name}"], start[name])
    assert kept["training.safetensors:objective/updates"] == 40


@pytest.mark.parametrize("parts", [1, 4])
def test_another_number_of_parts_goes_on_and_is_told(tmp_path, caplog, parts):
    trainer(tmp_path, data=Signalling(12), accumulation=2).fit()
    assert "parts" not in caplog.text
    assert trainer(tmp_path, accumulation=parts).fit(resume=True).step == 40
    assert f"cut into 2 parts (processes times accumulation) and now is into {parts}, with other noise" in caplog.text


def test_ctrl_c_saves_and_leaves(tmp_path):
    report = trainer(tmp_path, data=Signalling(3, signal.SIGINT)).fit()
    assert (report.reason, report.step) == ("SIGINT", 3)
    assert read_state(report.checkpoint)["step"] == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_leaves_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, data=Signalling(3, signal.SIGINT, times=2)).fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_time_budget_ends_the_run_and_a_larger_one_continues_it(tmp_path):
    unbroken = trainer(tmp_path / "unbroken").fit()
    first = trainer(tmp_path / "budget", max_seconds=1e-6).fit()
    assert (first.reason, first.step) == ("seconds", 1) and "valid/loss" in first.metrics
    second = trainer(tmp_path / "budget", max_seconds=1e-6).fit(resume=True)
    assert (second.reason, second.step) == ("seconds", 1)
    last = trainer(tmp_path / "budget", max_seconds=1e6).fit(resume=True)
    assert last.reason == "steps" and last.seconds > first.seconds
    assert_equal_bits(tensors_of(unbroken.checkpoint), tensors_of(last.checkpoint))


def test_finished_run_is_left_as_it_is(tmp_path):
    first = trainer(tmp_path).fit()
    again = trainer(tmp_path).fit(resume=True)
    assert again.step == first.step and again.checkpoint == first.checkpoint
    assert_equal_bits(dict(first.flow_map.state_dict()), dict(again.flow_map.state_dict()))


def test_resume_without_a_checkpoint_starts_at_the_first_update(tmp_path, caplog):
    report = trainer(tmp_path).fit(resume=True)
    assert report.step == 40 and "holds no checkpoint" in caplog.text


@pytest.mark.parametrize(
    "name, settings",
    [
        ("seed", {"seed": 3}),
        ("batch_size", {"batch_size": 32}),
        ("examples", {"data": Pairs(65)}),
        ("averaged", {"ema": None}),
    ],
)
def test_another_run_is_not_continued(tmp_path, name, settings):
    trainer(tmp_path, data=Signalling(5)).fit()
    before = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    with pytest.raises(CheckpointError, match=f"was trained with {name} = .* and now it is"):
        trainer(tmp_path, **settings).fit(resume=True)
    assert before == sorted(path.name for path in (tmp_path / "checkpoint").iterdir())


def test_existing_run_is_not_overwritten(tmp_path):
    trainer(tmp_path).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="already holds step-00000040; resume"):
        trainer(tmp_path).fit()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_global_generator_is_as_before(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trainer(tmp_path, max_steps=3).fit()
    assert torch.equal(torch.rand(2), expected)
