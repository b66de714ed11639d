"""Muon: its update is that of the singular vectors, AdamW keeps the rest, and a run resumes bit for bit."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from flowmaps.data import CategoricalData
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap
from flowmaps.networks import LinearHead, Transformer, UNet
from flowmaps.objectives import SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.train import AdamW, Muon
from flowmaps.train.muon import orthogonal
from train.toys import trainer


def small() -> SelfDistillation:
    torch.manual_seed(0)
    return SelfDistillation(EndpointMap(GeodesicPath(OneHot(3)), UNet(3, width=8, lower=(16,), out=3)), share=1.0)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_singular_values_become_alike_and_singular_vectors_stay(shape):
    U, values, Vh = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(1)).double(), False)
    G = U * torch.logspace(0, -1.7, len(values), dtype=torch.float64) @ Vh
    turned = U.mT @ orthogonal(G) @ Vh.mT
    found = turned.diagonal()
    torch.testing.assert_close(turned, found.diag_embed(), rtol=0, atol=1e-12)
    assert 0.68 < found.min() and found.max() < 1.135
    assert not orthogonal(torch.zeros(shape)).any()


def test_an_update_is_the_formula():
    """Two updates of one filter, whose gradients are given."""
    objective, generator = small(), torch.Generator().manual_seed(2)
    optimizer = Muon(lr=0.1, momentum=0.8, weight_decay=0.5)(objective)
    W = objective.flow_map.network.get_parameter("level.down.0.conv_1.weight")
    expected, B = W.detach().clone(), torch.zeros_like(W)
    for _ in range(2):
        optimizer.zero_grad()
        W.grad = G = torch.randn(W.shape, generator=generator)
        optimizer.step()
        B = 0.8 * B + 0.2 * G
        turned = orthogonal((0.2 * G + 0.8 * B).flatten(1)).view_as(W)
        expected = expected * (1 - 0.1 * 0.5) - 0.2 * math.sqrt(72) * 0.1 * turned
    torch.testing.assert_close(W.detach(), expected)


def test_what_is_no_inner_matrix_is_adamws():
    objective = small()
    inner, *others = Muon()(objective).param_groups
    names = {id(p): name for name, p in objective.named_parameters()}
    layers = {names[id(p)].rpartition(".")[0].rpartition(".")[2] for p in inner["params"]}
    assert layers == {"conv_1", "conv_2", "shrink", "grow", "skip", "qkv", "out", "mix", "linear"}
    rest = {names[id(p)] for group in others for p in group["params"]}
    prefix = "flow_map.network."
    assert {f"{prefix}{name}.weight" for name in ("read", "context.read", "out", "norm")} <= rest
    assert {group["lr"] for group in others} == {AdamW().lr}
    ids = [id(p) for group in (inner, *others) for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(names)


def letters(width: int) -> SelfDistillation:
    torch.manual_seed(0)
    network = Transformer(5, width=width, depth=2, heads=2, reach=2, shared=True)
    return SelfDistillation(EndpointMap(GeodesicPath(OneHot(5)), network, LinearHead(width, 5)), share=1.0)


def test_a_wider_network_steps_by_its_own_sizes():
    """Matrices over the width by 1/√k, the head by 1/k, filters of one channel, vectors and what reads by 1."""
    objective = letters(16)
    found = {}
    for wider in (1.0, 4.0):
        optimizer = Muon(lr=0.1, weight_decay=0.0, others=AdamW(lr=0.01), wider=wider)(objective)
        before = {name: p.detach().clone() for name, p in objective.named_parameters()}
        for p in objective.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        optimizer.step()
        found[wider] = {name: p.detach() - before[name] for name, p in objective.named_parameters()}
    sizes = {name: float(found[4.0][name].norm() / step.norm()) for name, step in found[1.0].items()}
    for name, size in sizes.items():
        last = name == "flow_map.head.weight"
        summing = re.search(r"(qkv|attention.out|up|down|linear|mix)\.weight$", name)
        assert size == pytest.approx(0.25 if last else 0.5 if summing else 1.0, rel=1e-2), name


def drift(width: int, wider: float) -> float:
    """How far a few updates at the same rates move the logits."""
    objective = letters(width)
    x_1 = torch.randint(5, (16, 12), generator=torch.Generator().manual_seed(1))
    optimizer = Muon(lr=2e-2, weight_decay=0.0, others=AdamW(lr=6e-3), wider=wider)(objective)
    batch, h = Batch(x_1), []
    for _ in range(4):
        optimizer.zero_grad()
        values = objective(batch, objective.draw(batch, torch.Generator().manual_seed(2)))
        values["loss"].backward()
        optimizer.step()
        draw = objective.draw(batch, torch.Generator().manual_seed(2))
        flow_map = objective.flow_map
        x = flow_map.path(flow_map.path.start(draw.noise), x_1, draw.s)
        h.append(flow_map.prediction(flow_map.features(x, draw.s, draw.s)).detach())
    return float(h[-1].std())


def test_rates_of_a_narrow_network_move_a_wider_one_as_far():
    """Four times the width: with the factor logits move within a third of as far, without it more than twice as far."""
    narrow = drift(32, 1.0)
    assert drift(128, 1.0) > 2 * narrow
    assert drift(128, 4.0) == pytest.approx(narrow, rel=1 / 3)


@pytest.mark.parametrize(
    "setting", [{"wider": 0.0}, {"lr": -1.0}, {"momentum": 1.0}, {"iterations": 0}, {"weight_decay": math.inf}]
)
def test_impossible_settings_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Muon(**setting)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """State of both kinds is kept: bit for bit on the CPU."""
    settings = dict(max_steps=8, save_every=4, log_every=4, validate_every=4, optimizer=Muon(lr=1e-2))
    data = CategoricalData(torch.randint(3, (40, 4, 4), generator=torch.Generator().manual_seed(3)))
    whole = trainer(tmp_path / "whole", small(), data, data, **settings).fit()
    trainer(tmp_path / "parts", small(), data, data, **{**settings, "max_steps": 4}).fit()
    parts = trainer(tmp_path / "parts", small(), data, data, **settings).fit(resume=True)
    ours, theirs = whole.flow_map.state_dict(), parts.flow_map.state_dict()
    assert parts.step == 8 and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_no_matrix_is_refused():
    with pytest.raises(ValueError, match="no matrix"):
        Muon()(nn.LayerNorm(3))
    with pytest.raises(ValueError, match="lr is -1"):
        Muon(others=AdamW(lr=-1))
