"""Which parameters decay, the course of the rate, and the size of an update."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flowmaps.spaces import Embedded
from flowmaps.train import AdamW, Cosine
from flowmaps.train.logs import read_records
from flowmaps.train.optim import decay_groups
from train.toys import LeastSquares, Linear, trainer


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.space = Embedded(6, 3)
        self.table = nn.Embedding(6, 3)
        self.linear = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(3, 6, bias=False)
        self.tied.weight = self.table.weight


def test_vectors_and_embeddings_do_not_decay_and_frozen_ones_are_left_out():
    module = Mixed()
    decayed, kept = decay_groups(module)
    assert [id(p) for p in decayed] == [id(module.linear.weight)]
    others = (module.space.weight, module.table.weight, module.linear.bias, *module.norm.parameters())
    expected = {id(p) for p in others}
    assert {id(p) for p in kept} == expected and len(kept) == len(expected)


def test_weight_decay_acts_on_matrices_only():
    module = Mixed()
    optimizer = AdamW(lr=0.1, weight_decay=0.5)(module)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    for name, p in module.named_parameters():
        factor = 1 - 0.1 * 0.5 if name == "linear.weight" else 1.0
        torch.testing.assert_close(p, factor * before[name])


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        AdamW()(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("schedule", [Cosine(warmup=5, floor=0.1), Cosine(warmup=5, floor=1.0)])
def test_warm_up_is_linear_in_updates_and_the_end_is_the_floor(schedule):
    factors = [schedule(step, 50) for step in range(1, 51)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[-1] == pytest.approx(schedule.floor)
    assert all(a >= b for a, b in zip(factors[4:], factors[5:], strict=False))


def test_cosine_is_half_way_in_the_middle_and_stays_at_the_floor():
    assert Cosine(warmup=0, floor=0.2)(50, 100) == pytest.approx(0.6)
    assert Cosine(warmup=0, floor=0.2)(150, 100) == pytest.approx(0.2)
    assert Cosine(warmup=0)(0, 100) == 1.0
    assert math.isfinite(Cosine(warmup=10)(10, 10))


def test_a_run_warms_up_by_updates_not_by_epochs(tmp_path):
    """64 examples in batches of 16: an epoch is 4 updates, and the rate has risen at each of the first 8."""
    trainer(tmp_path, max_steps=10, log_every=1, optimizer=AdamW(lr=0.5), schedule=Cosine(warmup=8, floor=1.0)).fit()
    rates = [row["train/lr"] for row in read_records(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([0.5 * min(1, n / 8) for n in range(1, 11)])


def test_gradient_is_clipped_and_its_norm_recorded_before(tmp_path):
    """Plain gradient descent of rate 1: the weights move by exactly the clipped norm."""
    objective = Linear()
    before = torch.cat([p.detach().flatten().clone() for p in objective.parameters()])
    sgd = lambda module: torch.optim.SGD(module.parameters(), lr=1.0)  # noqa: E731
    plain = dict(optimizer=sgd, schedule=Cosine(warmup=0, floor=1.0))
    trainer(tmp_path, objective, max_steps=1, log_every=1, clip=0.25, **plain).fit()
    after = torch.cat([p.detach().flatten() for p in objective.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.25)
    assert read_records(tmp_path / "metrics.jsonl")[0]["train/grad_norm"] > 0.25


def test_optimiser_without_clipping_records_the_norm_too(tmp_path):
    trainer(tmp_path, LeastSquares(), max_steps=2, log_every=1, clip=None).fit()
    assert all(row["train/grad_norm"] > 0 for row in read_records(tmp_path / "metrics.jsonl")[:2])
