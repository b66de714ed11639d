"""Tuning against maps of known error: costs in closed form, and grids that must be better than equal steps."""

from itertools import combinations

import pytest
import torch
from torch import nn

from flowmaps.fields import Condition
from flowmaps.maps import VelocityMap
from flowmaps.oracles import FiniteLaw, GaussianLaw
from flowmaps.paths import Dirichlet, GeodesicPath
from flowmaps.samplers import generate
from flowmaps.samplers.grids import TimeGrid, cheapest
from flowmaps.samplers.tuning import JumpCosts, noises, price, proposed, search
from flowmaps.spaces import Euclidean, OneHot
from identities.cases import LEARNED, finite, randomised, seeded

A = 0.05  # deviation of the data: nearly one point, so that the path bends late
LAW = GaussianLaw(torch.tensor([1.0, -1.0], dtype=torch.float64), A)


class Straight(nn.Module):
    """The exact velocity at the start of a jump, kept for all of it: jumps are steps of Euler's method."""

    def __init__(self, law: GaussianLaw):
        super().__init__()
        self.law = law

    def forward(self, x, s, t, condition=None):
        return self.law(x, s, s)


def straight() -> VelocityMap:
    return VelocityMap(GeodesicPath(Euclidean(2)), Straight(LAW)).double()


def deviation(t):
    return ((1 - t) ** 2 + (t * A) ** 2) ** 0.5


def slope(t):
    return (t * (1 + A**2) - 1) / deviation(t)


def arrives(times) -> float:
    """The deviation of samples: each jump from s to t multiplies it by 1 + (t - s) σ'_s/σ_s; exact would be A."""
    scale = 1.0
    for s, t in zip(times, times[1:], strict=False):
        scale *= 1 + (t - s) * slope(s) / deviation(s)
    return abs(scale)


def error(one: TimeGrid, share: float = 1.0) -> float:
    return abs(arrives(one.times) - A)


def measured(flow_map, times, n=64, **settings) -> JumpCosts:
    costs = JumpCosts(times, **settings)
    shape = (n,) if isinstance(flow_map, VelocityMap) else (n, 3)
    generate(flow_map, costs, shape, seeded())
    return costs


def test_costs_of_a_map_of_known_error():
    """An Euler jump from the exact path misses it by |σ_t - σ_s - (t - s) σ'_s| |z|."""
    costs = measured(straight(), 5, refine=400)
    z = torch.randn(64, 2, generator=seeded())
    size = float(z.square().sum(1).mean().sqrt())
    for i in range(5):
        for j in range(i + 1, 6):
            s, t = i / 5, j / 5
            exact = abs(deviation(t) - deviation(s) - (t - s) * slope(s)) * size
            assert float(costs.costs[i, j]) == pytest.approx(exact, abs=0.02)
    assert float(costs.costs.tril().abs().max()) == 0 and costs.seen == 64


@pytest.mark.parametrize("make", [lambda: LAW.flow_map().double(), lambda: finite(steps=200).flow_map()])
def test_an_exact_map_costs_nothing(make):
    assert float(measured(make(), torch.tensor([0.0, 0.4, 0.7, 1.0])).costs.max()) < 1e-5


def test_the_path_proposes_a_grid_that_is_better_than_equal_steps():
    costs = measured(straight(), 20, refine=50)
    for steps in (2, 3, 4):
        grid = proposed(costs.costs, costs.times, steps)
        assert error(grid) < error(TimeGrid.uniform(steps))
        assert price(costs.costs, costs.times, grid) <= price(costs.costs, costs.times, TimeGrid.uniform(steps)) + 1e-9


def test_samples_on_the_proposed_grid_are_nearer_to_the_truth():
    flow_map, n = straight(), 4000
    costs = measured(flow_map, 20, refine=20)
    deviations = [
        float(generate(flow_map, grid.sampler(), (n,), seeded(1)).std())
        for grid in (LAW_GRID, proposed(costs.costs, costs.times, 4), TimeGrid.uniform(4))
    ]
    exact = float((LAW.m + A * torch.randn(n, 2, generator=seeded(2)).double()).std())
    assert abs(deviations[1] - exact) < abs(deviations[2] - exact)
    assert abs(deviations[0] - exact) < 0.02


LAW_GRID = TimeGrid(tuple(i / 400 for i in range(401)))


