"""Bijections: inverse, log-determinants, densities that integrate to one."""

import math

import pytest
import torch

from flowmaps.autodiff import jacobian
from flowmaps.maps import NSF, Affine, CircularNSF, Composed, Coupling, RealNVP, TransformerFlow, Transport
from flowmaps.maps.couplings import alternating
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean, Torus
from identities.cases import gaussian, seeded
from maps.flows import ALL, PLANE, affine, built, plane, states


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_inverse_and_log_determinants(name, dtype, tolerance):
    f = built(name).to(dtype)
    x = states(f, 500).to(dtype)
    y, up = f(x)
    back, down = f.inverse(y)
    assert (y - x).abs().amax() > 0.1  # no identity
    assert f.space.log(back, x).abs().amax() < tolerance
    assert (up + down).abs().amax() < 10 * tolerance and up.shape == (500,)


@pytest.mark.parametrize("name", ALL)
def test_log_determinants_are_those_of_the_jacobian(name):
    f = built(name)
    x = states(f, 5)
    J = torch.stack([torch.autograd.functional.jacobian(lambda x: f(x[None])[0][0], each) for each in x])
    J = J.reshape(5, x[0].numel(), -1)
    assert torch.allclose(f(x)[1], torch.linalg.slogdet(J)[1], atol=1e-10)
    assert torch.allclose(jacobian(f.push, x), J, atol=1e-10)


@pytest.mark.parametrize("name", [*PLANE, "torus"])
def test_densities_of_the_plane_and_the_torus_integrate_to_one(name):
    f = built(name)
    a = math.pi if name == "torus" else 12.0
    n = 400
    side = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * a / n) - a
    with torch.no_grad():
        p = f.log_prob(torch.cartesian_prod(side, side)).exp()
    assert abs(float(p.sum()) * (2 * a / n) ** 2 - 1) < 1e-4
    assert p.max() > 1.5 * p[p > 1e-3].min()


def test_the_density_is_that_of_the_gaussian():
    f = affine().double()
    x = torch.randn(500, 2, generator=seeded(), dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(f.mean, f.factor @ f.factor.mT)
    assert torch.allclose(f.log_prob(x), truth.log_prob(x), atol=1e-10)


def test_samples_come_with_their_log_densities():
    for name in ("nsf", "torus", "particles"):
        f = built(name)
        shape = (50, *states(f, 1).shape[1:-1])
        x_1, log_p = f.sample(shape, seeded())
        assert torch.allclose(f.log_prob(x_1), log_p, atol=1e-9)
        assert torch.equal(f.sample(shape, seeded())[0], x_1)


def test_flows_start_as_the_identity():
    for flow, path, shape in ((RealNVP, plane(), (2,)), (NSF, plane(), (2,)), (CircularNSF, torus(), (2,))):
        f = flow(path, shape)
        x = path.start(torch.randn(9, 2, generator=seeded()))
        assert torch.allclose(f.push(x), x, atol=1e-5)


def test_a_circular_density_is_continuous_where_angles_begin_anew():
    f = built("torus")
    other = torch.linspace(-3, 3, 50, dtype=torch.float64)
    for column in (0, 1):
        ends = []
        for angle in (-math.pi, math.pi):
            x = torch.stack([torch.full_like(other, angle * (1 - 1e-9)), other], 1)
            ends.append(f.log_prob(x if column == 0 else x.flip(1)))
        assert torch.allclose(*ends, atol=1e-6)


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
    assert torch.allclose(affine().double().push(x_0[:, :2]), affine().double()(x_0[:, :2])[0])


def torus() -> GeodesicPath:
    return GeodesicPath(Torus(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NSF(plane(), (2,))(torch.zeros(4, 3)), r"shape \(3,\), expected \(2,\)"),
        (lambda: NSF(torus(), (2,)), "a flat space, not of Torus; use CircularNSF"),
        (lambda: NSF(torus(), (2,), autoregressive=True), "a flat space, not of Torus; use CircularNSF"),
        (lambda: CircularNSF(plane(), (2,)), "angles, not of points of Euclidean; use NSF"),
        (lambda: RealNVP(plane(), (1,)), r"shape \(1,\), expected at least two coordinates"),
        (lambda: RealNVP(plane(), (2,), layers=0), "layers is 0, expected at least 1"),
        (lambda: TransformerFlow(plane(), (2,), bound=-1.0, splines=True), "bound is -1.0, expected a positive"),
        (lambda: Coupling(torch.tensor([True, True])), "true for some coordinates and false for others"),
        (lambda: Composed(plane(), [], (2,)), "0 layers, expected at least one"),
    ],
)
def test_mistakes_are_told_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_positions_are_held_in_turns():
    assert torch.equal(alternating((2, 2), 0, by_position=True), torch.tensor([[True, True], [False, False]]))
    assert torch.equal(alternating((2, 2), 1), torch.tensor([[False, True], [False, True]]))
