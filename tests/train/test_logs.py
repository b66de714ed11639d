"""Records: the same numbers in every form, cut back to a step, whole after a kill."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowmaps.train.logs import Records, Window, read_records
from train.toys import LeastSquares, trainer

ROWS = [{"step": 1, "a": 0.5}, {"step": 2, "a": 0.25, "b": float("nan")}, {"step": 3, "b": 2.0}]


def table(directory):
    with open(directory / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def write(directory, rows, step=0):
    records = Records(directory, step)
    for row in rows:
        records.write(row)
    records.flush()
    records.close()


def test_lines_and_table_hold_the_same_records(tmp_path):
    write(tmp_path, ROWS)
    assert read_records(tmp_path / "metrics.jsonl") == [ROWS[0], {"step": 2, "a": 0.25, "b": None}, ROWS[2]]
    assert table(tmp_path) == [
        {"step": "1", "a": "0.5", "b": ""},
        {"step": "2", "a": "0.25", "b": ""},
        {"step": "3", "a": "", "b": "2.0"},
    ]


@settings(deadline=None)
@given(cut=st.integers(0, 4))
def test_continuing_from_a_step_equals_never_having_gone_on(tmp_path_factory, cut):
    whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
    write(whole, ROWS)
    write(resumed, ROWS)
    write(resumed, [row for row in ROWS if row["step"] > cut], step=cut)
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.parametrize("end", ['{"step": 4, "a"', "{", '"step"\n', "\x00\x00", '{"a": 1}\n'])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, end):
    write(tmp_path, ROWS)
    before = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(before + end)
    write(tmp_path, [], step=9)
    assert (tmp_path / "metrics.jsonl").read_text() == before and len(table(tmp_path)) == 3


def test_window_is_the_mean_over_updates_and_continues_from_its_sums():
    values = torch.rand(7)
    whole, first = Window(), Window()
    for i, value in enumerate(values):
        whole.add({"loss": value, **({"rare": value} if i % 3 == 0 else {})})
        if i < 4:
            first.add({"loss": value, **({"rare": value} if i % 3 == 0 else {})})
    second = Window(first.counts, first.total().unbind())
    for i, value in enumerate(values[4:], start=4):
        second.add({"loss": value, **({"rare": value} if i % 3 == 0 else {})})
    assert whole.means() == second.means()
    assert whole.means() == pytest.approx({"loss": values.mean().item(), "rare": values[::3].mean().item()})
    assert Window().means() == {}


def test_records_of_a_run_say_what_happened(tmp_path):
    """The mean of the loss over 4 updates, the rate of the last, and everything measured at one step in one record."""
    seen = []

    class Watched(LeastSquares):
        def forward(self, batch, draw):
            values = super().forward(batch, draw)
            if self.training:
                seen.append(values["loss"].item())
            return values

    quality = {"frechet": 3, "by_steps": {"1": torch.tensor(0.5)}}
    trainer(tmp_path, Watched(), max_steps=8, validate_every=8, evaluate=lambda flow_map, step: quality).fit()
    first, last = read_records(tmp_path / "metrics.jsonl")
    assert first["train/loss"] == pytest.approx(sum(seen[:4]) / 4) and first["train/epoch"] == 1.0
    assert (first["step"], last["step"]) == (4, 8) and "valid/loss" not in first
    assert last["quality/frechet"] == 3 and last["quality/by_steps/1"] == 0.5 and last["valid/loss"] > 0
    assert last["seconds"] >= first["seconds"] and first["examples_per_second"] > 0


def test_curves_are_drawn_at_the_end(tmp_path):
    trainer(tmp_path, max_steps=8, curves=True).fit()
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 300 and len(picture.convert("L").getcolors()) > 10


def test_events_are_written_where_tensorboard_is_installed(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer(tmp_path, max_steps=8, tensorboard=True).fit()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    told = [row["train/loss"] for row in read_records(tmp_path / "metrics.jsonl")]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(told)


@pytest.mark.parametrize("setting", [{"tensorboard": True}, {"wandb": "maps"}])
def test_a_monitor_that_is_missing_is_named_with_its_extra(setting, monkeypatch):
    monkeypatch.setattr("flowmaps.train.settings.find_spec", lambda name: None)
    (name,) = setting
    with pytest.raises(ValueError, match=rf"{name} is .*missing: pip install 'flowmaps\[{name}\]', or leave it out"):
        trainer(None, **setting)
    trainer(None, tensorboard=None)  # by default it is written where it is installed


def test_records_go_to_weights_and_biases_where_that_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer(tmp_path, max_steps=8, wandb="maps").fit()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_json_has_no_word_for_infinity(tmp_path):
    write(tmp_path, [{"step": 1, "a": float("inf"), "b": -float("inf")}])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "a": None, "b": None}
