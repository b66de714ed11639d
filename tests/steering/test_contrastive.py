import pytest
import torch

from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.objectives import (
    ContrastiveCrossEntropy,
    ContrastiveSquaredError,
    CrossEntropy,
    Jump,
    SelfDistillation,
    SquaredError,
)
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from steering.laws import generator


class Table(torch.nn.Module):
    """The same prediction everywhere, whose best value is known."""

    def __init__(self, K: int):
        super().__init__()
        self.z = torch.nn.Parameter(torch.zeros(K))

    def forward(self, x, s, t, condition):
        return self.z.expand(*x.shape[:-1], -1)


def jump(n: int, K: int, path: GeodesicPath) -> Jump:
    g = generator()
    x_0, x_1 = torch.randn(n, 3, K, generator=g), torch.randint(K, (n, 3), generator=g)
    t = torch.rand(n, generator=g)
    return Jump(path(x_0, x_1, t), x_0, x_1, t, t, t)


def test_strength_0_is_the_plain_loss():
    path = GeodesicPath(OneHot(4))
    here = jump(16, 4, path)
    endpoint, velocity = EndpointMap(path, Table(4)), VelocityMap(path, Table(4))
    assert torch.equal(ContrastiveCrossEntropy(0.0)(endpoint, here), CrossEntropy()(endpoint, here))
    assert torch.equal(ContrastiveSquaredError(0.0)(velocity, here), SquaredError()(velocity, here))


def test_minimisers():
    """Data of category 0 or 1 by sample, alternating: another sample is always of the other category."""
    K, lam = 3, 0.2
    path = GeodesicPath(OneHot(K))
    x_1 = torch.tensor([[0], [0], [0], [1]]).repeat(64, 1)
    x_0, t = torch.zeros(256, 1, K), torch.zeros(256)
    here = Jump(x_0, x_0, x_1, t, t, t)
    p = torch.tensor([0.75, 0.25, 0.0])
    endpoint = EndpointMap(path, Table(K))
    optimiser = torch.optim.LBFGS(endpoint.parameters(), max_iter=200)

    def closure():
        optimiser.zero_grad()
        loss = ContrastiveCrossEntropy(lam, clip=100.0)(endpoint, here).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    # A prediction that sees nothing has μ = p, so that own and other targets have one law and the push cancels.
    assert torch.allclose(endpoint.network.z.softmax(0), p, atol=1e-2)
    velocity = VelocityMap(path, Table(K))
    velocity.network.z.data = p.clone()
    loss = ContrastiveSquaredError(lam)(velocity, here).mean()
    assert float(torch.autograd.grad(loss, velocity.network.z)[0].abs().max()) < 1e-6


def test_it_pushes_away_from_the_other_sample_up_to_the_clip():
    path = GeodesicPath(OneHot(3))
    x_1 = torch.tensor([[0], [1]])
    zero, t = torch.zeros(2, 1, 3), torch.zeros(2)

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.z = torch.nn.Parameter(torch.zeros(2, 1, 3))

        def forward(self, x, s, t, condition):
            return self.z

    flow_map = EndpointMap(path, Own())
    here = Jump(zero, zero, x_1, t, t, t)
    loss = ContrastiveCrossEntropy(0.1)(flow_map, here).sum()
    gradient = torch.autograd.grad(loss, flow_map.network.z)[0]
    third = 1 / 3
    # Own category: pi - 1 minus λ pi; the other's: pi - λ (pi - 1).
    assert torch.allclose(
        gradient[0, 0], torch.tensor([third - 1 - 0.1 * third, third - 0.1 * (third - 1), 0.9 * third])
    )
    flow_map.network.z.data[0, 0] = torch.tensor([10.0, -10.0, 0.0])
    far = torch.autograd.grad(ContrastiveCrossEntropy(0.1, clip=3.0)(flow_map, here).sum(), flow_map.network.z)[0]
    plain = torch.autograd.grad(CrossEntropy()(flow_map, here).sum(), flow_map.network.z)[0]
    assert torch.equal(far[0], plain[0])


def test_it_trains_as_the_diagonal_of_self_distillation():
    flow_map = EndpointMap(GeodesicPath(OneHot(4)), Table(4))
    objective = SelfDistillation(flow_map, diagonal=ContrastiveCrossEntropy())
    batch = Batch(torch.randint(4, (16, 3), generator=generator()))
    out = objective(batch, objective.draw(batch, generator()))
    out["loss"].backward()
    assert out["loss"].isfinite() and flow_map.network.z.grad is not None


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="strength is 1.0"):
        ContrastiveSquaredError(1.0)
    with pytest.raises(ValueError, match="clip is 0"):
        ContrastiveCrossEntropy(clip=0.0)
    path = GeodesicPath(OneHot(4))
    with pytest.raises(ValueError, match="ContrastiveCrossEntropy"):
        ContrastiveCrossEntropy()(VelocityMap(path, Table(4)), jump(4, 4, path))
