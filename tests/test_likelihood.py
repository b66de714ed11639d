"""Bounds: tight on the truth, never below it for anything else."""

import math

import pytest
import torch

from flowmaps.fields import Batch, Condition
from flowmaps.likelihood import BOUND_BY_CE, Averaged, CrossEntropyOnly, CutOff, Grid, score
from flowmaps.maps import EndpointMap
from flowmaps.metrics.two_sample import total_variation, total_variation_floor
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Categorical, Jumps, generate
from flowmaps.spaces import OneHot
from identities.cases import LEARNED, randomised, seeded

BOUNDS = {
    "B1": lambda: CutOff(),
    "B1 at a small cut-off": lambda: CutOff(U_max=1.5),
    "B2": lambda: Averaged(),
    "B2 of late cut-offs": lambda: Averaged(U_low=3.0),
    "B3": lambda: CrossEntropyOnly(),
    "B4": lambda: Grid(64),
    "B4, four steps": lambda: Grid(4),
}


@pytest.fixture(scope="module")
def law():
    return FiniteLaw.dependent(3, 3, generator=seeded(), steps=1, coupling=1.0).float()


@pytest.mark.parametrize("name", ["B1", "B2 of late cut-offs"])
def test_tight_bounds_equal_the_entropy(law, name):
    estimate = score(
        law.flow_map(), [Batch(law.sample(20_000, seeded(i))) for i in range(2)], BOUNDS[name](), seeded(9)
    )
    assert estimate.n == 40_000 and estimate.positions == 3
    assert abs(estimate.nats - float(law.entropy())) < 4 * estimate.error
    assert estimate.error < 0.03


@pytest.mark.parametrize("name", ["B1", "B1 at a small cut-off", "B2", "B2 of late cut-offs"])
def test_every_cut_off_is_tight_for_one_position(name):
    law = FiniteLaw.dependent(5, 1, generator=seeded(), steps=1).float()
    estimate = score(law.flow_map(), [Batch(law.sample(40_000, seeded(1)))], BOUNDS[name](), seeded(9))
    assert abs(estimate.nats - float(law.entropy())) < 4 * estimate.error


@pytest.mark.parametrize("U", [0.5, 1.5])
def test_an_early_cut_off_costs_the_total_correlation_that_is_left(law, U):
    """With several positions the factorised π_T cannot express the joint posterior at T; the gap is exactly that."""
    x_1 = law.sample(40_000, seeded(1))
    estimate = score(law.flow_map(), [Batch(x_1)], CutOff(U_max=U), seeded(2))
    t = torch.full((len(x_1),), U / (1 + U))
    x_t = law.flow_map().path(torch.randn(len(x_1), 3, 3, generator=seeded(3)), x_1, t)
    w = law.weights(x_t.flatten(1) / (1 - t).unsqueeze(1), t / (1 - t))
    joint = -torch.special.xlogy(w, w).sum(1)
    mu = (w @ law.one_hot).unflatten(1, (3, 3))
    correlation = -torch.special.xlogy(mu, mu).sum((1, 2)) - joint
    assert float(correlation.mean()) > 0.02
    assert abs(estimate.nats - float(law.entropy()) - float(correlation.mean())) < 4 * estimate.error


@pytest.mark.parametrize("name", BOUNDS)
def test_no_network_scores_below_the_entropy(law, name):
    """A random denoiser, and the exact one of another law."""
    data = [Batch(law.sample(4000, seeded(3)))]
    other = FiniteLaw.dependent(3, 3, generator=seeded(8), steps=1).float()
    wrong = randomised(LEARNED["transformer"](), scale=1.0).float()
    for network in (other, wrong.network):
        estimate = score(EndpointMap(law.flow_map().path, network), data, BOUNDS[name](), seeded(4))
        assert estimate.nats > float(law.entropy()) + 4 * estimate.error


