"""Derivatives along a network's inputs: exact, compile-safe and by differences."""

import pytest
import torch

from flowmaps.autodiff import CentralDifference, ForwardMode
from flowmaps.fields import Fields, fieldwise, leaves, zeros_like
from identities.cases import LEARNED, jump, randomised

WAYS = {
    "forward": ForwardMode(),
    "through the weights": ForwardMode(through_weights=True),
    "central difference": CentralDifference(1e-5),
}


@pytest.mark.parametrize("network", LEARNED)
@pytest.mark.parametrize("way", WAYS)
def test_values_tangents_and_gradients_agree(way, network):
    """Along x, s and t together; also the weights' gradient through the tangent."""
    flow_map = randomised(LEARNED[network]())
    here = jump(flow_map)
    direction = fieldwise(torch.sin, here.x_s)
    primals, tangents = (here.x_s, here.s, here.t), (direction, 1 - here.s, torch.ones_like(here.t))
    results = []
    for derivative in (ForwardMode(), WAYS[way]):
        flow_map.zero_grad()
        h, dh = derivative(flow_map.network, primals, tangents, here.condition)
        sum(leaf.square().sum() for (leaf,) in leaves(dh)).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in flow_map.network.parameters()]
        gradient = torch.cat([g.flatten() for g in grads])
        results.append((h, dh, gradient))
    for exact, ours in leaves(results[0][0], results[1][0]):
        assert torch.allclose(exact, ours, atol=1e-12)
    for exact, ours in leaves(results[0][1], results[1][1]):
        assert torch.allclose(exact, ours, atol=1e-7)
    assert torch.allclose(results[0][2], results[1][2], rtol=1e-5, atol=1e-7)


def test_zero_tangents_keep_the_fields():
    x = Fields(a=torch.ones(2, 3), b=torch.ones(4))
    assert {n: tuple(v.shape) for n, v in zeros_like(x).items()} == {"a": (2, 3), "b": (4,)}
    assert not any(bool(v.any()) for v in zeros_like(x).values())


def test_a_step_of_zero_is_refused():
    with pytest.raises(ValueError, match="h is 0"):
        CentralDifference(0.0)


class Square(torch.autograd.Function):
    """A rule whose tangent is told apart from the true one, so that it shows who was asked."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, dx):
        return 3 * ctx.saved_tensors[0] * dx


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="PyTorch issue 192985: own tangent rules are ignored")
def test_compiled_functions_keep_their_own_tangent():
    """Until then no fused layer of ours may bring a tangent rule of its own under compilation."""
    tangent = lambda x: torch.func.jvp(Square.apply, (x,), (torch.ones_like(x),))[1]  # noqa: E731
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(tangent(x), 3 * x)
    assert torch.equal(torch.compile(tangent, backend="eager")(x), 3 * x)
