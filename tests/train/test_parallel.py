"""Accumulation and several processes compute the update of the large batch, and stop, resume and fail together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from flowmaps.data import CategoricalData
from flowmaps.train.logs import read_records
from train.test_resume import records
from train.test_self_distillation import sequences, with_learned_times
from train.toys import LeastSquares, Linear, Torn, assert_equal_bits, environment, tensors_of, trainer


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)


def column(directory, name):
    return [row[name] for row in read_records(directory / "metrics.jsonl") if name in row]


def weights(directory):
    return {
        name: tensor
        for name, tensor in tensors_of(directory / "checkpoint" / "step-00000040").items()
        if "window" not in name
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    trainer(directory, Linear()).fit()
    return directory


@pytest.mark.parametrize("accumulation", [2, 4, 16])
def test_accumulation_is_the_large_batch(one, tmp_path, accumulation):
    trainer(tmp_path, Linear(), accumulation=accumulation).fit()
    assert_close(weights(one), weights(tmp_path))
    for name in ("train/loss", "train/grad_norm"):
        assert column(one, name) == pytest.approx(column(tmp_path, name), rel=1e-5)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    command = [sys.executable, str(Path(__file__).with_name("two_processes.py")), str(directory)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_are_the_large_batch(one, two, accumulation):
    assert_close(weights(one), weights(two / f"linear_{accumulation}"))


def test_two_processes_and_two_parts_on_one_are_the_same_bits(two, tmp_path):
    """Noise and dropout belong to the part of the batch; a sum of two has one order; and so has the mean of two."""
    trainer(tmp_path, LeastSquares(norm=nn.LayerNorm), accumulation=2).fit()
    assert_equal_bits(weights(tmp_path), weights(two / "noisy_1"))
    for name in ("train/loss", "train/grad_norm", "valid/loss"):
        assert column(tmp_path, name) == pytest.approx(column(two / "noisy_1", name), rel=1e-5)


def test_two_processes_learn_the_same_times_as_two_parts(two, tmp_path):
    """Sums over the losses of all processes, but for rounding."""
    rows = CategoricalData(sequences(256, 0))
    trainer(tmp_path, with_learned_times(), rows, rows, accumulation=2).fit()
    one, other = weights(tmp_path), weights(two / "times")
    assert one.keys() == other.keys() and any("moments" in name for name in one)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_more_parts_are_the_same_but_for_rounding(two, tmp_path):
    trainer(tmp_path, LeastSquares(norm=nn.LayerNorm), accumulation=4).fit()
    one, other = weights(tmp_path), weights(two / "noisy_2")
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_operate_on_the_gradients_of_the_large_batch(two, tmp_path, accumulation):
    trainer(tmp_path, Torn(), surgery=True).fit()
    assert_close(weights(tmp_path), weights(two / f"torn_{accumulation}"))
    cosines = column(tmp_path, "train/gradient_cosine")
    assert min(cosines) < -0.1
    assert cosines == pytest.approx(column(two / f"torn_{accumulation}", "train/gradient_cosine"), rel=1e-5)
    told = json.loads((two / "told_by_1.json").read_text())["lonely"]
    assert "log_weight is no part of the map" in told


@pytest.mark.parametrize("accumulation", [1, 2])
def test_records_of_two_processes_are_means_over_both(one, two, accumulation):
    """24 held-out examples are 2 batches on one process, and 3 or 6 on two, one of which the second lacks."""
    for name in ("train/loss", "train/grad_norm", "valid/loss"):
        values = column(two / f"linear_{accumulation}", name)
        assert len(values) >= 4 and values == pytest.approx(column(one, name), rel=1e-5)


def test_two_processes_stop_at_the_same_step_and_resume_bit_for_bit(two):
    told = json.loads((two / "told_by_0.json").read_text())
    assert (told["unbroken"], told["stopped"], told["reason"], told["resumed"]) == (40, 20, "SIGTERM", 40)
    assert_equal_bits(weights(two / "unbroken"), weights(two / "stopped"))
    assert records(two / "unbroken") == records(two / "stopped")


def test_two_processes_fail_with_the_same_message(two):
    first, second = (json.loads((two / f"told_by_{rank}.json").read_text()) for rank in (0, 1))
    for told in (first, second):
        assert "counts the time of one process" in told["processor_time"] and not (two / "counted").exists()
        assert "not finite at step 13" in told["not_finite"] and "step-00000010" in told["not_finite"]
        assert "cannot write" in told["unwritable"]
    assert first["unwritable"] == second["unwritable"]


def test_a_run_without_files_leaves_its_records_with_the_first_process(two):
    told = [json.loads((two / f"told_by_{rank}.json").read_text())["without_files"] for rank in (0, 1)]
    assert told == [12, 0]


def test_a_flag_that_is_not_read_at_every_step_is_read_before_anything_is_kept(two):
    """Several processes and accelerators look at it only where they wait anyway: at the record of step 16, here."""
    assert sorted(path.name for path in (two / "not_finite" / "checkpoint").iterdir()) == ["step-00000010"]
    kept = tensors_of(two / "not_finite" / "checkpoint" / "step-00000010")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    rows = read_records(two / "not_finite" / "metrics.jsonl")
    assert rows[-1]["step"] == 12 and all(value is not None for row in rows for value in row.values())
