"""A network that sees a large batch of graphs a few at a time, each without most of its padding, so that the states of
their pairs stay in the cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import FREE, Condition, named_fields
from ..maps import FlowMap
from ..networks.graph import GraphTransformer, only

CACHE = 5 * 2**18  # bytes of pairs: with what is computed from them, what one core has for itself and a little more
LEAST = 4  # graphs at a time, however large


class Sliced(nn.Module):
    """A network evaluated on few graphs of the batch at a time: graphs of about one size, padded to the largest.

    A graph of n atoms padded to N costs N² pairs of which n² say something; drug-like molecules have half of them.

    Arguments:
        network: Of graphs, to which padding says nothing.
        rows: How many graphs of n atoms it sees at a time.
    Invariant: the results are those of the network on the whole batch, within rounding (``tests/tasks``).
    """

    def __init__(self, network: nn.Module, rows: Callable[[int], int]):
        super().__init__()
        self.network, self.rows = network, rows

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """What a map asks of its network, such as the scale of a guided one."""
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["network"], name)

    def forward(
        self, x: dict[str, Tensor], s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> dict[str, Tensor]:
        condition = condition or FREE
        exists = existing(x, condition)
        order, groups = self._groups(sizes(exists["atoms"]))
        parts = []
        for k, n in groups:
            part = self.network(cropped(x, k, n), s[k], t[k], _cropped(condition, k, n))
            parts.append(_padded(part, exists["atoms"].shape[1] - n))
        back = order.argsort()
        return {name: only(torch.cat([part[name] for part in parts])[back], exists[name]) for name in x}

    def _groups(self, sizes: Tensor) -> tuple[Tensor, list[tuple[Tensor, int]]]:
        """The order from large to small, and groups of rows in it with the size of their largest."""
        order = sizes.argsort(descending=True, stable=True)
        groups, start = [], 0
        while start < len(order):
            n = max(int(sizes[order[start]]), 1)
            groups.append((order[start : start + self.rows(n)], n))
            start += self.rows(n)
        return order, groups


def existing(x: Mapping[str, Tensor], condition: Condition) -> dict[str, Tensor]:
    """Atoms (B, n) and ordered pairs of different atoms (B, n, n) that exist."""
    B, n = x["atoms"].shape[:2]
    atoms = x["atoms"].new_ones(B, n, dtype=torch.bool)
    if condition.mask is not None:
        atoms = named_fields(condition.mask)["atoms"]
    different = ~torch.eye(n, dtype=torch.bool, device=atoms.device)
    return {"atoms": atoms, "bonds": atoms.unsqueeze(1) & atoms.unsqueeze(2) & different}


def sizes(exists: Tensor) -> Tensor:
    """Places up to the last atom that exists, ``(B,)`` of bool ``(B, n)``."""
    places = torch.arange(1, exists.shape[1] + 1, device=exists.device)
    return (exists * places).amax(1)


def cropped(x: Mapping[str, Tensor], k: Tensor, n: int) -> dict[str, Tensor]:
    """Rows ``k`` of graphs, with their first ``n`` places alone."""
    return {"atoms": x["atoms"][k, :n], "bonds": x["bonds"][k, :n, :n]}


def _cropped(condition: Condition, k: Tensor, n: int) -> Condition:
    mask, known, label = condition
    return Condition(
        None if mask is None else cropped(named_fields(mask), k, n),
        None if known is None else cropped(named_fields(known), k, n),
        None if label is None else label[k],
    )


def _padded(x: Mapping[str, Tensor], more: int) -> dict[str, Tensor]:
    return {"atoms": F.pad(x["atoms"], (0, 0, 0, more)), "bonds": F.pad(x["bonds"], (0, 0, 0, more, 0, more))}


def sliced(flow_map: FlowMap) -> FlowMap:
    """The same map, its network on as many graphs at a time as fit the cache, if that is known."""
    channels = next((m.edge for m in flow_map.network.modules() if isinstance(m, GraphTransformer)), None)
    if channels is None:
        return flow_map
    twin = copy.copy(flow_map)
    network = Sliced(flow_map.network, lambda atoms: graphs_at_a_time(atoms, channels))
    twin._modules = {**flow_map._modules, "network": network}
    return twin


def graphs_at_a_time(atoms: int, channels: int) -> int:
    """How many graphs have float32 states of their pairs that fit the cache.

    >>> [graphs_at_a_time(atoms, 32) for atoms in (9, 24, 100)]
    [126, 17, 4]
    """
    return max(LEAST, CACHE // (4 * channels * atoms**2))