def test_a_finer_grid_is_tighter_and_cross_entropy_alone_is_looser(law):
    data = [Batch(law.sample(20_000, seeded(3)))]
    nats = {n: score(law.flow_map(), data, Grid(n), seeded(5)).nats for n in (2, 8, 64)}
    assert nats[2] > nats[8] > nats[64] > float(law.entropy())
    assert score(law.flow_map(), data, CrossEntropyOnly(), seeded(5)).nats > float(law.entropy()) + 0.2


def test_the_constant_of_b3_bounds_the_squared_error():
    """‖e_k - π‖² <= 0.8146 CE; the extreme is two letters, and nearly attained."""
    pi = torch.rand(200_000, 3, generator=seeded(), dtype=torch.float64)
    pi = torch.cat([pi / pi.sum(1, keepdim=True), torch.stack([torch.linspace(0.01, 0.999, 5000)] * 3, 1).double()])
    pi[-5000:, 1], pi[-5000:, 2] = 1 - pi[-5000:, 0], 0
    square = 1 - 2 * pi[:, 0] + pi.square().sum(1)
    ratio = (square / -pi[:, 0].log())[pi[:, 0] > 0]
    assert BOUND_BY_CE - 1e-3 < float(ratio.max()) <= BOUND_BY_CE


def test_given_positions_are_not_scored(law):
    x = law.sample(4000, seeded(1))
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, 0] = True
    estimate = score(law.flow_map(), [Batch(x, Condition(known=known))], CutOff(), seeded(2))
    p = law.log_p.exp()
    first = torch.zeros(3).index_add_(0, law.atoms[:, 0], p)
    conditional = float(law.entropy()) + float((first * first.log()).sum())
    assert estimate.positions == 2
    assert abs(estimate.nats - conditional) < 4 * estimate.error


def test_unordered_pairs_are_scored_once():
    """Bonds as a symmetric matrix of an exact law on its upper triangle, with a triangular mask and without any."""
    law = FiniteLaw.dependent(3, 3, generator=seeded(), steps=1, coupling=1.0).float()
    i, j = torch.triu_indices(3, 3, 1)

    class Matrix(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            z = x.new_zeros(len(x), 3, 3, 3)
            z[..., 1:] = -1e4  # the diagonal holds category 0
            z[:, i, j] = z[:, j, i] = law(x[:, i, j], s, s)
            return z

    flow_map = EndpointMap(GeodesicPath(OneHot(3, symmetric=True)), Matrix())
    x = law.sample(20_000, seeded(1))
    bonds = torch.zeros(len(x), 3, 3, dtype=torch.long)
    bonds[:, i, j] = bonds[:, j, i] = x
    mask = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1).expand(len(x), 3, 3)
    free, masked = (
        score(flow_map, [Batch(bonds, c)], CutOff(), seeded(2)) for c in (Condition(), Condition(mask=mask))
    )
    assert free == masked and free.positions == 3
    assert abs(free.nats - float(law.entropy())) < 4 * free.error


def test_units():
    from flowmaps.likelihood import Estimate

    log_2 = 0.6931471805599453
    estimate = Estimate(nats=4 * log_2, error=log_2, n=10, positions=4.0, rate_error=log_2 / 4)
    assert estimate.bits_per_position == pytest.approx(1)
    assert estimate.bits_error == pytest.approx(0.25)
    assert estimate.perplexity == pytest.approx(2)
    assert estimate.perplexity_error == pytest.approx(2 * log_2 / 4)
    assert Estimate(1e6, 1.0, 10, 4.0, 0.25).perplexity == float("inf")
    v = torch.tensor([1.0, 4.0, 2.0, 5.0], dtype=torch.float64)
    same = Estimate.of(v, torch.full_like(v, 3.0))
    assert same.rate_error == pytest.approx(same.error / 3)
    assert Estimate.of(v, 2 * v).rate_error == pytest.approx(0, abs=1e-12), "nats by length: nothing is uncertain"


