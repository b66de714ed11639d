"""The blocks of every network can be sharded and computed anew: nothing of them is used but by calling them."""

from __future__ import annotations

import copy
import os
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from flowmaps.autodiff import ForwardMode
from flowmaps.recomputing import recompute
from flowmaps.train.parallel import launchable
from flowmaps.train.settings import Hardware
from flowmaps.train.shards import is_spread, whole
from flowmaps.train.strategy import Sharded, blocks_of
from networks.test_networks import NETWORKS, built, draw


@pytest.fixture(scope="module")
def fabric():
    with patch.dict(os.environ):  # a launcher leaves the address of its group there, for processes that it starts
        made = launchable(Hardware(strategy="fsdp2", accelerator="cpu"))
        made.launch()
        yield made
        torch.distributed.destroy_process_group()


class Loss(nn.Module):
    """A loss that reads the value and the tangent of a network."""

    def __init__(self, network: nn.Module, shape):
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, x, dx) -> Tensor:
        s, t = torch.tensor([[0.2, 0.5], [0.6, 0.9]], dtype=torch.float64)
        value, tangent = ForwardMode()(self.network, (x, s, t), (dx, torch.ones_like(s), -torch.ones_like(t)))
        fields = [*value.values(), *tangent.values()] if isinstance(value, dict) else [value, tangent]
        return torch.stack([field.square().mean() for field in fields]).sum()


@pytest.mark.parametrize("name", [name for name in NETWORKS if "fields" not in name])
def test_sharded_blocks_that_compute_anew_are_the_plain_ones(fabric, name):
    network, x = built(name)
    plain = Loss(network, None)
    other = copy.deepcopy(plain)
    for block in blocks_of(other):
        recompute(block)
    Sharded(fabric)._shard(other, True, Hardware())
    dx = draw(NETWORKS[name][1], seed=5)
    losses = [loss(x, dx) for loss in (plain, other)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    gradients = dict(other.named_parameters())
    assert all(is_spread(p) for p in other.parameters()) and len(blocks_of(other)) == len(blocks_of(plain)) > 0
    for key, parameter in plain.named_parameters():
        if parameter.grad is not None:
            found = gradients[key].grad
            assert found is not None
            torch.testing.assert_close(whole(found), parameter.grad, rtol=1e-9, atol=1e-11, msg=key)
