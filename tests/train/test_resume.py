"""Interrupted and resumed equals uninterrupted, bit for bit: weights, averages, optimiser, records."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from train.toys import Pairs, assert_equal_bits, tensors_of, trainer

from flowmaps.train import CheckpointError
from flowmaps.train.logs import TIMINGS, read_records


def records(directory):
    rows = read_records(directory / "metrics.jsonl")
    with open(directory / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    drop = lambda row: {name: value for name, value in row.items() if name not in TIMINGS}  # noqa: E731
    return [drop(row) for row in rows], [drop(row) for row in table]


def test_run(tmp_path):
    report = trainer(tmp_path).fit()
    print(report)
