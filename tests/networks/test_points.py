"""The perceptron of points, and the one of positions where there are none."""

import pytest
import torch

from flowmaps.autodiff import CentralDifference, ForwardMode
from flowmaps.networks import MLP, PointNetwork
from identities.cases import randomised, seeded

NETWORKS = {
    "points": lambda: PointNetwork(3, width=16, depth=2, frequencies=4),
    "bare coordinates": lambda: PointNetwork(3, width=16, depth=1, frequencies=0),
    "perceptron without positions": lambda: MLP((3,), width=16, depth=1, K=1),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def point(batch: int = 5):
    x, dx = torch.randn(2, batch, 3, generator=seeded(), dtype=torch.float64)
    s, ds, dt = torch.rand(3, batch, generator=seeded(1), dtype=torch.float64)
    return (x, s, s + 0.3), (dx, ds, dt)


def test_forward_mode_is_the_derivative(network):
    primals, tangents = point()
    network = randomised(network, scale=1.0)
    exact, close = ForwardMode()(network, primals, tangents), CentralDifference(1e-5)(network, primals, tangents)
    assert exact[0].shape == (5, 3) and float(exact[1].detach().abs().min()) > 1e-6
    for a, b in zip(exact, close, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_zero_at_first_and_every_weight_learns(network):
    (x, s, t), _ = point()
    network = network.double()
    assert float(network(x, s, t).abs().max()) == 0
    randomised(network)(x, s, t).square().sum().backward()
    missing = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert missing <= {"known.weight"}, "no position is known"


def test_near_times_are_told_apart(network):
    """A step of 1/100 in either time moves the output, and the two are not mistaken for each other."""
    (x, s, _), _ = point()
    network, t = randomised(network, scale=1.0), s + 0.3
    base = network(x, s, t)
    later, longer = network(x, s + 0.01, t) - base, network(x, s, t + 0.01) - base
    assert float(later.norm()) > 1e-3 and float(longer.norm()) > 1e-3
    assert float((later - longer).norm()) > 1e-3


@pytest.mark.parametrize("shape", [(5, 2), (5, 4, 3), (5,)])
def test_other_shapes_are_refused(shape, network):
    with pytest.raises(ValueError, match="expected"):
        network(torch.zeros(shape), torch.zeros(5), torch.ones(5))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": 0}, {"frequencies": -1}, {"band": 0.0}])
def test_impossible_sizes(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} "):
        PointNetwork(2, **wrong)
