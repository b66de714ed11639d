"""Norms: equal to PyTorch's, and right when a tangent is differentiated again."""

import pytest
import torch
from torch.nn import functional as F

from flowmaps.networks.norms import GroupNorm, RMSNorm, has_tangent, layer_norm


def double(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stirred(module):
    for i, parameter in enumerate(module.double().parameters()):
        parameter.data.add_(double(*parameter.shape, seed=i) / 2)
    return module


GROUP, RMS = stirred(GroupNorm(8)), stirred(RMSNorm(5))
NORMS = {
    "layer": (layer_norm, lambda x: F.layer_norm(x, (5,), eps=1e-6)),
    "rms": (RMS, lambda x: F.rms_norm(x, (5,), RMS.weight, 1e-6)),
    "group": (GROUP, lambda x: F.group_norm(x, 2, GROUP.weight, GROUP.bias, 1e-6)),
    "masked group": (
        lambda x: GROUP(F.pad(x, (0, 1)), F.pad(torch.ones_like(x[:, :1]), (0, 1)))[..., :-1],
        lambda x: F.group_norm(x, 2, GROUP.weight, GROUP.bias, 1e-6),
    ),
}


def slopes(norm) -> tuple[torch.Tensor, torch.Tensor]:
    """The derivative of a function of the tangent, by reverse mode and by central difference."""
    x, dx, direction = (double(3, 8, 4, 5, seed=i) for i in range(3))

    def loss(x):
        return torch.func.jvp(norm, (x,), (dx,))[1].sin().sum()

    exact = (torch.func.grad(loss)(x) * direction).sum()
    return exact, (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5


@pytest.mark.parametrize("name", NORMS)
def test_value_and_tangent_are_those_of_torch(name):
    ours, theirs = NORMS[name]
    x, dx = double(3, 8, 4, 5), double(3, 8, 4, 5, seed=1)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(torch.func.jvp(ours, (x,), (dx,)), torch.func.jvp(theirs, (x,), (dx,)))


@pytest.mark.parametrize("name", NORMS)
def test_gradient_through_the_tangent(name):
    exact, difference = slopes(NORMS[name][0])
    assert exact.abs() > 0.1
    torch.testing.assert_close(exact, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.xfail(strict=True, reason="PyTorch issue 196700: saved statistics count as constants")
def test_torch_layer_norm_can_be_trained_through_its_tangent():
    torch.testing.assert_close(*slopes(NORMS["layer"][1]), rtol=1e-2, atol=1e-2)


def test_has_tangent_asks_the_tensor():
    x = double(2)
    seen = []
    torch.func.jvp(lambda y: seen.append((has_tangent(y), has_tangent(x), has_tangent(x, y))) or y, (x,), (x,))
    assert seen == [(True, False, True)] and not has_tangent(x)


@pytest.mark.parametrize("channels", [1, 6, 8, 64])
def test_groups_divide_the_channels(channels):
    norm = GroupNorm(channels)
    y = norm(double(2, channels, 4, 4).float()).unflatten(1, (norm.groups, -1))
    torch.testing.assert_close(y.square().mean((2, 3, 4)), torch.ones(2, norm.groups), rtol=1e-4, atol=1e-4)
