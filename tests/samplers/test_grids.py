"""Grids of times: the cheapest path against all paths, shapes, and the samplers that grids stand for."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.samplers import Jumps, Renoise
from flowmaps.samplers.grids import TimeGrid, cheapest, distinct, neighbours, refined, shapes
from identities.cases import seeded


def cost_of(costs, path) -> float:
    return float(sum(costs[i, j] for i, j in zip(path, path[1:], strict=False)))


@given(points=st.integers(1, 7), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_cheapest_path_is_the_cheapest_of_all(points, seed, data):
    steps = data.draw(st.integers(1, points))
    costs = torch.rand(points + 1, points + 1, generator=seeded(seed))
    path = cheapest(costs, steps)
    every = [(0, *inner, points) for inner in combinations(range(1, points), steps - 1)]
    assert path[0] == 0 and path[-1] == points and len(path) == steps + 1 and path == sorted(set(path))
    assert cost_of(costs, path) == pytest.approx(min(cost_of(costs, one) for one in every), abs=1e-6)


def test_what_lies_below_the_diagonal_is_not_read():
    costs = torch.rand(6, 6, generator=seeded())
    assert cheapest(costs, 3) == cheapest(costs.triu(1) - 100 * torch.ones(6, 6).tril(), 3)


@pytest.mark.parametrize("steps", [0, 6])
def test_no_path_of_more_jumps_than_intervals(steps):
    with pytest.raises(ValueError, match=f"{steps} steps over 5 intervals; expected 1 to 5"):
        cheapest(torch.rand(6, 6), steps)


@pytest.mark.parametrize("steps", [2, 3, 4, 8, 16])
def test_shapes_are_grids_each_once_and_the_uniform_one_first(steps):
    found = list(shapes(steps))
    assert found[0] == TimeGrid.uniform(steps).times and len(set(found)) == len(found) > 5
    assert all(TimeGrid(times).sampler().evaluations == steps for times in found)


def test_a_third_stays_a_third_and_what_coincides_is_left_out():
    assert list(distinct([[0, 1 / 3, 2 / 3, 1]])) == [TimeGrid.uniform(3).times]
    assert list(distinct([[0, 0.501, 0.502, 1], [0, 0.504, 0.9, 1]])) == [(0, 0.5, 0.9, 1)]


def test_neighbours_move_one_time_at_most_halfway():
    assert set(neighbours((0.0, 0.5, 0.54, 1.0), 0.1)) == {
        (0.0, 0.4, 0.54, 1.0), (0.0, 0.52, 0.54, 1.0), (0.0, 0.5, 0.52, 1.0), (0.0, 0.5, 0.64, 1.0),
    }  # fmt: skip
    assert refined((0.0, 0.5, 1.0)) == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_the_sampler_of_a_grid():
    plain, noisy = TimeGrid((0.0, 0.75, 1.0)).sampler(), TimeGrid((0.0, 0.75, 1.0), 0.5).sampler()
    assert type(plain) is Jumps and type(noisy) is Renoise and noisy.eta == 0.5
    assert torch.equal(TimeGrid.uniform(5).sampler().times, Jumps(5).times)
    assert str(TimeGrid.uniform(3)) == "0, .3333, .6667, 1"
    with pytest.raises(ValueError, match="starts at 0.5"):
        TimeGrid((0.5, 1.0)).sampler()
    with pytest.raises(ValueError, match="eta is 2"):
        TimeGrid((0.0, 0.5, 1.0), 2.0).sampler()
