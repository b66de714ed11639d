"""Heads: tangents, and one matrix in two places."""

import copy

import pytest
import torch

from flowmaps.networks import LinearHead, TiedHead
from flowmaps.spaces import Embedded


def heads():
    torch.manual_seed(0)
    linear, space = LinearHead(4, 7).double(), Embedded(7, 4).double()
    torch.nn.init.normal_(linear.weight)
    return {"linear": linear, "no bias": LinearHead(4, 7, bias=False).double(), "tied": TiedHead(space).double()}


@pytest.mark.parametrize("name", ["linear", "no bias", "tied"])
def test_tangent_is_the_derivative(name):
    head = heads()[name]
    h, dh = torch.randn(2, 2, 3, 4).double()
    z, dz = torch.func.jvp(head, (h,), (dh,))
    torch.testing.assert_close(dz, head.tangent(dh))
    torch.testing.assert_close(z, head(torch.zeros_like(h)) + head.tangent(h))


def test_a_linear_head_starts_uniform():
    assert not LinearHead(4, 7)(torch.randn(2, 4)).any()


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.space = Embedded(7, 4)
        self.head = TiedHead(self.space)

    def forward(self, h):
        return self.head(h)


def test_a_tied_matrix_is_one_parameter():
    model, h = Model(), torch.randn(2, 4)
    assert set(model.state_dict()) == {"space.weight", "head.bias"}
    assert len(list(model.parameters())) == 2
    model(h).sum().backward()
    assert model.space.weight.grad.abs().max() > 0
    twin = copy.deepcopy(model)
    twin.space.weight.data.zero_()
    assert not twin(h).any() and model(h).any()
    assert not torch.func.functional_call(model, {"space.weight": torch.zeros(7, 4)}, (h,)).any()


def test_unusable_arguments_are_explained():
    with pytest.raises(ValueError, match="at least one"):
        LinearHead(0, 3)
    with pytest.raises(ValueError, match="no matrix"):
        TiedHead(torch.nn.Linear(2, 3), "bias")
