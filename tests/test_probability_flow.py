"""The density of points under exact flows is the exact one, on every space."""

import math

import pytest
import torch
from torch import nn

from flowmaps.fields import FREE, Fields
from flowmaps.likelihood.flow import ProbabilityFlow, _Velocity
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import InMetric, PointNetwork
from flowmaps.oracles import GaussianLaw, LinearField, WrappedNormalLaw
from flowmaps.paths import GeodesicPath, WrappedNormal
from flowmaps.samplers import Dopri5, generate, ode
from flowmaps.spaces import Euclidean, Hyperboloid, OneHot, PoincareBall, Product, Rotations, Sphere, Torus
from identities.cases import randomised, seeded
from identities.test_spaces import Both, boost, flow_of_rotations, rotation_field

FINE = ProbabilityFlow(1e-7, 1e-7)


def test_gaussian_data_at_two_positions():
    law = GaussianLaw(torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64), 0.7)
    x = law.m + 0.7 * torch.randn(5, 2, 3, generator=seeded(), dtype=torch.float64)
    exact = torch.distributions.Normal(law.m, 0.7).log_prob(x).sum((1, 2))
    assert torch.allclose(FINE(law.flow_map(), x), exact, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_wrapped_normal_angles(deviation):
    law = WrappedNormalLaw(torch.tensor([1.0, -2.5], dtype=torch.float64), deviation)
    x = law.sample(4, seeded())
    assert torch.allclose(FINE(law.flow_map(), x), law.log_density(x), atol=1e-4)


@pytest.mark.parametrize(("make", "volume"), [(rotation_field, 4 * math.pi), (flow_of_rotations, 8 * math.pi**2)])
def test_rotations_keep_the_uniform_distribution(make, volume):
    flow_map = make()
    x = flow_map.path.start(flow_map.path.noise((4, 2), seeded()).double())
    assert torch.allclose(FINE(flow_map, x), torch.full((4,), -2 * math.log(volume)).double(), atol=1e-7)


def test_an_isometry_carries_a_wrapped_normal():
    """The density of the moved points is that of where they came from."""
    field = boost().network
    flow_map = VelocityMap(GeodesicPath(Hyperboloid(3), WrappedNormal([1.0, 0.0, 0.0], 0.7)), field)
    x = flow_map.path.start(flow_map.path.noise((5,), seeded()).double())
    expected = flow_map.path.source.log_density(flow_map.space, x)
    assert torch.allclose(FINE(flow_map, flow_map.push(x)), expected, atol=1e-6)


def test_both_models_of_hyperbolic_space_agree():
    """One flow in two systems of coordinates: one has its volume in the coordinates, the other in the surroundings."""
    field = boost().network

    class InTheBall(nn.Module):
        """The same field, by the derivative of the change of coordinates."""

        def forward(self, x, s, t, condition=None):
            y = Hyperboloid.from_ball(x)
            v = field(y, s, s)
            return (v[..., 1:] - x * v[..., :1]) / (1 + y[..., :1])

    flow_map = VelocityMap(GeodesicPath(PoincareBall(2), WrappedNormal([0.3, -0.4], 0.5)), InTheBall())
    x = flow_map.path.start(flow_map.path.noise((5,), seeded()).double())
    mean = Hyperboloid.from_ball(torch.tensor([0.3, -0.4]).double()).tolist()
    other = VelocityMap(GeodesicPath(Hyperboloid(3), WrappedNormal(mean, 0.5)), field)
    assert torch.allclose(FINE(flow_map, x), FINE(other, Hyperboloid.from_ball(x)), atol=1e-6)


@pytest.mark.parametrize(
    ("space", "n"), [(Torus(1), 400), (PoincareBall(1), 500), (Sphere(2), 400)], ids=["Torus", "ball", "circle"]
)
def test_a_random_flow_has_a_density_of_integral_one(space, n):
    """In one dimension the integral is a sum over a grid; the field is that of an untrained network."""
    network = PointNetwork(space.dim, width=8, depth=1, frequencies=2, band=1.0, periodic=isinstance(space, Torus))
    network = randomised(InMetric(space, network) if isinstance(space, PoincareBall) else network)
    flow_map = VelocityMap(GeodesicPath(space), network)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    if isinstance(space, PoincareBall):
        radius = 16 * (grid - 0.5)  # in the metric
        x, width = (radius / 2).tanh().unsqueeze(-1), 16 / n
    else:
        angle = 2 * math.pi * (grid - 0.5)
        x, width = (
            (angle.unsqueeze(-1) if space.dim == 1 else torch.stack([angle.cos(), angle.sin()], -1)),
            2 * math.pi / n,
        )
    log_p = FINE(flow_map, x)
    assert float((log_p - flow_map.path.source.log_density(space, x)).abs().max()) > 0.01
    assert abs(float(log_p.exp().sum() * width) - 1) < 1e-5


def test_the_divergence_on_the_sphere_is_that_of_coordinates():
    """Of the gradient of a linear function h it is -2 h, the eigenvalue of the Laplace operator."""
    a = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)

    class Gradient(nn.Module):
        def forward(self, x, s, t, condition=None):
            return a.expand_as(x)  # projected by the map

    flow_map = VelocityMap(GeodesicPath(Sphere(3)), Gradient())
    x = flow_map.path.start(flow_map.path.noise((7,), seeded()).double())
    v, found = FINE.divergence(_Velocity(flow_map), x, torch.zeros(7).double(), FREE)
    assert torch.allclose(found, -2 * x @ a, atol=1e-12) and torch.allclose(
        v, flow_map.space.project(x, a.expand_as(x))
    )


