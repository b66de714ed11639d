"""Few-step maps with a density: exact on exact maps, and told by the cycle error where they are not invertible."""

import pytest
import torch

from flowmaps.likelihood import ProbabilityFlow
from flowmaps.maps import FewStep, VelocityMap
from flowmaps.networks import PointNetwork
from flowmaps.objectives import Cycle, Jump, Semigroup
from flowmaps.oracles import LinearField
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean, Sphere, Torus
from identities.cases import gaussian, seeded


def learned(space=None, strength: float = 4.0) -> VelocityMap:
    """A map with weights at random."""
    torch.manual_seed(0)
    network = PointNetwork(2, width=16, depth=2, frequencies=4, band=1.0, periodic=isinstance(space, Torus))
    with torch.no_grad():
        network.write.weight += strength * torch.randn(network.write.weight.shape, generator=seeded())
    return VelocityMap(GeodesicPath(space or Euclidean(2)), network).double()


def states(n: int = 200, dim: int = 3) -> torch.Tensor:
    return torch.randn(n, dim, generator=seeded(), dtype=torch.float64)


@pytest.mark.parametrize("times", [1, 4, torch.tensor([0.0, 0.7, 1.0])])
def test_the_density_of_an_exact_map_is_that_of_its_data(times):
    law = gaussian()
    f = FewStep(law.flow_map(), times)
    x = states()
    truth = torch.distributions.Normal(law.m, law.a).log_prob(x).sum(1)
    found = f.scored(x)
    assert torch.allclose(found.log_prob, truth, atol=1e-10) and float(found.cycle.max()) < 1e-10
    assert not bool(found.folded.any()) and torch.allclose(f.log_prob(x), truth, atol=1e-10)
    drawn = f.sampled(states())
    assert torch.allclose(f.log_prob(drawn.x_1), drawn.log_prob, atol=1e-10) and float(drawn.cycle.max()) < 1e-10
    assert torch.allclose(ProbabilityFlow(1e-8, 1e-8)(law.flow_map(), x), truth, atol=1e-5)


@pytest.mark.parametrize("space", [Euclidean(2), Torus(2)])
def test_log_determinants_are_those_of_central_differences_and_newton_inverts(space):
    flow_map = learned(space)
    f = FewStep(flow_map, 3, newton=6)
    x_0 = flow_map.path.start(states(20, 2))
    x_1, log_det = f(x_0)
    columns = []
    for e in torch.eye(2, dtype=torch.float64):
        h = 1e-5 * e
        columns.append(space.log(f.push(x_0 - h), f.push(x_0 + h)) / 2e-5)
    assert torch.allclose(log_det, torch.linalg.slogdet(torch.stack(columns, 2))[1], atol=1e-6)
    assert float(log_det.detach().abs().max()) > 0.1
    found = f.sampled(x_0)
    assert float(found.cycle.max()) < 1e-10 and float(FewStep(flow_map, 3).sampled(x_0).cycle.max()) > 1e-3
    assert torch.allclose(f.inverse(x_1)[1], -log_det, atol=1e-9)


def test_a_density_of_jumps_integrates_to_one():
    """Whatever the map does, as long as its jumps are invertible."""
    f = FewStep(learned(strength=1.0), 2, newton=8)
    side = torch.linspace(-7, 7, 120, dtype=torch.float64)
    found = f.scored(torch.cartesian_prod(side, side))
    assert not bool(found.folded.any()) and float(found.cycle.max()) < 1e-8
    assert abs(float(found.log_prob.exp().sum()) * (14 / 119) ** 2 - 1) < 1e-4


def test_a_jump_that_folds_is_told():
    class Fold(PointNetwork):
        def forward(self, x, s, t, condition=None):
            return -2 * x.abs()

    f = FewStep(VelocityMap(GeodesicPath(Euclidean(2)), Fold(2)).double(), 1)
    found = f.sampled(states(50, 2))
    assert torch.equal(found.folded, (found.x_0.prod(1) < 0)) and float(found.cycle.max()) > 0.1


def test_the_cycle_vanishes_on_exact_maps_and_adds_its_squared_distance_on_others():
    s, t = torch.full((8,), 0.2).double(), torch.full((8,), 0.9).double()
    x = states(8)
    exact = gaussian().flow_map()
    jump = Jump(x, x, x, s, t, s)
    assert float(Cycle(Semigroup(fraction=0.5))(exact, exact, jump)["cycle"].abs().max()) < 1e-20
    flow_map, jump = learned(), Jump(x[:, :2], x[:, :2], x[:, :2], s, t, s)
    plain = Semigroup(fraction=0.5)(flow_map, flow_map, jump)["loss"]
    found = Cycle(Semigroup(fraction=0.5), strength=2.0)(flow_map, flow_map, jump)
    back = flow_map(flow_map(x[:, :2], s, t), t, s)
    assert torch.allclose(found["cycle"], (back - x[:, :2]).square().sum(1)) and float(found["cycle"].max()) > 1e-4
    assert torch.allclose(found["loss"], plain + 2 * found["cycle"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FewStep(LinearField(Sphere(3), torch.zeros(3, 3)).flow_map()), "a flat space or a torus"),
        (lambda: FewStep(gaussian().flow_map(), newton=-1), "newton is -1"),
        (lambda: FewStep(gaussian().flow_map(), torch.tensor([0.5, 1.0])), "from 0.5 to 1.0, expected from 0 to 1"),
        (lambda: Cycle(Semigroup(), strength=-1.0), "strength is -1.0"),
    ],
)
def test_mistakes_are_told_in_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_double_computes_in_float64():
    f = FewStep(learned().float(), 2, double=True)
    assert f.sampled(states(4, 2).float()).log_prob.dtype == torch.float64
