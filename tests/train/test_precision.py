"""Layers may compute in bfloat16, times and noise never do; float64 is float64 all through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowmaps import objectives as O
from flowmaps.fields import FREE, Batch, fieldwise, leaves
from flowmaps.maps import EndpointMap
from flowmaps.networks import LinearHead, TimeFeatures, Transformer, UNet
from flowmaps.networks.graph import GraphTransformer
from flowmaps.objectives import Average, LearnedWeight, SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Jumps, Renoise, generate
from flowmaps.spaces import Embedded, OneHot, Product
from flowmaps.times import DecodeRateClock, FullJump, OnClock, PairOnClock
from flowmaps.train import Trainer
from flowmaps.train.strategy import Mixed
from identities.cases import randomised, seeded

K = 5


def transformer(space, chunk=None):
    clock = TimeFeatures(clock=DecodeRateClock(K))
    network = Transformer(space.dim, width=16, depth=1, heads=2, K=K, times=clock)
    return EndpointMap(GeodesicPath(space), network, LinearHead(16, K), chunk)


def graph():
    space = Product({"atoms": OneHot(K), "bonds": OneHot(3, symmetric=True)})
    return EndpointMap(GeodesicPath(space), GraphTransformer(K, 3, width=16, edge=8, depth=1, heads=2))


MAPS = {
    "letters": (lambda: transformer(OneHot(K)), (6,)),
    "embedded, narrow": (lambda: transformer(Embedded(K, 3), chunk=7), (6,)),
    "embedded, wide": (lambda: transformer(Embedded(K, 8)), (6,)),
    "image": (lambda: EndpointMap(GeodesicPath(OneHot(K)), UNet(K, width=8, lower=(16,), heads=2, out=K)), (4, 4)),
    "molecule": (graph, {"atoms": (4,), "bonds": (4, 4)}),
}
IDENTITIES = {"PSD-KL": O.SemigroupKL, "LSD": O.Lagrangian, "ESD": O.Eulerian}


class Letters:
    """Random categories."""

    def __init__(self, flow_map, shape, n: int = 16):
        sizes = flow_map.space.sizes()
        self.x_1 = fieldwise(lambda s, k: torch.randint(k, (n, *s), generator=seeded()), shape, sizes)
        if isinstance(shape, dict):
            self.x_1["bonds"] = torch.triu(self.x_1["bonds"], 1)
            self.x_1["bonds"] = self.x_1["bonds"] + self.x_1["bonds"].mT

    def __len__(self):
        return len(next(leaves(self.x_1))[0])

    def batch(self, index):
        return Batch(fieldwise(lambda x: x[index], self.x_1))


class Watched(nn.Module):
    """Notes what enters a network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x, s, t, condition=None):
        self.seen.append((s.detach().clone(), t.detach().clone(), *(leaf.dtype for (leaf,) in leaves(x))))
        return self.network(x, s, t, condition)


def objective(flow_map, identity="PSD-KL"):
    clock = DecodeRateClock(K)
    return SelfDistillation(
        flow_map,
        IDENTITIES[identity](),
        times=OnClock(clock),
        share=0.5,
        pairs=PairOnClock(clock, FullJump()),
        teacher=Average,
        weight=LearnedWeight(8),
    )


def built(name):
    torch.manual_seed(0)
    make, shape = MAPS[name]
    flow_map = randomised(make()).float()
    return flow_map, Letters(flow_map, shape)


def evaluated(name, identity, precision):
    """Loss and gradient of a batch with a seed."""
    flow_map, data = built(name)
    loss = objective(flow_map, identity)
    loss = loss.double() if precision == "64-true" else loss
    module = Mixed(loss) if precision == "bf16-mixed" else loss
    batch = data.batch(slice(None))
    value = module(batch, module.draw(batch, seeded(1)))["loss"]
    value.backward()
    return value.item(), torch.cat([p.grad.flatten().double() for p in flow_map.parameters() if p.grad is not None])


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", MAPS)
def test_precisions_agree(name, identity):
    """The same seed draws the same noise and times in each, so losses and gradients differ by rounding alone."""
    single, double, mixed = (evaluated(name, identity, p) for p in ("32-true", "64-true", "bf16-mixed"))
    assert single[0] == pytest.approx(double[0], rel=1e-4) and single[0] != double[0]
    assert torch.cosine_similarity(single[1], double[1], dim=0) > 1 - 1e-5
    assert mixed[0] == pytest.approx(double[0], rel=0.05) and mixed[0] != single[0]
    assert torch.cosine_similarity(mixed[1], double[1], dim=0) > 0.98


@pytest.mark.parametrize("precision, dtype", [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
@pytest.mark.parametrize("name", MAPS)
def test_a_run_keeps_times_and_states(tmp_path, name, precision, dtype):
    flow_map, data = built(name)
    flow_map.network = watched = Watched(flow_map.network)
    loss = objective(flow_map)
    report = Trainer(
        loss,
        data,
        data,
        tmp_path,
        max_steps=2,
        batch_size=8,
        precision=precision,
        accelerator="cpu",
        progress=False,
        curves=False,
        log_every=1,
    ).fit()
    states = {kind for _, _, *kinds in watched.seen for kind in kinds}
    assert states == {dtype} and {v.dtype for s, t, _, *_ in watched.seen for v in (s, t)} == {dtype}
    batch = data.batch(torch.arange(8))
    s = loss.draw(batch, seeded(3)).s
    assert s.dtype == dtype and not torch.equal(s, s.bfloat16().to(dtype))
    assert all(p.dtype == dtype for p in report.flow_map.parameters())
    shape = fieldwise(lambda s: (2, *s), MAPS[name][1])
    for sampler in (Jumps(2), Renoise(2)):
        generate(report.flow_map, sampler, shape, seeded())


def test_clocks_and_features_of_times_keep_their_digits_under_autocast():
    clock, weight = DecodeRateClock(27), LearnedWeight(8)
    nn.init.normal_(weight.out.weight)
    t = 1 - torch.logspace(-5, -1, 50)
    assert clock(t.bfloat16()).dtype == torch.float32 and len(clock(t).unique()) == 50
    context = transformer(OneHot(3)).network.context
    read = []
    context.read.register_forward_hook(lambda module, given, y: read.append(y))
    for function in (clock, lambda t: weight(torch.ones_like(t), t, t), lambda t: context(t, t, FREE)):
        plain = function(t)
        with torch.autocast("cpu", torch.bfloat16):
            again = function(t)
        assert again.dtype == torch.bfloat16 if len(read) else torch.equal(again, plain)
    assert len(read) == 2 and torch.equal(read[0], read[1])
