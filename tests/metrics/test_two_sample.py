"""Known answers for the distances between samples."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.metrics import (
    bootstrap,
    frechet,
    frechet_distance,
    precision_recall,
    squared_mmd,
    total_variation,
    total_variation_floor,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def law(k: int = 3, d: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    atoms = torch.tensor(list(itertools.product(range(k), repeat=d)))
    return atoms, torch.rand(len(atoms), generator=seeded(), dtype=torch.float64).softmax(0)


def test_total_variation_known_values():
    atoms, p = torch.tensor([[0, 0], [0, 1]]), torch.tensor([0.5, 0.5])
    assert total_variation(torch.tensor([[0, 0], [0, 1]]), atoms, p) == 0
    assert total_variation(torch.tensor([[0, 0], [0, 0]]), atoms, p) == 0.5
    assert total_variation(torch.tensor([[1, 1], [2, 2]]), atoms, p) == 1
    fields, support = (
        {"a": torch.tensor([[0]]), "b": torch.tensor([[[1]]])},
        {"a": atoms[:, :1], "b": atoms[:, 1:, None]},
    )
    assert total_variation(fields, support, p) == 0.5


def test_total_variation_of_exact_samples_is_its_floor():
    atoms, p = law()
    n, values = 500, []
    for seed in range(200):
        drawn = torch.multinomial(p, n, replacement=True, generator=seeded(seed))
        values.append(total_variation(atoms[drawn], atoms, p))
    values = torch.tensor(values)
    assert abs(values.mean() - total_variation_floor(p, n)) < 4 * values.std() / 200**0.5


@pytest.mark.parametrize("n, p", [(1, 0.3), (7, 0.5), (10, 0.9)])
def test_floor_equals_the_sum_over_binomials(n, p):
    exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * abs(k / n - p) for k in range(n + 1))
    assert total_variation_floor(torch.tensor([p, 1 - p]), n) == pytest.approx(exact, rel=1e-6)


def test_total_variation_refuses():
    atoms, p = law()
    with pytest.raises(ValueError, match="one length"):
        total_variation(torch.zeros(4, 3, dtype=torch.int64), atoms, p)
    with pytest.raises(ValueError, match="normalise"):
        total_variation(atoms, atoms, 2 * p)


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_frechet_of_commuting_gaussians(d, seed):
    a, b = torch.rand(2, d, generator=seeded(seed), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed + 1), dtype=torch.float64)).Q
    mean = torch.randn(d, generator=seeded(seed), dtype=torch.float64)
    found = frechet_distance(mean, rotation @ a.diag() @ rotation.T, 0 * mean, rotation @ b.diag() @ rotation.T)
    assert found == pytest.approx(float(mean @ mean + (a.sqrt() - b.sqrt()).square().sum()), abs=1e-7)


def test_frechet_of_general_gaussians_equals_the_trace_of_the_root():
    x = torch.randn(40, 5, generator=seeded(), dtype=torch.float64)
    y = torch.randn(60, 5, generator=seeded(1), dtype=torch.float64) @ torch.randn(5, 5, generator=seeded(2)).double()
    roots = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.clamp_min(0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace() - 2 * roots
    assert frechet(x, y) == pytest.approx(float(expected), rel=1e-9)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-9)


def test_frechet_of_equal_and_of_degenerate_sets():
    x = torch.randn(3, 20, generator=seeded())
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x[:, :1], x[:, :1] + 2) == pytest.approx(4, rel=1e-5)
    with pytest.raises(ValueError, match="two rows"):
        frechet(x[:1], x)


def test_frechet_equals_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1)

    x, y = torch.rand(50, 3, 2, 2, generator=seeded()), torch.rand(70, 3, 2, 2, generator=seeded(1)).square()
    metric = fid.FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert frechet(x.flatten(1), y.flatten(1)) == pytest.approx(float(metric.compute()), abs=1e-3)


def test_mmd_separates_and_is_centred():
    same = torch.tensor(
        [
            squared_mmd(torch.randn(50, 2, generator=seeded(i)), torch.randn(50, 2, generator=seeded(i + 99)))
            for i in range(40)
        ]
    )
    assert abs(same.mean()) < 4 * same.std() / 40**0.5
    shifted = squared_mmd(torch.randn(50, 2, generator=seeded()), 1 + torch.randn(50, 2, generator=seeded(1)))
    assert shifted > same.max()


def test_mmd_with_a_linear_kernel_is_the_distance_of_means():
    x, y = torch.randn(400, 2, generator=seeded()), 3 + torch.randn(300, 2, generator=seeded(1))
    found = squared_mmd(x, y, lambda a, b: a @ b.T)
    bias = float(x.double().var(0).sum() / 400 + y.double().var(0).sum() / 300)
    assert found == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()) - bias, rel=1e-5)


def test_precision_and_recall():
    x = torch.randn(200, 2, generator=seeded())
    near, far = torch.randn(200, 2, generator=seeded(1)), 50 + torch.randn(200, 2, generator=seeded(2))
    assert min(precision_recall(near, x)) > 0.8
    assert precision_recall(far, x) == (0, 0)
    precision, recall = precision_recall(0.05 * near, x)
    assert precision > 0.95 and recall < 0.3


def test_bootstrap_error_of_a_mean():
    x = torch.randn(1000, generator=seeded())
    error = bootstrap(lambda sample: float(sample.mean()), x, generator=seeded(), repeats=400)
    assert error == pytest.approx(float(x.std()) / 1000**0.5, rel=0.15)
