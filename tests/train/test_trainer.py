"""What a run does between its records: learns, validates, measures, in every precision; refuses impossible settings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser

from flowmaps.train import AdamW, Cosine, Trainer, read_state
from flowmaps.train.logs import read_records
from flowmaps.train.stream import generator
from train.toys import LeastSquares, Linear, Pairs, trainer


def test_least_squares_reach_the_solution(tmp_path):
    objective = Linear()
    trainer(tmp_path, objective, max_steps=400, optimizer=AdamW(lr=0.05, weight_decay=0.0), validate_every=400).fit()
    data = Pairs()
    solution = torch.linalg.lstsq(data.x.double(), data.y.double()).solution
    torch.testing.assert_close(objective.flow_map.weight.detach().T, solution, rtol=1e-3, atol=1e-3)


def test_every_update_is_clear_of_the_one_before(tmp_path):
    """Two updates of plain gradient descent, by hand."""
    objective, data = Linear(), Pairs()
    sgd = lambda module: torch.optim.SGD(module.parameters(), lr=0.1)  # noqa: E731
    settings = dict(max_steps=2, batch_size=64, clip=None, schedule=lambda step, max_steps: 1.0, optimizer=sgd)
    trainer(tmp_path, objective, **settings).fit()
    weight, bias = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for _ in range(2):
        residual = (data.x.double() @ weight.T + bias - data.y.double()) / (64 * 4)
        weight, bias = weight - 0.2 * residual.T @ data.x.double(), bias - 0.2 * residual.sum(0)
    torch.testing.assert_close(objective.flow_map.weight.detach(), weight)
    torch.testing.assert_close(objective.flow_map.bias.detach(), bias)


@pytest.mark.parametrize("validate_raw", [False, True])
def test_validation_is_the_held_out_loss_of_the_averaged_map_with_fixed_noise(tmp_path, validate_raw):
    objective = LeastSquares()
    report = trainer(tmp_path, objective, validate_raw=validate_raw, batch_size=32).fit()
    objective.eval()

    def held_out():
        data = Pairs(32, seed=1)
        rows = torch.randperm(32, generator=generator("cpu", 0, "valid"))[:24]
        batch = data.batch(rows)
        with torch.no_grad():
            return objective(batch, objective.draw(batch, generator("cpu", 0, "valid", 0)))["loss"].item()

    if validate_raw:
        assert report.metrics["valid_raw/loss"] == pytest.approx(held_out(), rel=1e-6)
    assert ("valid_raw/loss" in report.metrics) == validate_raw
    objective.flow_map.load_state_dict(report.flow_map.state_dict())
    assert report.metrics["valid/loss"] == pytest.approx(held_out(), rel=1e-6)


def test_validation_changes_nothing_that_is_trained(tmp_path):
    maps = []
    for name, settings in (("often", {"validate_every": 1}), ("never", {"validate_every": 10**6})):
        objective = LeastSquares()
        trainer(tmp_path / name, objective, max_steps=15, **settings).fit()
        maps.append(objective.state_dict())
    assert all(torch.equal(maps[0][name], maps[1][name]) for name in maps[0])


def test_without_held_out_data_or_average(tmp_path):
    objective = LeastSquares()
    run = Trainer(
        objective,
        Pairs(),
        None,
        tmp_path,
        max_steps=6,
        batch_size=16,
        ema=None,
        log_every=2,
        progress=False,
        accelerator="cpu",
        curves=False,
    )
    report = run.fit()
    assert report.flow_map is objective.flow_map and report.best is None and not objective.flow_map.training
    assert not any("valid" in name for name in report.metrics)
    assert not (report.checkpoint / "ema.safetensors").exists()


def test_quality_is_measured_on_the_averaged_map_when_due_and_at_the_end(tmp_path):
    calls = []

    def evaluate(flow_map, step):
        assert not any(module.training for module in flow_map.modules()) and not torch.is_grad_enabled()
        torch.rand(3)  # whatever it draws from the global generator must not matter
        calls.append(step)
        return {"bias": flow_map.decoder.bias.abs().sum()}

    plain = trainer(tmp_path / "plain", max_steps=10).fit()
    report = trainer(
        tmp_path / "measured", max_steps=10, evaluate=evaluate, evaluate_every=4, monitor="quality/bias"
    ).fit()
    assert calls == [4, 8, 10]
    assert report.metrics["quality/bias"] == pytest.approx(report.flow_map.decoder.bias.abs().sum().item())
    assert all(
        torch.equal(a, b) for a, b in zip(plain.flow_map.parameters(), report.flow_map.parameters(), strict=True)
    )
    values = {
        row["step"]: row["quality/bias"]
        for row in read_records(tmp_path / "measured" / "metrics.jsonl")
        if "quality/bias" in row
    }
    assert report.best.name == f"step-{min(values, key=lambda step: values[step]):08d}"


@pytest.mark.parametrize("precision, dtype", [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_precision(tmp_path, precision, dtype):
    seen = set()

    class Watched(LeastSquares):
        def forward(self, batch, draw):
            seen.add(self.flow_map.encoder(batch.x_1).dtype)
            return super().forward(batch, draw)

    data = Pairs()
    data.x, data.y = data.x.to(dtype), data.y.to(dtype)
    held_out = Pairs(32, seed=1)
    held_out.x, held_out.y = held_out.x.to(dtype), held_out.y.to(dtype)
    report = Trainer(
        Watched(),
        data,
        held_out,
        tmp_path,
        max_steps=8,
        batch_size=16,
        log_every=2,
        precision=precision,
        progress=False,
        accelerator="cpu",
        curves=False,
    ).fit()
    assert seen == {torch.bfloat16 if precision == "bf16-mixed" else torch.float64}
    assert all(p.dtype == dtype for p in report.flow_map.parameters())
    assert math.isfinite(report.metrics["valid/loss"])


@pytest.mark.parametrize(
    "can, able",
    [({"avx2": True}, False), ({"avx512_f": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True),
     ({"amx_bf16": True}, True), ({"neon": True, "bf16": True}, True)],
)  # fmt: skip
def test_bfloat16_is_taken_where_the_processor_computes_it(tmp_path, monkeypatch, caplog, can, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    for asked, done in (("auto", "bf16-mixed" if able else "32-true"), ("bf16-mixed", "bf16-mixed")):
        caplog.clear()
        settings = dict(max_steps=1, precision=asked, accelerator="cpu", curves=False, progress=False)
        report = Trainer(LeastSquares(), Pairs(), None, tmp_path / asked, **settings).fit()
        assert read_state(report.checkpoint)["precision"] == done
        warned = "no instructions for bfloat16" in caplog.text
        assert warned == (asked == "bf16-mixed" and not able)


def test_undefined_quality_is_recorded_and_never_best(tmp_path):
    values = iter([1.0, float("nan"), 2.0, float("nan")])
    report = trainer(
        tmp_path,
        max_steps=4,
        evaluate=lambda flow_map, step: {"x": next(values), "note": "words"},
        evaluate_every=1,
        save_every=1,
        monitor="quality/x",
    ).fit()
    assert [row["quality/x"] for row in read_records(tmp_path / "metrics.jsonl")] == [1.0, None, 2.0, None]
    assert report.best.name == "step-00000001"


def test_rate_of_the_last_update_and_metrics_of_the_report(tmp_path):
    report = trainer(tmp_path, max_steps=7, log_every=4).fit()
    assert report.step == 7 and report.metrics["step"] == 7, "the last record is written although it was not due"
    assert report.checkpoint.name == "step-00000007" and report.seconds > 0


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"max_steps": 0}, "max_steps is 0, expected a whole number of at least 1"),
        ({"accumulation": 3}, "batch_size 16 is not a multiple of 3"),
        ({"ema": 1.0}, "ema decay is 1.0"),
        ({"clip": 0.0}, "clip is 0.0, expected a number above 0"),
        ({"precision": "16-mixed"}, "precision is '16-mixed', expected one of 32-true"),
        ({"seed": 2**63}, "seed is 9223372036854775808, expected a whole number from 0 to"),
        ({"keep": "2"}, "keep is '2'"),
        ({"batch_size": 2**25}, "batch_size is 33554432, expected at most 16777216"),
        ({"data": torch.zeros(9, 2)}, "train_data is a Tensor, expected a data set with `batch.* CategoricalData"),
        ({"held_out": [1, 2]}, "valid_data is a list, expected a data set"),
        ({"devices": "{}"}, "accelerator 'cpu', devices '{}' and strategy 'auto' do not fit this machine"),
        ({"strategy": "foo"}, "devices 1 and strategy 'foo' do not fit this machine"),
        ({"data": Pairs(0)}, "training data hold 0 examples"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_impossible_settings_are_refused(tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        trainer(tmp_path / "run", **settings).fit()
    assert not (tmp_path / "run").exists(), "nothing is written before the settings are known to be right"


def test_settings_are_a_schema_for_the_command_line(tmp_path):
    """Every value comes back from YAML as it was, and dotted names reach the optimiser and the schedule."""
    parser = ArgumentParser(exit_on_error=False)
    data = {"objective", "train_data", "valid_data", "directory", "config", "evaluate"}
    parser.add_class_arguments(Trainer, "train", skip=data, instantiate=False)
    given = parser.parse_args(["--train.optimizer.lr=0.5", "--train.schedule.warmup=7", "--train.max_seconds=9"])
    settings = parser.instantiate(parser.parse_string(parser.dump(given))).train
    again = Trainer(LeastSquares(), Pairs(), None, tmp_path, **vars(settings))
    assert (again.optimizer, again.schedule, again.max_seconds) == (AdamW(lr=0.5), Cosine(warmup=7), 9.0)
    plain = Trainer(again.objective, again.train_data, None, tmp_path)
    assert replace(again, optimizer=AdamW(), schedule=Cosine(), max_seconds=None) == plain


def test_empty_held_out_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="held-out data hold 0 examples; give at least one, or None"):
        Trainer(LeastSquares(), Pairs(), Pairs(0), tmp_path, accelerator="cpu").fit()


def test_progress_bar_shows_step_time_left_and_loss():
    """Drawn on a recorded terminal."""
    import io

    from rich.console import Console

    from flowmaps.train.clock import Clock
    from flowmaps.train.progress import Bar, Pace
    from flowmaps.train.settings import Budget

    text = io.StringIO()
    pace = Pace(Clock(Budget(max_steps=100)), 0, 8, 80)
    with Bar(pace, 0, console=Console(file=text, force_terminal=True, width=120)) as bar:
        bar.show(50)
        bar.note("train/loss 0.5")
    assert all(part in text.getvalue() for part in ("step 50 of about 100", " 50%", "train/loss 0.5"))
