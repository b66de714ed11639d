r"""Derivatives of a network along its inputs; besides ``recomputing`` the only file that calls ``torch.func``.

Every consistency identity needs :math:`(f, \dot f)` for a network ``f`` and a direction in ``(x, s, t)``. A
:class:`Derivative` is that one choice, passed to the objective as an object: exact forward mode (the default), a
form of it that survives ``torch.compile`` around attention, or central differences where a layer has no forward rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .fields import FREE, Condition, Fields, State, joined, parts

Point = tuple[State, Tensor, Tensor]  # (x, s, t), or a direction of change of it


class Derivative(ABC):
    r"""The value of a module and its derivative along a direction.

    .. math:: (f(p), \; \textstyle\sum_i \partial_{p_i} f(p) \, \dot p_i)

    Arguments (of a call):
        module: Network or flow map called as ``module(x, s, t, condition)``.
        primals: ``(x, s, t)``; ``x`` may have several fields.
        tangents: Same structure as ``primals``.
        condition: Passed through, not differentiated.
    Returns: value and tangent, same structure; gradients flow through both.
    Invariant: equals the central difference in float64 for every network (``tests/test_autodiff.py``).
    """

    @abstractmethod
    def __call__(
        self, module: nn.Module, primals: Point, tangents: Point, condition: Condition = FREE
    ) -> tuple[State, State]: ...


class ForwardMode(Derivative):
    """Exact forward mode, one pass for value and tangent.

    Arguments:
        through_weights: Enter the weights as primals with explicit zero tangents. The value is the same; it lets
            ``torch.compile`` differentiate the result again when the network has attention (PyTorch issue 177261).
            ``None`` does so exactly when compiling.
    """

    def __init__(self, through_weights: bool | None = None):
        self.through_weights = through_weights

    def __call__(
        self, module: nn.Module, primals: Point, tangents: Point, condition: Condition = FREE
    ) -> tuple[State, State]:
        (x, s, t), (dx, ds, dt) = primals, tangents
        point, direction = (*parts(x), s, t), (*parts(dx), ds, dt)

        def result(call: Callable[..., State], *p: Tensor) -> tuple[Tensor, ...]:
            return parts(call(joined(x, p[:-2]), *p[-2:], condition))

        if not (torch.compiler.is_compiling() if self.through_weights is None else self.through_weights):
            value, tangent = torch.func.jvp(lambda *p: result(module, *p), point, direction)[:2]
        else:
            weights = dict(module.named_parameters())
            still = {name: torch.zeros_like(weight) for name, weight in weights.items()}

            def weighted(weights: dict[str, Tensor], *p: Tensor) -> tuple[Tensor, ...]:
                return result(lambda *inputs: torch.func.functional_call(module, weights, inputs), *p)

            value, tangent = torch.func.jvp(weighted, (weights, *point), (still, *direction))[:2]
        return joined(x, value), joined(x, tangent)


class CentralDifference(Derivative):
    r"""The fallback for layers without a forward rule, one plain pass and two shifted ones.

    .. math:: \dot f \approx \frac{f(p + h \dot p) - f(p - h \dot p)}{2h}

    The error is of order ``h**2`` plus rounding over ``h``; times may leave ``[0, 1]`` by ``h``.

    Arguments:
        h: Step; 1e-3 suits float32, 1e-5 float64.
    """

    def __init__(self, h: float = 1e-3):
        if not h > 0:
            raise ValueError(f"h is {h}, expected a positive step; use 1e-3 for float32")
        self.h = h

    def __call__(
        self, module: nn.Module, primals: Point, tangents: Point, condition: Condition = FREE
    ) -> tuple[State, State]:
        (x, s, t), (dx, ds, dt) = primals, tangents
        x, dx = _state(x), _state(dx)
        value, ahead, behind = (
            _state(module(x + h * dx, s + h * ds, t + h * dt, condition)) for h in (0.0, self.h, -self.h)
        )
        return value, (ahead - behind) / (2 * self.h)


def _state(result: State) -> State:
    return Fields(result) if isinstance(result, dict) else result


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor, chunk: int | None = None) -> Tensor:
    r"""The Jacobian of a function at every example of a batch, by batched forward mode.

    .. math:: J_{ij} = \partial_{x_j} f_i(x)

    One pass of forward mode for each coordinate, all in one batch; so it is meant for few coordinates.

    Arguments:
        function: Of states ``(n, ...)``, each example by itself, with a forward rule in all its layers.
        x: Where, ``(n, ...)`` with d coordinates an example.
        chunk: Passes that are made at a time; ``None`` for all d.
    Returns: ``(n, d, d)``; gradients flow through it.
    """
    d = x[0].numel()

    def along(e: Tensor) -> Tensor:
        return torch.func.jvp(function, (x,), (e.expand_as(x),))[1]

    directions = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:])
    columns = torch.func.vmap(along, chunk_size=chunk)(directions)
    return columns.flatten(2).permute(1, 2, 0)
