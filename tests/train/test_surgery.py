"""Gradients that conflict: the operation is its formula, on the gradients of the whole batch, before clipping."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy

from flowmaps.data import CategoricalData
from flowmaps.objectives import Average, Lagrangian, LearnedWeight, SelfDistillation, SemigroupKL
from flowmaps.train import AdamW
from flowmaps.train.logs import read_records
from flowmaps.train.stream import Stream, generator
from flowmaps.train.surgery import Surgery
from identities.cases import LEARNED, randomised
from train.test_resume import assert_same_run
from train.test_self_distillation import Stopping, dense, run, sequences
from train.toys import Linear, Pairs, Torn, trainer

PLAIN = dict(max_steps=1, clip=None, schedule=lambda step, max_steps: 1.0)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


def projected(g_d, g_c):
    """Yu et al. 2020, algorithm 1, with the first task as the anchor."""
    along = g_d @ g_c
    return g_d + (g_c - along / (g_d @ g_d) * g_d if along < 0 else g_c), along / g_d.norm() / g_c.norm()


def gradient(loss, module):
    parameters = [p for p in module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def flat(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters() if p.requires_grad])


@pytest.mark.parametrize("accumulation", [1, 4])
def test_an_update_is_the_formula(tmp_path, accumulation):
    """The first updates of plain descent on two quadratics, whose gradients are known."""
    objective, data = Torn(), Pairs()
    settings = {**PLAIN, "max_steps": 3, "batch_size": 64, "optimizer": sgd, "accumulation": accumulation}
    trainer(tmp_path, objective, data, surgery=True, log_every=1, **settings).fit()
    x = torch.cat([data.x.double(), torch.ones(64, 1)], 1)
    y, W, cosines = data.y.double(), torch.eye(5, 4, dtype=torch.float64), []
    for _ in range(3):
        slope = lambda factor, weight, W=W: (2 * weight / 256 * x.T @ (x @ W - factor * y)).flatten()  # noqa: E731
        g, cosine = projected(slope(1.0, 1.0), slope(-0.5, 3.0))
        W, cosines = W - 0.1 * g.view(5, 4), [*cosines, float(cosine)]
    assert min(cosines) < 0
    torch.testing.assert_close(objective.flow_map.weight.detach(), W[:4].T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(objective.flow_map.bias.detach(), W[4], rtol=1e-12, atol=1e-12)
    told = [row["train/gradient_cosine"] for row in read_records(tmp_path / "metrics.jsonl")]
    assert told == pytest.approx(cosines, rel=1e-5)


def test_gradients_that_agree_are_left_alone(tmp_path):
    maps = []
    for surgery in (False, True):
        objective = Torn()
        objective.targets = ((1.0, 1.0), (1.0, 3.0))
        report = trainer(tmp_path / str(surgery), objective, surgery=surgery, optimizer=sgd, **PLAIN).fit()
        assert ("train/gradient_cosine" in report.metrics) == surgery
        maps.append(objective.flow_map.weight.detach())
    assert report.metrics["train/gradient_cosine"] == pytest.approx(1)
    torch.testing.assert_close(*maps, rtol=1e-13, atol=1e-13)


def objectives():
    chunked = randomised(LEARNED["embedded, chunked"]())
    fields = randomised(LEARNED["two fields"]())
    learned = randomised(LEARNED["perceptron"]())
    return {
        "chunked": SelfDistillation(chunked, SemigroupKL(), strength=3.0),
        "chunked, by its tangent": SelfDistillation(chunked, Lagrangian(), teacher=Average, share=0.5),
        "two fields": SelfDistillation(fields, SemigroupKL()),
        "learned weight": SelfDistillation(learned, Lagrangian(), weight=LearnedWeight().double()),
    }


def batch_for(objective, name):
    g = torch.Generator().manual_seed(1)
    if name == "two fields":
        bonds = torch.randint(2, (12, 4, 4), generator=g).triu(1)
        x_1 = {"a": torch.randint(3, (12, 4), generator=g), "b": bonds + bonds.mT}
    else:
        x_1 = torch.randint(3, (12, 4), generator=g)
    batch = CategoricalData(x_1).batch(torch.arange(12))
    draw = objective.draw(batch, g)
    noise = {n: e.double() for n, e in draw.noise.items()} if isinstance(draw.noise, dict) else draw.noise.double()
    return batch, draw._replace(noise=noise, s=draw.s.double(), t=draw.t.double(), r=draw.r.double())


@pytest.mark.parametrize("name", objectives())
def test_losses_and_gradients_of_both_parts_sum_to_those_of_the_whole(name):
    objective = objectives()[name]
    batch, draw = batch_for(objective, name)
    whole, (on, off) = objective(batch, draw), (objective(*part) for part in objective.apart(batch, draw))
    torch.testing.assert_close(on["loss"] + off["loss"], whole["loss"], rtol=1e-12, atol=1e-12)
    assert set(on) == {"loss", "diagonal"} and set(on) | set(off) == set(whole)
    assert all(torch.equal(part[key], whole[key]) for part in (on, off) for key in part if key != "loss")
    pieces = [gradient(values["loss"], objective) for values in (on, off, whole)]
    assert all(piece.abs().max() > 1e-3 for piece in pieces)
    torch.testing.assert_close(pieces[0] + pieces[1], pieces[2], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_an_update_of_a_chunked_map_is_the_formula(tmp_path, clip):
    """Through the engine, with the draw of its first update; clipping sees the result."""
    flow_map = randomised(LEARNED["embedded, chunked"](), seed=3, scale=2.0).float()
    objective = SelfDistillation(flow_map, SemigroupKL(), strength=5.0, share=0.5)
    data = CategoricalData(torch.randint(3, (16, 4), generator=torch.Generator().manual_seed(0)))
    before = flat(objective)
    settings = {**PLAIN, "clip": clip, "batch_size": 16, "optimizer": sgd, "validate_every": 10}
    run = trainer(tmp_path, objective, data, data, surgery=True, **settings)
    batch = data.batch(Stream(16, 16, 0, 1).index(1, 0))
    draw = objective.draw(batch, generator("cpu", 0, 1, 0, "draw"))
    parts = [objective(*part)["loss"] for part in objective.apart(batch, draw)]
    g, cosine = projected(*(gradient(loss, objective) for loss in parts))
    report = run.fit()
    assert report.metrics["train/gradient_cosine"] == pytest.approx(float(cosine), rel=1e-3) and cosine < -0.05
    assert report.metrics["train/grad_norm"] == pytest.approx(float(g.norm()), rel=1e-4)
    shrunk = g if clip is None else g * clip / g.norm()
    torch.testing.assert_close(before - flat(objective), 0.1 * shrunk, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_with_surgery_learns_and_resumes_bit_for_bit(tmp_path, precision):
    make = lambda: SelfDistillation(dense(), SemigroupKL())  # noqa: E731
    settings = dict(surgery=True, precision=precision, max_steps=60, optimizer=AdamW(lr=1e-2), accumulation=2)
    unbroken = run(tmp_path / "unbroken", make(), **settings).fit()
    assert run(tmp_path / "stopped", make(), Stopping(17), **settings).fit().reason == "SIGTERM"
    assert_same_run(unbroken, run(tmp_path / "stopped", make(), **settings).fit(resume=True))
    losses = [
        row["train/diagonal"]
        for row in read_records(tmp_path / "unbroken" / "metrics.jsonl")
        if "train/diagonal" in row
    ]
    assert losses[-1] < 0.9 * losses[0] and -1 <= unbroken.metrics["train/gradient_cosine"] <= 1


def test_what_cannot_be_operated_on_is_refused(tmp_path):
    with pytest.raises(ValueError, match="objective Linear has one loss only"):
        trainer(tmp_path, Linear(), surgery=True)
    with pytest.raises(ValueError, match="share below 1"):
        run(tmp_path, SelfDistillation(dense(), share=1.0), CategoricalData(sequences(64, 0)), surgery=True)
    sharded = Fabric(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(lambda module, mesh: module))
    with pytest.raises(ValueError, match="strategy is ModelParallelStrategy; use ddp"):
        Surgery(sharded, Torn())
