"""What an objective is, and what a consistency identity is given and gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..autodiff import Derivative, ForwardMode
from ..evaluation import Evaluation
from ..fields import FREE, Batch, Condition, Data, S, select, take, zeros_like
from ..maps import EndpointMap, FlowMap
from ..maps.flow import M

D = TypeVar("D")  # what one evaluation draws


class Objective(nn.Module, ABC, Generic[D, M]):
    """A training loss that owns its derivatives: compile, autocast and data parallelism wrap it from outside."""

    flow_map: M

    @abstractmethod
    def draw(self, batch: Batch, generator: torch.Generator) -> D:
        """All randomness of one evaluation (times, noise), on the generator's device."""

    @abstractmethod
    def forward(self, batch: Batch, draw: D) -> dict[str, Tensor]:
        """Scalars in float32: ``loss`` is to be minimised (nats per position), the rest is for the log."""

    def before_step(self, share: float) -> None:  # noqa: B027
        """Called before each update with the share of the run that is behind it, in [0, 1)."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each update of the weights; moves an averaged teacher."""


class Jump(NamedTuple, Generic[S]):
    """A jump of a batch from time s to t.

    Arguments:
        x_s: State on the path at s, ``(*batch, *positions, dim)`` per field.
        x_0, x_1: Its source state and its example.
        s, t: Times ``(*batch,)``, s <= t; equal on the diagonal.
        r: Uniform numbers in [0, 1), by which objectives with a time between s and t choose it.
        condition: What else the network may know.
    """

    x_s: S
    x_0: S
    x_1: Data
    s: Tensor
    t: Tensor
    r: Tensor
    condition: Condition = FREE

    def part(self, index: slice) -> Jump[S]:
        """Some examples of the batch."""
        s, t, r = self.s[index], self.t[index], self.r[index]
        x_s, x_0, x_1 = take(self.x_s, index), take(self.x_0, index), take(self.x_1, index)
        return Jump(x_s, x_0, x_1, s, t, r, select(self.condition, index))


class Consistency(nn.Module, ABC):
    r"""An identity of the flow map as a loss off the diagonal.

    Arguments:
        derivative: How derivatives along the network's inputs are taken; exact forward mode by default.
    Arguments (of a call):
        flow_map: The map in training.
        teacher: The map that gives targets; no gradient reaches it.
        jump: States and times.
        evaluate: How losses between predictions are evaluated; by default in the chunks of the map.
    Returns: values per position, ``(*batch, *positions)`` per field, by name; ``loss`` is minimised.
    Invariant: on an exact map the loss is its minimum and the gradient in the predictions is 0 (``tests/identities``).
        Two of the published losses are the exceptions: :class:`LagrangianKL`, wherever its floor holds an entry, and
        :class:`EndpointConsistency`, whose minimiser is biased.
    """

    def __init__(self, derivative: Derivative | None = None):
        super().__init__()
        self.derivative = derivative or ForwardMode()

    @abstractmethod
    def forward(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None
    ) -> dict[str, S]: ...

    def after_step(self) -> None:  # noqa: B027
        """Called after each update of the weights."""


class Identity(Consistency):
    r"""An identity that holds between predicted means where the space is flat, and between states on every space.

    .. math:: L = \| r \|^2_{X_{s,t}(x_s)}, \qquad r \in T_{X_{s,t}(x_s)} M \text{ the residual of the state form}

    Between means no state appears, so that the alphabet may be large and the state embedded; on curved spaces means do
    not exist and the residual is a tangent at the end of the jump, measured by the metric there.

    Arguments:
        in_state: Take the state form on flat spaces, too.
        derivative: As in :class:`Consistency`.
    """

    def __init__(self, in_state: bool = False, derivative: Derivative | None = None):
        super().__init__(derivative)
        self.in_state = in_state

    def forward(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None
    ) -> dict[str, S]:
        if flow_map.space.flat and not self.in_state:
            return self.between_means(flow_map, teacher, jump, evaluate or Evaluation(flow_map.chunk))
        if flow_map.chunk is not None:
            raise ValueError(
                f"{type(self).__name__} between states differentiates the whole jump, but the map has chunk = "
                f"{flow_map.chunk}; build it with chunk=None, or take the form between means"
            )
        x_t, residual = self.between_states(flow_map, teacher, jump)
        return {"loss": flow_map.space.inner(x_t, residual, residual)}

    @abstractmethod
    def between_means(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S]
    ) -> dict[str, S]: ...

    def between_states(self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S]) -> tuple[S, S]:
        """The end of the jump, and the residual there."""
        raise ValueError(
            f"{type(self).__name__} compares points of the simplex and needs a flat space of categories, not "
            f"{type(flow_map.space).__name__}; use Lagrangian, Eulerian or Semigroup"
        )

    def along(self, module: nn.Module, jump: Jump[S], dx: S | None, ds: Tensor, dt: Tensor) -> tuple[S, S]:
        """A network or a map at (x_s, s, t), and its derivative along a direction; ``dx=None`` is none in x."""
        still = zeros_like(jump.x_s) if dx is None else dx
        point, direction = (jump.x_s, jump.s, jump.t), (still, ds, dt)
        return self.derivative(module, point, direction, jump.condition)  # pyright: ignore[reportReturnType]  (the fields of x_s)


def require_simplex(flow_map: FlowMap[S], name: str) -> None:
    """Refuse losses on the simplex for maps whose mean is not there."""
    if not isinstance(flow_map, EndpointMap):
        raise ValueError(
            f"{name} compares points of the simplex but the map is a {type(flow_map).__name__}; use EndpointMap"
        )