def test_fields_are_independent():
    law, field = (
        WrappedNormalLaw(torch.tensor([1.0], dtype=torch.float64), 0.5),
        LinearField(Rotations(), flow_of_rotations().network.G),
    )
    space = Product({"angle": Torus(1), "turn": Rotations(), "flat": Euclidean(3)})
    gauss = GaussianLaw(torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64), 0.7)
    flow_map = VelocityMap(GeodesicPath(space), Both(angle=law, turn=field, flat=gauss))
    x = Fields(
        angle=law.sample(4, seeded()),
        turn=Rotations().random(torch.randn(4, 4, generator=seeded(), dtype=torch.float64)),
        flat=torch.zeros(4, 3, dtype=torch.float64),
    )
    exact = law.log_density(x["angle"]) - math.log(8 * math.pi**2)
    exact = exact + torch.distributions.Normal(gauss.m, 0.7).log_prob(x["flat"]).sum(1)
    assert torch.allclose(ProbabilityFlow()(flow_map, x), exact, atol=1e-3)


def test_what_has_no_density_is_refused():
    with pytest.raises(ValueError, match="needs a VelocityMap, not a EndpointMap"):
        FINE(EndpointMap(GeodesicPath(OneHot(3)), nn.Identity()), torch.zeros(1, 1).long())
    with pytest.raises(ValueError, match="has no frame"):
        FINE(VelocityMap(GeodesicPath(OneHot(3)), randomised(PointNetwork(3))), torch.zeros(2).long())
    with pytest.raises(ValueError, match="rtol is 0"):
        ProbabilityFlow(rtol=0)


@pytest.mark.parametrize(("scale", "why"), [(1e7, "max_num_steps exceeded"), (math.nan, "")])
def test_a_map_that_has_diverged_is_said_to_have(monkeypatch, scale, why):
    class Wild(nn.Module):
        def forward(self, x, s, t, condition=FREE):
            return scale * (scale * x).sin()

    monkeypatch.setattr(ode, "MOST", 50)
    flow_map = VelocityMap(GeodesicPath(Torus(1)), Wild())
    with pytest.raises(ValueError, match=f"from t = 1 to 0 in 50 steps at rtol 1e-05.*{why}.*has diverged"):
        ProbabilityFlow()(flow_map, torch.ones(2, 1))
    with pytest.raises(ValueError, match="from t = 0 to 0.99 in 50 steps at rtol 0.0001.*has diverged"):
        generate(flow_map, Dopri5(), (2,), seeded())
