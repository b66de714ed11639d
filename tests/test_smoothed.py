"""The bound on categories under a flow on the orthant, where it is known."""

import math

import pytest
import torch

from flowmaps.fields import Batch
from flowmaps.likelihood import ProbabilityFlow, Smoothed
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP
from flowmaps.paths import Dirichlet, GeodesicPath
from flowmaps.spaces import FisherSphere, OneHot
from identities.cases import seeded

ROUGH = ProbabilityFlow(1e-3, 1e-3)


def at_rest(K=4, source=None) -> VelocityMap:
    """A network is zero at first, so nothing moves: the law of every position is that of the source."""
    return VelocityMap(GeodesicPath(FisherSphere(K), source), MLP((2, K), 8, 1, K=1)).double()


@pytest.mark.parametrize("T", [0.0, 0.9])
def test_where_nothing_moves_it_has_its_closed_form(T):
    n, K = 200, 3
    batch = Batch(torch.randint(K, (n, 2), generator=seeded()))
    values = Smoothed(T, ROUGH)(at_rest(K, Dirichlet()), batch, seeded(1))
    u = torch.distributions.Dirichlet(torch.ones(K).double()).sample((50_000,))[:, 0]
    exact = 2 * ((K - 1) * math.log1p(-T) + float(((1 - T) * u + T).log().mean()))
    assert float(values.mean()) == pytest.approx(exact, abs=5 * float(values.std()) / n**0.5 + 0.01)
    assert exact < 2 * math.log(1 / K)  # the truth


def test_it_is_below_the_truth_for_either_source_and_moved_mass_moves_it():
    K, n = 3, 60
    batch = Batch(torch.zeros(n, 2, dtype=torch.int64))
    rest = at_rest(K)
    still = Smoothed(0.3, ROUGH)(rest, batch, seeded())
    assert still.isfinite().all() and float(still.mean()) < 2 * math.log(1 / K)

    class Towards(torch.nn.Module):
        def forward(self, x, s, t, condition=None):
            return 0.5 * torch.tensor([1.0, 0.0, 0.0], dtype=x.dtype).expand_as(x)

    moved = VelocityMap(rest.path, Towards()).double()
    few = Batch(batch.x_1[:60])
    assert (
        float(Smoothed(0.3, ROUGH)(moved, few, seeded()).mean())
        > float(Smoothed(0.3, ROUGH)(rest, few, seeded()).mean()) + 0.1
    )


def test_what_it_is_not_for_is_refused():
    batch = Batch(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="FisherSphere, not OneHot"):
        Smoothed()(EndpointMap(GeodesicPath(OneHot(3)), MLP((2, 3), 8, 1)), batch, seeded())
    with pytest.raises(ValueError, match="needs a VelocityMap"):
        Smoothed()(EndpointMap(GeodesicPath(FisherSphere(3)), MLP((2, 3), 8, 1)), batch, seeded())
    with pytest.raises(ValueError, match="T is 1"):
        Smoothed(1.0)
    with pytest.raises(ValueError, match="outside the alphabet"):
        Smoothed()(at_rest(), Batch(torch.full((1, 2), 7)), seeded())
    assert ProbabilityFlow().rtol == Smoothed().flow.rtol
