"""Metrics of points: exact samples are at the floor, and each metric sees the fault it is for."""

import math

import pytest
import torch

from flowmaps.data.points import Checkerboard, Ring
from flowmaps.metrics.points import PointQuality, floor, histogram_kl
from flowmaps.metrics.two_sample import energy_distance

BOARD = Checkerboard()


def test_the_divergence_of_a_coarse_histogram_is_exact():
    """Half of the mass moved from one mode to the next: KL = -(1/8)(log 1/2 + log 3/2) on one cell a square."""
    x = BOARD.sample(400_000, seed=0)
    mode = BOARD.mode(x)
    moved = (mode == 0) & (torch.arange(len(x)) % 2 == 0)
    x[moved] += torch.tensor([0.0, 2.0])  # the next square of the row
    found = histogram_kl(x, BOARD, bins=4)
    assert abs(found.kl + (math.log(0.5) + math.log(1.5)) / 8) < 5 * found.error < 0.005


def test_leakage_costs_the_logarithm_of_what_is_left():
    x = BOARD.sample(200_000, seed=0)
    x[::4] = 50.0
    assert abs(histogram_kl(x, BOARD, bins=4).kl + math.log(0.75)) < 0.005
    x[::4] = torch.tensor([-0.5, -0.5 - 1])  # an empty square of the board
    assert BOARD.mode(x[::4]).max() == -1 and abs(histogram_kl(x, BOARD, bins=4).kl + math.log(0.75)) < 0.005


@pytest.mark.parametrize("known", [BOARD, Ring()], ids=repr)
def test_exact_points_are_at_the_floor(known):
    """Where cells are well filled the floor is (M - 1)/(2n), and the standard error is that of repeated samples."""
    n = 20_000
    level = floor(known, n, bins=16)
    runs = [histogram_kl(known.sample(n, 100 + seed), known, bins=16) for seed in range(20)]
    values = torch.tensor([run.kl for run in runs])
    assert abs(float(values.mean()) - level) < 0.4 * level
    if known is BOARD:
        assert abs(level - 127 / (2 * n)) < 0.2 * level
    assert floor(known, 8 * n, bins=16) < level / 4


def test_the_error_is_that_of_repeated_samples():
    def bad(seed):  # a fifth of the points leak, modes unequal
        x = BOARD.sample(5000, seed)
        x[:1000] += 10
        return torch.cat([x, x[BOARD.mode(x) == 3]])

    runs = [histogram_kl(bad(seed), BOARD, bins=8) for seed in range(60)]
    spread = torch.tensor([run.kl for run in runs]).std()
    assert 0.5 < runs[0].error / float(spread) < 3


def test_a_missing_mode_is_seen():
    x = BOARD.sample(20_000, seed=0)
    judge = PointQuality(BOARD.sample(2000, seed=9), BOARD)
    exact = judge(x)
    assert (
        list(exact)[0] == "kl" and exact["outside"] == 0 and exact["least_mode"] > 0.9 and exact["missing_modes"] == 0
    )
    assert abs(exact["kl"] - exact["kl_floor"]) < 5 * exact["kl_error"]
    assert abs(exact["energy"]) < 5e-3 and abs(exact["mmd"]) < 2e-3
    without = judge(x[BOARD.mode(x) != 5])
    assert without["missing_modes"] == 1 and without["least_mode"] == 0
    assert without["kl"] > 0.2 and without["energy"] > exact["energy"]


def test_without_a_density_distances_remain():
    a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.0])
    judge = PointQuality(a)
    same = judge(torch.randn(500, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 100.0, 0.0]))
    assert set(same) == {"energy", "mmd"} and abs(same["energy"]) < 0.02
    assert judge(a + torch.tensor([2.0, 0.0, 0.0]))["energy"] > 0.3, "each coordinate counts in its own unit"
    with pytest.raises(ValueError, match="at least two each"):
        judge(a[:1])


def test_energy_distance_of_normal_samples():
    """Two normal distributions a distance d apart: 2E|X - Y| - 2E|X - X'| in closed form."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3000, 1, generator=generator), torch.randn(3000, 1, generator=generator) + 1.5
    d, sigma = 1.5, math.sqrt(2)
    folded = sigma * math.sqrt(2 / math.pi) * math.exp(-(d**2) / (2 * sigma**2)) + d * math.erf(
        d / (sigma * math.sqrt(2))
    )
    assert abs(energy_distance(x, y) - 2 * (folded - sigma * math.sqrt(2 / math.pi))) < 0.06
    assert abs(energy_distance(x[:1500], x[1500:])) < 0.02
