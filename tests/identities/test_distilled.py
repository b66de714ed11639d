"""The posterior of another map in the place of data, against expectations that are written out."""

import pytest
import torch

from flowmaps.fields import Batch, Fields
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP
from flowmaps.objectives import CrossEntropy, Distilled, SelfDistillation
from flowmaps.objectives.base import Jump
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.steering import LogitGuidance

from .cases import LEARNED, finite, randomised, seeded

K, N = 3, 16


def student(seed: int = 0) -> EndpointMap:
    return randomised(EndpointMap(GeodesicPath(OneHot(K)), MLP((3, K), width=8, depth=1)), seed)  # pyright: ignore


def states(flow_map: EndpointMap) -> Jump:
    generator = seeded(3)
    x_1 = torch.randint(K, (N, 3), generator=generator)
    x_0 = torch.randn(N, 3, K, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 0.95, N, dtype=torch.float64)
    return Jump(flow_map.path(x_0, x_1, t), x_0, x_1, t, t, t)


def gradient(loss: torch.Tensor, flow_map: EndpointMap) -> torch.Tensor:
    flow_map.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in flow_map.parameters() if p.grad is not None])


@pytest.mark.parametrize("T", [1.0, 0.6])
def test_it_is_the_divergence_from_the_guided_posterior(T):
    """With exact posteriors of two laws: π* is proportional to (p^w q^(1-w))^(1/T)."""
    p, q = finite().flow_map(), finite(seed=5).flow_map()
    here = states(p)
    log_p, log_q = (m.prediction(m.features(here.x_s, here.s, here.s)).log_softmax(-1) for m in (p, q))
    log_taught = ((2.5 * log_p - 1.5 * log_q) / T).log_softmax(-1)
    expected = (log_taught.exp() * (log_taught - log_p)).sum(-1)
    assert expected.mean() > 0.01
    loss = Distilled(LogitGuidance(p, 2.5, q), T)(p, here)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    assert Distilled(LogitGuidance(p, 1.0, q))(p, here).abs().max() < 1e-12


def test_its_gradient_is_that_of_the_cross_entropy_of_what_the_teacher_would_draw():
    flow_map, teacher = student(), finite().flow_map()
    here = states(flow_map)
    taught = teacher.prediction(teacher.features(here.x_s, here.s, here.s)).softmax(-1)
    with_data = sum(
        (taught[..., k].detach() * CrossEntropy()(flow_map, here._replace(x_1=torch.full((N, 3), k)))).sum()
        for k in range(K)
    )
    expected = gradient(with_data, flow_map)  # pyright: ignore[reportArgumentType]  (a tensor after the first term)
    found = gradient(Distilled(teacher)(flow_map, here).sum(), flow_map)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_its_gradient_vanishes_at_the_teacher_and_the_teacher_stays_as_it_is():
    flow_map = student()
    diagonal = Distilled(flow_map)
    assert gradient(diagonal(flow_map, states(flow_map)).sum(), flow_map).abs().max() < 1e-12
    assert not any(p.requires_grad for p in diagonal.parameters())
    before = diagonal.teacher.copy.state_dict()
    with torch.no_grad():
        for p in flow_map.parameters():
            p += 1.0
    assert diagonal(flow_map, states(flow_map)).mean() > 0.01
    assert all(torch.equal(value, before[name]) for name, value in diagonal.teacher.copy.state_dict().items())


@pytest.mark.parametrize("name", ["embedded, chunked", "two fields"])
def test_maps_of_every_kind_learn_from_one_of_their_own(name):
    flow_map, other = LEARNED[name]().double(), randomised(LEARNED[name](), 4)
    objective = SelfDistillation(flow_map, diagonal=Distilled(other), share=1.0)  # pyright: ignore[reportArgumentType]
    letters = torch.randint(3, (6, 4), generator=seeded(2))
    batch = Batch(Fields(a=letters, b=torch.zeros(6, 4, 4, dtype=torch.long)) if name == "two fields" else letters)
    optimizer, losses = torch.optim.Adam(flow_map.parameters(), 3e-2), []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(objective(batch, objective.draw(batch, seeded(1)))["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_maps_without_an_endpoint_are_refused():
    velocity = VelocityMap(GeodesicPath(OneHot(K)), MLP((3, K), width=8, depth=1))
    with pytest.raises(ValueError, match="Distilled compares points of the simplex but the map is a VelocityMap"):
        Distilled(velocity)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the map is a VelocityMap"):
        Distilled(finite().flow_map())(velocity, states(student()))
    with pytest.raises(ValueError, match="temperature is 0, expected a number above 0"):
        Distilled(finite().flow_map(), 0)
