"""A network that sees a large batch of graphs a few at a time, so that the states of their pairs stay in the cache."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..fields import FREE, Condition, S, fieldwise, select
from ..maps import FlowMap
from ..networks.graph import GraphTransformer

CACHE = 5 * 2**17  # bytes: with what is computed from it, what one core has for itself; more costs page faults on top
LEAST = 4  # graphs at a time, however large


class Sliced(nn.Module):
    """A network evaluated on at most ``rows`` of the batch at a time.

    Invariant: the results are those of the network on the whole batch, within rounding (``tests/tasks``).
    """

    def __init__(self, network: nn.Module, rows: int):
        super().__init__()
        self.network, self.rows = network, rows

    def forward(self, x: S, s: Tensor, t: Tensor, condition: Condition | None = None) -> S:
        condition = condition or FREE
        slices = [slice(start, start + self.rows) for start in range(0, len(s), self.rows)]
        parts = [
            self.network(fieldwise(lambda leaf, k=k: leaf[k], x), s[k], t[k], select(condition, k)) for k in slices
        ]
        return fieldwise(lambda *leaves: torch.cat(leaves), *parts)


def sliced(flow_map: FlowMap, atoms: int) -> FlowMap:
    """The same map, its network on as many graphs at a time as fit the cache, if that is known.

    Arguments:
        atoms: Of the padded graph.
    """
    channels = next((m.edge for m in flow_map.network.modules() if isinstance(m, GraphTransformer)), None)
    if channels is None:
        return flow_map
    twin = copy.copy(flow_map)
    twin._modules = {**flow_map._modules, "network": Sliced(flow_map.network, graphs_at_a_time(atoms, channels))}
    return twin


def graphs_at_a_time(atoms: int, channels: int) -> int:
    """How many graphs have float32 states of their pairs that fit the cache.

    >>> [graphs_at_a_time(atoms, 32) for atoms in (9, 24, 100)]
    [63, 8, 4]
    """
    return max(LEAST, CACHE // (4 * channels * atoms**2))
