"""Weights, energies and torsions of samples against values that are known."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from flowmaps.metrics.boltzmann import (
    BoltzmannQuality,
    bootstrapped,
    dihedrals,
    effective_sample_size,
    free_energy,
    normalised,
    resampled,
    torsion_w2,
    wasserstein,
)
from identities.cases import seeded


def test_the_effective_sample_size_counts_samples_of_equal_weight():
    assert effective_sample_size(torch.full((7,), 300.0)) == pytest.approx(1.0)
    log_w = torch.cat([torch.zeros(25), torch.full((75,), -math.inf)])
    assert effective_sample_size(log_w) == pytest.approx(0.25)
    w = torch.rand(50, generator=seeded(), dtype=torch.float64)
    assert effective_sample_size(w.log()) == pytest.approx(float(w.sum() ** 2 / (50 * (w**2).sum())))


def test_the_largest_weights_are_dropped_and_no_weight_is_no_number():
    log_w = torch.tensor([5.0] + [0.0] * 499 + [math.nan] * 500)
    w = normalised(log_w, 0.002)
    assert float(w[:2].max()) == 0.0 and float(w.sum()) == pytest.approx(1.0) and float(w[500:].sum()) == 0.0
    with pytest.raises(ValueError, match="no sample has a finite energy"):
        normalised(torch.full((3,), -math.inf))


@pytest.mark.parametrize("weighted", [False, True])
def test_distances_of_numbers_are_those_of_scipy_and_of_normal_distributions(weighted):
    x, y = torch.randn(300, generator=seeded(1)).double(), 2 + 3 * torch.randn(411, generator=seeded(2)).double()
    w = torch.rand(300, generator=seeded(3)).double() if weighted else torch.ones(300).double()
    expected = wasserstein_distance(x.numpy(), y.numpy(), w.numpy())
    assert wasserstein(x, y, 1, w / w.sum()) == pytest.approx(expected, rel=1e-9)
    p = (torch.arange(100_000).double() + 0.5) / 100_000
    z = torch.special.ndtri(p)
    assert wasserstein(z, 2 + 3 * z, 2) == pytest.approx(math.sqrt(4 + 4), rel=1e-3)  # W2² of normals


def test_torsions_have_the_sign_of_the_convention_and_know_no_place():
    angle = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64)
    x = torch.zeros(13, 4, 3, dtype=torch.float64)
    x[:, 0, 1], x[:, 2, 0], x[:, 3, 0] = 1.0, 1.0, 1.4
    x[:, 3, 1], x[:, 3, 2] = angle.cos(), angle.sin()  # seen from atom 3 to 2 the fourth turns with the clock
    found = dihedrals(x, [[0, 1, 2, 3], [3, 2, 1, 0]])
    assert torch.allclose(found[:, 0], angle) and torch.allclose(found[:, 1], angle)
    R = torch.linalg.qr(torch.randn(3, 3, generator=seeded(), dtype=torch.float64))[0]
    assert torch.allclose(dihedrals(x @ (R * R.det()) + 2.0, [[0, 1, 2, 3]])[:, 0], angle)
    assert torch.allclose(dihedrals(x * torch.tensor([1.0, 1.0, -1.0]), [[0, 1, 2, 3]])[:, 0], -angle)


def test_transport_of_torsions_goes_the_short_way_round():
    pytest.importorskip("ot", reason="needs the extra ot")
    x = torch.tensor([[3.1, 0.0], [0.0, -3.0]], dtype=torch.float64)
    y = torch.tensor([[0.1, -3.0], [-3.1, 0.1]], dtype=torch.float64)
    far = 2 * math.pi - 6.2
    assert torsion_w2(x, y) == pytest.approx(math.sqrt((far**2 + 0.01 + 0.01) / 2), abs=1e-9)
    assert torsion_w2(x, x + 2 * math.pi) == pytest.approx(0.0, abs=1e-6)


def test_resampling_takes_each_as_often_as_its_weight():
    w = torch.tensor([0.5, 0.25, 0.0, 0.25]).double()
    assert torch.bincount(resampled(w, 1000), minlength=4).tolist() == [500, 250, 0, 250]


def test_free_energies_and_their_errors():
    inside = torch.arange(10_000) % 4 == 0
    even = torch.full((10_000,), 1e-4).double()
    assert free_energy(inside, even) == pytest.approx(math.log(3.0), abs=1e-3)
    assert math.isfinite(free_energy(torch.zeros(10_000, dtype=torch.bool), even))
    drawn = torch.rand(4000, generator=seeded()) < 0.25
    found = bootstrapped(lambda i: free_energy(drawn[i], torch.full((len(i),), 1 / len(i)).double()), 4000)
    assert found.error == pytest.approx(1 / math.sqrt(4000 * 0.25 * 0.75), rel=0.35)
    slow = torch.arange(4000) // 400 % 2 == 0  # ten stretches: a few independent frames
    value = lambda i: free_energy(slow[i], torch.full((len(i),), 1 / len(i)).double())  # noqa: E731
    assert bootstrapped(value, 4000, blocks=10).error > 5 * bootstrapped(value, 4000).error


def test_weights_mend_what_a_wrong_flow_samples():
    """Energies x²/2 in kT of a normal coordinate, from samples that are too wide."""
    pytest.importorskip("ot", reason="needs the extra ot")
    x, z = (1.5 * torch.randn(20_000, generator=seeded(4)).double(), torch.randn(20_000, generator=seeded(5)).double())
    u, angles = x**2 / 2, torch.stack([x, 0 * x], 1).clamp(-3, 3)
    quality = BoltzmannQuality(z**2 / 2, torch.stack([z, 0 * z], 1).clamp(-3, 3), points=500)
    found = quality(u, -u + x**2 / (2 * 1.5**2), angles)
    assert found["energy_w1"] < 0.1 * found["energy_w1_plain"] and found["torsion_w2"] < found["torsion_w2_plain"]
    assert found["ess"] == pytest.approx(math.sqrt(2 / 1.5**2 - 1 / 1.5**4), rel=0.05)
    assert quality(torch.full_like(u, math.inf), -(x**2), angles)["energy_w1_plain"] > 1e5