@pytest.mark.parametrize("steps", [2, 3])
def test_the_search_comes_near_the_best_of_all_grids(steps):
    every = [TimeGrid((0.0, *inner, 1.0)) for inner in combinations([i / 50 for i in range(1, 50)], steps - 1)]
    best, found = min(map(error, every)), search(steps, error, etas=(0.0,))[0]
    assert error(found) < error(TimeGrid.uniform(steps))
    assert error(found) - best < 0.1 * (error(TimeGrid.uniform(steps)) - best)


def test_the_search_keeps_equal_steps_where_nothing_is_better():
    def distance(one: TimeGrid, share: float) -> float:
        pairs = zip(one.times, TimeGrid.uniform(4).times, strict=True)
        return max(abs(a - b) for a, b in pairs) + abs(one.overshoot - 0.25)

    assert search(4, distance)[0] == TimeGrid(TimeGrid.uniform(4).times, 0.25)


def test_the_search_measures_no_grid_twice_and_most_on_few_samples():
    asked: list[tuple[TimeGrid, float]] = []

    def measure(one: TimeGrid, share: float) -> float:
        asked.append((one, share))
        return error(one)

    search(4, measure, proposals=[(0.0, 0.6, 0.75, 0.85, 1.0)], etas=(0.0, 0.5))
    assert len(asked) == len(set(asked)) and (TimeGrid((0.0, 0.6, 0.75, 0.85, 1.0), 0.5), 0.25) in asked
    shares = [share for _, share in asked]
    assert shares.count(1.0) == 3 and 6 < shares.count(0.5) <= 6 + 2 * 6 and shares.count(0.25) > 12


def test_batches_are_worked_off_in_parts():
    flow_map = randomised(LEARNED["transformer"]()).float()
    whole, parts = JumpCosts(4), JumpCosts(4, numbers=5 * 12 * 3)
    ends = [generate(flow_map, costs, (8, 4), seeded()) for costs in (whole, parts)]
    assert torch.equal(*ends) and whole.seen == parts.seen == 8
    assert torch.allclose(whole.costs, parts.costs, atol=1e-6) and float(whole.costs[0, 4]) > 0


def test_padding_and_given_positions_cost_nothing():
    flow_map = randomised(LEARNED["perceptron"]()).float()
    known, given = torch.ones(6, 4, dtype=torch.bool), torch.ones(6, 4, dtype=torch.long)
    given_all, masked = JumpCosts(3), JumpCosts(3)
    generate(flow_map, given_all, (6, 4), seeded(), condition=Condition(known=known), given=given)
    generate(flow_map, masked, (6, 4), seeded(), condition=Condition(mask=torch.zeros(6, 4, dtype=torch.bool)))
    assert float(given_all.costs.max()) == float(masked.costs.max()) == 0


def test_several_fields_cost_the_sum():
    flow_map = randomised(LEARNED["two fields"]()).float()
    shape, costs = {"a": (6, 4), "b": (6, 4, 4)}, JumpCosts(3)
    generate(flow_map, costs, shape, seeded())
    assert costs.costs.shape == (4, 4) and float(costs.costs[0, 3]) > 0
    assert cheapest(costs.costs, 1) == [0, 3]


def test_only_a_gaussian_source_takes_noise_on_the_way_or_another_spread():
    overshoots, spreads = noises(finite().flow_map(), 4)
    assert overshoots == (0.0, 0.25, 0.5, 0.75, 1.0) and 1.0 in spreads
    assert noises(finite().flow_map(), 1) == ((0.0,), spreads), "one jump has no noise on the way"
    law: FiniteLaw = finite()
    law_map = law.flow_map()
    law_map.path = GeodesicPath(OneHot(3), Dirichlet())
    assert noises(law_map, 4) == ((0.0,), (1.0,))


def test_a_search_finds_the_spread_of_one_jump_and_of_several():
    def measure(one: TimeGrid, share: float) -> float:
        return abs(one.spread - 0.8) + 0.1 * abs(one.overshoot - 0.5) + sum(abs(t - 0.7) for t in one.times[1:-1])

    assert search(1, measure, etas=(0.0,), spreads=(1.0, 0.8, 0.6))[0] == TimeGrid((0.0, 1.0), 0.0, 0.8)
    found = search(2, measure, spreads=(1.0, 0.8, 0.6))
    assert found[0] == TimeGrid((0.0, 0.7, 1.0), 0.5, 0.8)
    assert any(one.spread == 1 and one.times == found[0].times for one in found), "the best of the exact source is kept"
    assert all(one.spread == 1 for one in search(2, measure))


def test_a_fine_path_has_jumps():
    with pytest.raises(ValueError, match="refine is 0, expected at least 1"):
        JumpCosts(4, refine=0)
