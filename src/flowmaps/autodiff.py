r"""Derivatives of a network along its inputs: the only file that calls ``torch.func``.

Every consistency identity needs :math:`(f, \dot f)` for a network ``f`` and a direction in ``(x, s, t)``. A
:class:`Derivative` is that one choice, passed to the objective as an object: exact forward mode (the default), a
form of it that survives ``torch.compile`` around attention, or central differences where a layer has no forward rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .fields import fieldwise


def zeros(tree: Any) -> Any:
    """The zero tangent of a tensor or of a tree of fields."""
    return fieldwise(torch.zeros_like, tree)


class Derivative(ABC):
    r"""The value of a module and its derivative along a direction.

    .. math:: (f(p), \; \textstyle\sum_i \partial_{p_i} f(p) \, \dot p_i)

    Arguments (of a call):
        module: Network called as ``module(*primals, condition)``.
        primals: ``(x, s, t)``; ``x`` may be a tree of fields.
        tangents: Same structure as ``primals``.
        condition: Passed through, not differentiated.
    Returns: value and tangent, same structure; gradients flow through both.
    Invariant: equals the central difference in float64 for every network (``tests/test_autodiff.py``).
    """

    @abstractmethod
    def __call__(self, module: nn.Module, primals: tuple, tangents: tuple, condition: Any = None) -> tuple: ...


class ForwardMode(Derivative):
    """Exact forward mode, one pass for value and tangent.

    Arguments:
        through_weights: Enter the weights as primals with explicit zero tangents. The value is the same; it lets
            ``torch.compile`` differentiate the result again when the network has attention (PyTorch issue 177261).
            ``None`` does so exactly when compiling.
    """

    def __init__(self, through_weights: bool | None = None):
        self.through_weights = through_weights

    def __call__(self, module: nn.Module, primals: tuple, tangents: tuple, condition: Any = None) -> tuple:
        if not (torch.compiler.is_compiling() if self.through_weights is None else self.through_weights):
            return torch.func.jvp(lambda *p: module(*p, condition), primals, tangents)
        weights = dict(module.named_parameters())

        def call(weights: dict[str, Tensor], *p: Any) -> Any:
            return torch.func.functional_call(module, weights, (*p, condition))

        return torch.func.jvp(call, (weights, *primals), (zeros(weights), *tangents))


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

    def __call__(self, module: nn.Module, primals: tuple, tangents: tuple, condition: Any = None) -> tuple:
        def shifted(h: float) -> Any:
            moved = (fieldwise(lambda p, dp: p + h * dp, p, dp) for p, dp in zip(primals, tangents, strict=True))
            return module(*moved, condition)

        ahead, behind = shifted(self.h), shifted(-self.h)
        tangent = fieldwise(lambda a, b: (a - b) / (2 * self.h), ahead, behind)
        return module(*primals, condition), tangent