def test_the_error_of_a_rate_is_its_spread_where_lengths_vary():
    law = FiniteLaw.dependent(3, 6, generator=seeded(), steps=1, coupling=0.3).float()
    n, rates, errors, naive = 200, [], [], []
    for seed in range(40):
        length = torch.randint(1, 7, (n, 1), generator=seeded(seed))
        condition = Condition(mask=torch.arange(6) < length)
        batch = Batch(law.sample(n, seeded(seed + 99)), condition)
        estimate = score(law.flow_map(), [batch], CutOff(draws=32), seeded(seed))
        rates.append(estimate.bits_per_position)
        errors.append(estimate.bits_error)
        naive.append(estimate.error / estimate.positions / 0.6931471805599453)
    spread, error = float(torch.tensor(rates).std()), sum(errors) / 40
    assert error == pytest.approx(spread, rel=0.35)  # the spread of 40 is known to about 11 %
    assert sum(naive) / 40 > 1.5 * error, "nats and lengths go together"


class Diagonal(torch.nn.Module):
    """The exact posterior on the diagonal, and nothing learned of jumps."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def forward(self, x, s, t, condition=None):
        return self.law(x, s, s) if torch.equal(s, t) else torch.zeros_like(x)


def test_no_bound_sees_a_jump():
    law = FiniteLaw.dependent(3, 3, generator=seeded(), steps=16, coupling=1.0).float()
    jumps_badly = EndpointMap(law.flow_map().path, Diagonal(law))
    data = [Batch(law.sample(500, seeded(1)))]
    for name in BOUNDS:
        a, b = (score(flow_map, data, BOUNDS[name](), seeded(2)) for flow_map in (law.flow_map(), jumps_badly))
        assert a == b, name
    p = law.log_p.exp()
    samples = generate(jumps_badly, Jumps(1), (4000, 3), seeded(3), decoder=Categorical())
    assert total_variation(samples, law.atoms, p) > 3 * total_variation_floor(p, 4000)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_b4_bounds_the_ancestral_sampler_of_as_many_steps(steps):
    law = FiniteLaw(torch.arange(3).unsqueeze(1), torch.tensor([0.7, 0.2, 0.1]).log(), 3, steps=1)
    p, n = law.log_p.exp(), 100_000
    generator, u = seeded(1), torch.linspace(0, 4.0, steps + 1)
    Z = torch.zeros(n, 1, 3)
    for here, there in zip(u[:-1], u[1:], strict=True):
        t = (here / (1 + here)).expand(n)
        x = Z * (1 - t[0]) / here if here > 0 else torch.randn(n, 1, 3, generator=generator)
        gap = there.square() - here.square()
        Z = Z + gap * law(x, t, t).exp() + gap.sqrt() * torch.randn(n, 1, 3, generator=generator)
    t = (u[-1] / (1 + u[-1])).expand(n)
    q = law(Z * (1 - t[0]) / u[-1], t, t).exp().mean(0)[0]
    bound = score(law.flow_map(), [Batch(law.sample(20_000, seeded(2)))], Grid(steps, U_max=4.0), seeded(3))
    assert -float(p @ q.log()) < bound.nats + 3 * bound.error


def test_bounds_no_better_than_uniform_are_marked(law):
    x = law.sample(200, seeded(1))
    good = score(law.flow_map(), [Batch(x)], CutOff(), seeded(2))
    assert good.uniform == pytest.approx(good.positions * math.log(law.K)) and not good.vacuous

    class Wrong(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            return -9 * x

    wrong = score(EndpointMap(law.flow_map().path, Wrong()), [Batch(x)], CutOff(), seeded())
    assert wrong.vacuous


def test_bounds_refuse_maps_without_a_posterior(law):
    with pytest.raises(ValueError, match="EndpointMap"):
        CutOff()(randomised(LEARNED["velocity"]()).float(), Batch(law.sample(4, seeded())), seeded())
    with pytest.raises(ValueError, match="at least two"):
        score(law.flow_map(), [], CutOff(), seeded())
    with pytest.raises(ValueError, match="U_low is 20"):
        Averaged(U_low=20.0)(law.flow_map(), Batch(law.sample(4, seeded())), seeded())
