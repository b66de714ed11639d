"""Times that are learned, and times by the ratio of data to noise, against exact integrals."""

import math

import pytest
import torch

from flowmaps import objectives as O
from flowmaps import times as T
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from identities.cases import seeded

BINS = 8
SPREAD = torch.linspace(0.2, 3.0, BINS)


def noisy(t, generator):
    """A loss of mean 1 + t² whose deviation is SPREAD in each bin of t."""
    z = torch.randn(len(t), generator=generator)
    return 1 + t.square() + SPREAD[(t * BINS).long().clamp(max=BINS - 1)] * z


def learned(law, updates=200, n=512):
    generator = seeded(3)
    for _ in range(updates):
        t = law(T.stratified(n, generator=generator).squeeze(-1))
        law.learn(t, noisy(t, generator))
        law.after_step()
    return law


def test_it_begins_uniform():
    law, u = O.ImportanceSampled(bins=5), torch.rand(100, generator=seeded())
    assert torch.allclose(law(u), u, atol=1e-6) and torch.allclose(law.weight(law(u)), torch.ones(100))


@pytest.mark.parametrize("centred", [True, False])
def test_the_density_is_the_root_of_the_moment(centred):
    """Exact moments in each bin: those of 1 + t² and of the noise."""
    law, epsilon = learned(O.ImportanceSampled(BINS, uniform=0.2, centred=centred)), 0.2
    ends = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    mean = [float((b + b**3 / 3 - a - a**3 / 3) * BINS) for a, b in zip(ends, ends[1:], strict=False)]
    square = [float((b + 2 * b**3 / 3 + b**5 / 5 - a - 2 * a**3 / 3 - a**5 / 5) * BINS)
              for a, b in zip(ends, ends[1:], strict=False)]  # fmt: skip
    moment = torch.tensor(square) + SPREAD.square() - (torch.tensor(mean).square() if centred else 0)
    exact = (1 - epsilon) * moment.sqrt() / moment.sqrt().sum() + epsilon / BINS
    assert torch.allclose(law.probabilities().float(), exact, rtol=0.05)
    u = T.stratified(200_000, generator=seeded()).squeeze(-1)
    drawn = torch.bincount((law(u) * BINS).long(), minlength=BINS) / len(u)
    assert torch.allclose(drawn, law.probabilities().float(), atol=1e-4)


@pytest.mark.parametrize("clock", [None, T.DecodeRateClock(27)])
def test_the_weighted_mean_is_the_uniform_one(clock):
    """Both against the integral: on the clock that over its readings."""
    law = learned(O.ImportanceSampled(BINS))
    on_clock = law if clock is None else T.OnClock(clock, law)
    loss = lambda t: torch.exp(t) + (3 * t).sin()  # noqa: E731
    u = T.stratified(100_000, generator=seeded()).squeeze(-1).double()
    t = on_clock(u)
    weight = on_clock.weight(t)
    assert weight is not None and float(weight.max()) < 1 / law.uniform
    assert float(weight.std()) > 0.2 and float(weight.mean()) == pytest.approx(1, abs=1e-4)
    even = u if clock is None else clock.inverse(u)
    assert float((weight * loss(t)).mean()) == pytest.approx(float(loss(even).mean()), abs=2e-4)
    if clock is None:
        assert float(loss(even).mean()) == pytest.approx(math.e - 1 + (1 - math.cos(3)) / 3, abs=1e-4)


def test_the_mean_of_stratified_draws_has_less_variance_than_uniform_ones():
    """(Σ σ)² / B² against Σ σ² / B, at uniform = 0: Neyman's gain."""
    law, generator = learned(O.ImportanceSampled(BINS, uniform=0.01)), seeded(4)
    even, chosen = [], []
    for _ in range(400):
        u = T.stratified(64, generator=generator).squeeze(-1)
        t = law(u)
        even.append(float(noisy(u, generator).mean()))
        chosen.append(float((law.weight(t) * noisy(t, generator)).mean()))
    gain = float(torch.tensor(even).var() / torch.tensor(chosen).var())
    assert gain == pytest.approx(float(SPREAD.square().mean() / SPREAD.mean() ** 2), rel=0.25)


def test_an_objective_weights_and_learns_in_training_only():
    """One position of a known map: the loss of the objective is the weighted mean of its own cross-entropies."""
    flow_map = EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), width=8, depth=1))
    objective = O.SelfDistillation(flow_map, share=1.0, times=T.OnClock(law=O.ImportanceSampled(BINS)))
    law = objective.times.law
    law.moments.copy_(torch.stack([torch.ones(BINS), torch.zeros(BINS), SPREAD.square()]) * 50)
    batch = Batch(torch.randint(3, (64, 2), generator=seeded()))
    draw = objective.draw(batch, seeded())
    before = law.moments.clone()
    objective.eval()(batch, draw)
    objective.after_step()
    assert torch.equal(law.moments, before * law.decay)  # nothing was noted
    plain = O.SelfDistillation(flow_map, share=1.0)
    one = []
    for i in range(64):
        alone = O.Draw(draw.noise[i : i + 1], *(x[i : i + 1] for x in draw[1:4]), 1)
        one.append(float(plain(Batch(batch.x_1[i : i + 1]), alone)["loss"].detach()))
    values = objective.train()(batch, draw)
    weight = objective.times.weight(draw.s)
    assert float(values["loss"]) == pytest.approx(float((weight * torch.tensor(one)).mean()), rel=1e-5)
    assert float(law.fresh[0].sum()) == 64 and float(law.fresh[1].sum()) == pytest.approx(sum(one), rel=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_ratio_has_its_power(power):
    """P(u <= x) = (x / top)^power; power 2 has the density t/(1-t)³ of the bound by cross-entropies."""
    t = T.RatioPower(power, 5.0)(T.stratified(100_000, generator=seeded()).squeeze(-1))
    for x in (0.5, 2.0, 4.0):
        assert float((t / (1 - t) <= x).float().mean()) == pytest.approx((x / 5) ** power, abs=1e-3)
    if power == 2:
        loss, grid = (-4 * t).exp().mean(), (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * 5 / 6
        density = grid / (1 - grid) ** 3
        assert float(loss) == pytest.approx(float((density * (-4 * grid).exp()).sum() / density.sum()), abs=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: O.ImportanceSampled(bins=0), "bins is 0"),
        (lambda: O.ImportanceSampled(uniform=0.0), "uniform 0.0"),
        (lambda: O.ImportanceSampled(decay=1.0), "decay 1.0"),
        (lambda: T.RatioPower(power=0.0), "power is 0.0"),
        (lambda: T.RatioPower(top=math.inf), "top is inf"),
    ],
)
def test_impossible_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
