"""Losses whose gradient is taken chunk by chunk on the way equal the plain ones, through the real objectives."""

import pytest
import torch

from flowmaps import objectives as O
from flowmaps.fields import Batch, Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks import LinearHead, TiedHead, Transformer
from flowmaps.networks.chunked import Sums, weighted_losses
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Embedded, OneHot

K, LENGTH = 11, 6
CONSISTENCIES = [O.Lagrangian, O.LagrangianCE, O.LagrangianKL, O.EulerianKL, O.EndpointConsistency, O.SemigroupKL]


def build(tied: bool) -> EndpointMap:
    torch.manual_seed(0)
    space = Embedded(K, 8)
    head = TiedHead(space) if tied else LinearHead(8, K)
    flow_map = EndpointMap(GeodesicPath(space), Transformer(8, width=8, depth=1, heads=2, K=K), head).double()
    for parameter in flow_map.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return flow_map


def data() -> Batch:
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(8, LENGTH, generator=g) < 0.8
    known = torch.rand(8, LENGTH, generator=g) < 0.3
    mask[:, 0], known[:, 0] = True, False
    return Batch(torch.randint(K, (8, LENGTH), generator=g), Condition(mask=mask, known=known))


def gradients(flow_map: EndpointMap, objective: O.Objective, chunk: int | None) -> tuple[dict, dict]:
    flow_map.chunk = chunk
    flow_map.zero_grad()
    batch = data()
    draw = objective.draw(batch, torch.Generator().manual_seed(2))
    draw = draw._replace(**{name: getattr(draw, name).double() for name in ("noise", "s", "t", "r")})
    values = objective(batch, draw)
    (0.37 * values["loss"]).backward()
    values = {name: value.detach() for name, value in values.items()}
    return values, {name: p.grad.clone() for name, p in flow_map.named_parameters() if p.grad is not None}


def assert_same(a: tuple[dict, dict], b: tuple[dict, dict]) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("consistency", CONSISTENCIES)
@pytest.mark.parametrize("tied", [False, True])
def test_objectives_and_gradients_are_the_plain_ones(consistency, tied):
    flow_map = build(tied)
    objective = O.SelfDistillation(flow_map, consistency(), share=0.5)
    plain = gradients(flow_map, objective, None)
    assert any("head" in name or "space" in name for name in plain[1])
    for chunk in (1, 5, 7):
        assert_same(gradients(flow_map, objective, chunk), plain)


def test_unequal_weights_of_samples_are_recomputed():
    flow_map = build(False)
    objective = O.SelfDistillation(flow_map, O.SemigroupKL(), share=0.5, weight=O.AdaptiveWeight())
    assert_same(gradients(flow_map, objective, 5), gradients(flow_map, objective, None))


@pytest.mark.parametrize("frozen", ["network", "head"])
def test_frozen_parts(frozen):
    flow_map = build(False)
    getattr(flow_map, frozen).requires_grad_(False)
    flow_map.path.requires_grad_(frozen != "network")
    objective = O.SelfDistillation(flow_map, O.Lagrangian(), share=0.5)
    plain = gradients(flow_map, objective, None)
    assert plain[1] and not any(name.startswith(frozen) for name in plain[1])
    assert_same(gradients(flow_map, objective, 5), plain)


def test_another_teacher():
    flow_map = build(False)
    objective = O.SelfDistillation(flow_map, O.SemigroupKL(), share=0.5, teacher=O.Frozen(flow_map))
    flow_map.head.weight.data.mul_(1.3)
    assert_same(gradients(flow_map, objective, 5), gradients(flow_map, objective, None))


def test_a_second_backward_pass_is_refused():
    h = torch.randn(4, 3, requires_grad=True)
    loss = weighted_losses(lambda z: z.square().sum(-1), [(torch.eye(3), None)], [h], torch.ones(4), 2).sum()
    loss.backward(retain_graph=True)
    torch.testing.assert_close(h.grad, 2 * h.detach())
    with pytest.raises(RuntimeError, match="first backward pass"):
        loss.backward()


def test_mixed_precision_stays_close():
    flow_map = build(False).float()
    objective = O.SelfDistillation(flow_map, O.Lagrangian(), share=0.5)
    batch = data()
    draw = objective.draw(batch, torch.Generator().manual_seed(2))
    found = {}
    for chunk, autocast in ((None, False), (5, True)):
        flow_map.chunk = chunk
        flow_map.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = objective(batch, draw)["loss"]
        loss.backward()
        found[autocast] = flow_map.head.weight.grad.flatten()
    assert loss.dtype == found[True].dtype == torch.float32
    assert torch.cosine_similarity(found[True], found[False], dim=0) > 0.99


@pytest.mark.parametrize("consistency", [O.Lagrangian, O.Eulerian, O.SemigroupKL])
def test_networks_without_a_head(consistency):
    torch.manual_seed(0)
    flow_map = EndpointMap(GeodesicPath(OneHot(K)), Transformer(K, width=8, depth=1, heads=2, out=K)).double()
    for parameter in flow_map.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    options = {"from_data": True} if consistency is O.Eulerian else {}
    objective = O.SelfDistillation(flow_map, consistency(**options), share=0.5)
    assert_same(gradients(flow_map, objective, 5), gradients(flow_map, objective, None))


def test_losses_added_share_one_gradient_of_a_matrix():
    """Also where one of them has no weight at all, and whichever way round they are added."""
    g = torch.Generator().manual_seed(0)
    W = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    rows = [torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    one, none = torch.rand(4, generator=g, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for weights in ([one, one + 1], [none, one]):
        plain = sum((w * (h @ W.T).logsumexp(-1)).sum() for h, w in zip(rows, weights, strict=True))
        expected = torch.autograd.grad(0.3 * plain, [W, *rows])
        for order in (1, -1):
            sums = Sums()
            losses = [
                (weighted_losses(lambda z: z.logsumexp(-1), [(W, None)], [h], w, 2, sums) * w).sum()
                for h, w in list(zip(rows, weights, strict=True))[::order]
            ]
            assert len(sums.grads) == 1
            for one, other in zip(torch.autograd.grad(0.3 * sum(losses), [W, *rows]), expected, strict=True):
                torch.testing.assert_close(one, other)
