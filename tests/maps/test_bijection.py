"""Bijections: inverse, log-determinants, densities that integrate to one."""

import torch

from flowmaps.maps import Affine, Transport
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean
from identities.cases import gaussian, seeded


def affine() -> Affine:
    factor = torch.tensor([[1.5, 0.0], [0.7, 0.4]])
    return Affine(GeodesicPath(Euclidean(2)), torch.tensor([1.0, -2.0]), factor).double()


def test_inverse_and_log_determinants():
    f = affine()
    x = torch.randn(7, 2, generator=seeded(), dtype=torch.float64)
    y, up = f(x)
    back, down = f.inverse(y)
    assert torch.allclose(back, x, atol=1e-12) and torch.allclose(up + down, torch.zeros(7).double())
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: f(x[None])[0][0]))(x)
    assert torch.allclose(up, torch.linalg.slogdet(jacobian)[1])


def test_the_density_is_that_of_the_gaussian_and_integrates_to_one():
    f = affine()
    grid = torch.cartesian_prod(torch.linspace(-9, 11, 500), torch.linspace(-9, 5, 500)).double()
    log_p = f.log_prob(grid).detach()
    truth = torch.distributions.MultivariateNormal(f.mean, f.factor @ f.factor.mT).log_prob(grid).detach()
    assert torch.allclose(log_p, truth, atol=1e-10)
    cell = 20 / 499 * 14 / 499
    assert abs(float(log_p.exp().sum() * cell) - 1) < 1e-6


def test_the_fit_is_the_likeliest_gaussian():
    x = torch.randn(4000, 2, generator=seeded(), dtype=torch.float64) @ torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    f = Affine.fit(GeodesicPath(Euclidean(2)), x)
    best = float(f.log_prob(x).mean())
    for parameter in (f.mean, f.factor):
        with torch.no_grad():
            parameter += 0.05
        assert float(f.log_prob(x).mean()) < best
        with torch.no_grad():
            parameter -= 0.05


def test_flow_maps_and_bijections_push():
    """One interface: a source point goes to a data point."""
    x_0 = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    flow_map = gaussian().flow_map()
    assert isinstance(flow_map, Transport) and isinstance(affine(), Transport)
    assert torch.allclose(flow_map.push(x_0), gaussian().m + 0.7 * x_0)
    assert torch.allclose(affine().push(x_0[:, :2]), affine()(x_0[:, :2])[0])
