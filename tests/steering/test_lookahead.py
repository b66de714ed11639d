import pytest
import torch
from torch import nn

from flowmaps.fields import Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.steering import Hard, RewardError, Soft, look_ahead, look_ahead_gradient
from steering.laws import generator, linear_reward, small_law


def smooth(K: int = 4) -> EndpointMap:
    torch.manual_seed(0)
    network = MLP((3, K), width=32, depth=2)
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    return EndpointMap(GeodesicPath(OneHot(K)), network).double()


def test_the_gradient_is_that_of_the_reward_of_the_endpoint():
    flow_map, reward = smooth(), Soft(lambda pi: pi[:, 0, 1] * pi[:, 2, 3] + pi[:, 1, 0].square())
    x = torch.randn(6, 3, 4, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    values, gradient = look_ahead_gradient(flow_map, reward, x, t)
    assert torch.allclose(values, look_ahead(flow_map, reward, x, t))
    direction, h = torch.randn(x.shape, generator=generator(1), dtype=torch.float64), 1e-5
    ahead, behind = (look_ahead(flow_map, reward, x + sign * h * direction, t) for sign in (1, -1))
    assert torch.allclose((ahead - behind) / (2 * h), (gradient * direction).flatten(1).sum(1), atol=1e-8)
    assert float(gradient.abs().max()) > 1e-3


def test_it_is_constant_along_the_flow_of_an_exact_map():
    law = small_law()
    reward, flow_map = linear_reward(law), law.flow_map()
    x, s = torch.randn(200, 3, 4, generator=generator()), torch.zeros(200)
    t = torch.full((200,), 0.6)
    before, after = look_ahead(flow_map, reward, x, s), look_ahead(flow_map, reward, flow_map(x, s, t), t)
    assert float(((before - after).abs() < 0.05).float().mean()) > 0.95
    hard = Hard(lambda x_1: (x_1 == 1).sum(1))
    agree = look_ahead(flow_map, hard, x, s) == look_ahead(flow_map, hard, flow_map(x, s, t), t)
    assert float(agree.float().mean()) > 0.97


def test_no_gradient_at_known_positions_and_none_leaks():
    flow_map, x, t = smooth(), torch.randn(5, 3, 4, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)
    known = torch.zeros(5, 3, dtype=torch.bool)
    known[:, 1] = True
    reward = Soft(lambda pi: pi.flatten(1)[:, ::3].sum(1))
    values, gradient = look_ahead_gradient(flow_map, reward, x, t, Condition(known=known))
    assert not gradient[:, 1].any() and gradient[:, 0].abs().max() > 0
    assert not values.requires_grad and not gradient.requires_grad
    assert all(p.grad is None for p in flow_map.parameters())


def test_black_boxes_have_no_gradient():
    flow_map, x, t = smooth(), torch.randn(5, 3, 4, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="'short' is a black box"):
        look_ahead_gradient(flow_map, Hard(lambda x_1: x_1.sum(1), "short"), x, t)
    with pytest.raises(ValueError, match="does not depend differentiably"):
        look_ahead_gradient(flow_map, Soft(lambda pi: pi.argmax(-1).sum(1).float()), x, t)


def test_an_infinite_gradient_names_its_particle():
    flow_map, x, t = smooth(), torch.randn(5, 3, 4, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)

    def reward(pi):
        p = pi[:, 0, 0]
        return torch.cat([p[:3], (p[3:4] - p[3:4].detach()).sqrt(), p[4:]])

    with pytest.raises(RewardError, match="gradient of reward 'kink' is not finite at particle 23"):
        look_ahead_gradient(flow_map, Soft(reward, "kink"), x, t, first=20)
