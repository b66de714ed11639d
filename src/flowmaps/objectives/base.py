"""What an objective is, and what a consistency identity is given and gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..autodiff import Derivative, ForwardMode
from ..fields import FREE, Batch, Condition, fieldwise
from ..maps import EndpointMap, FlowMap, in_chunks


class Objective(nn.Module, ABC):
    """A training loss that owns its derivatives: compile, autocast and data parallelism wrap it from outside."""

    map: FlowMap

    @abstractmethod
    def draw(self, batch: Batch, generator: torch.Generator) -> Any:
        """All randomness of one evaluation (times, noise), on the generator's device."""

    @abstractmethod
    def forward(self, batch: Batch, draw: Any) -> dict[str, Tensor]:
        """Scalars in float32: ``loss`` is to be minimised (nats per position), the rest is for the log."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each update of the weights; moves an averaged teacher."""


class Jump(NamedTuple):
    """A jump of a batch from time s to t.

    Arguments:
        x_s: State on the path at s, ``(*batch, *positions, dim)`` per field.
        x_0, x_1: Its source state and its datum's categories.
        s, t: Times ``(*batch,)``, s <= t; equal on the diagonal.
        r: Uniform numbers in [0, 1), by which objectives with a time between s and t choose it.
        condition: What else the network may know.
        weight: Weight of each position in the loss, per field, where it is known beforehand up to a common factor: the
            gradient of a chunk is then taken while its predictions are there, and they are not computed again.
        sums: ``networks.chunked.Sums`` of each field, shared by jumps whose losses, with these weights, are added.
    """

    x_s: Any
    x_0: Any
    x_1: Any
    s: Tensor
    t: Tensor
    r: Tensor
    condition: Condition = FREE
    weight: Any = None
    sums: Any = None


class Consistency(nn.Module, ABC):
    r"""An identity of the flow map as a loss off the diagonal.

    Arguments:
        derivative: How derivatives along the network's inputs are taken; exact forward mode by default.
    Arguments (of a call):
        map: The map in training.
        teacher: The map that gives targets; no gradient reaches it.
        jump: States and times.
    Returns: values per position, ``(*batch, *positions)`` per field, by name; ``loss`` is minimised.
    Invariant: on an exact map the loss is its minimum and the gradient in the predictions is 0 (``tests/identities``).
        Two of the published losses are the exceptions: :class:`LagrangianKL`, wherever its floor holds an entry, and
        :class:`EndpointConsistency`, whose minimiser is biased.
    """

    def __init__(self, derivative: Derivative | None = None):
        super().__init__()
        self.derivative = derivative or ForwardMode()

    @abstractmethod
    def forward(self, map: FlowMap, teacher: FlowMap, jump: Jump) -> dict[str, Any]: ...

    def along_t(self, map: FlowMap, jump: Jump) -> tuple[Any, Any]:
        """Features at (x_s, s, t) and their derivative in t."""
        still = fieldwise(torch.zeros_like, jump.x_s)
        tangents = (still, torch.zeros_like(jump.s), torch.ones_like(jump.t))
        return self.derivative(map.network, (jump.x_s, jump.s, jump.t), tangents, jump.condition)


def per_position(map: FlowMap, loss: Callable[..., Any], jump: Jump, *arguments: Any) -> dict[str, Any]:
    """Evaluate a loss of predictions field by field and chunk by chunk; a second result is the clamp rate.

    With the ``weight`` of each position in the final loss (:class:`Jump`) gradients are taken on the way.
    """
    plain = map.chunk is None or not torch.is_grad_enabled() or torch.compiler.is_compiling()

    def evaluate(weight: Tensor | None, sums: Any, *fields: Any) -> Any:
        known = {} if weight is None or plain else {"weight": weight, "sums": sums}
        return in_chunks(loss, *fields, chunk=map.chunk, **known)

    results = fieldwise(evaluate, jump.weight, jump.sums, *arguments)
    first = next(iter(results.values())) if isinstance(results, dict) else results
    if not isinstance(first, tuple):
        return {"loss": results}
    return {name: fieldwise(lambda result, i=i: result[i], results) for i, name in enumerate(("loss", "clamp_rate"))}


def require_simplex(map: FlowMap, name: str) -> None:
    """Refuse losses on the simplex for maps whose mean is not there."""
    if not isinstance(map, EndpointMap):
        raise ValueError(
            f"{name} compares points of the simplex but the map is a {type(map).__name__}; use EndpointMap"
        )
