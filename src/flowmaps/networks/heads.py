"""Heads: from features to logits, for values and for tangents alike."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Module, ABC):
    r"""An affine read-out, so that its tangent is its linear part.

    .. math:: z = h W^\top + b, \qquad \dot z = \dot h W^\top

    A subclass names ``W`` (K, d) by the property ``matrix``. Losses evaluate a head chunk by chunk over
    positions, so no network needs to hold positions x K logits.
    """

    bias: nn.Parameter | None

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """W, shape (K, d)."""

    def forward(self, h: Tensor) -> Tensor:
        """Logits (..., K) of features (..., d)."""
        return F.linear(h, self.matrix, self.bias)

    def tangent(self, dh: Tensor) -> Tensor:
        """Tangent of the logits (..., K) along a tangent of the features (..., d)."""
        return F.linear(dh, self.matrix)


class LinearHead(Head):
    r"""A head with its own matrix, zero at first: every distribution starts uniform.

    Arguments:
        d: Width of the features.
        K: Number of categories.
        bias: Whether categories have their own offset.
    Invariant: ``head.tangent(dh)`` is the forward-mode derivative of ``head`` along ``dh``.
    """

    def __init__(self, d: int, K: int, bias: bool = True):
        super().__init__()
        if d < 1 or K < 1:
            raise ValueError(f"d is {d} and K is {K}, expected at least one feature and one category")
        self.weight = nn.Parameter(torch.zeros(K, d))
        self.bias = nn.Parameter(torch.zeros(K)) if bias else None

    @property
    def matrix(self) -> Tensor:
        return self.weight


class TiedHead(Head):
    r"""A head that reads out with the matrix of another module, usually the read-in of ``spaces.Embedded``.

    The owner keeps the parameter: it is neither registered nor saved twice, and follows every replacement
    of it (``functional_call``, ``copy.deepcopy`` of a module that holds both). Rows of unit norm against
    normalised features give initial logits of unit variance.

    Arguments:
        owner: Module that holds the matrix.
        name: Attribute of ``owner`` with shape (K, d).
        bias: Whether categories have their own offset.
    """

    def __init__(self, owner: nn.Module, name: str = "weight", bias: bool = True):
        super().__init__()
        weight = getattr(owner, name, None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            place = f"{type(owner).__name__}.{name}"
            raise ValueError(f"{place} is no matrix (K, d); name the attribute that holds the weights")
        self._owner = (owner,)  # a tuple hides the owner from nn.Module's registry
        self._name = name
        self.bias = nn.Parameter(weight.detach().new_zeros(weight.shape[0])) if bias else None

    @property
    def owner(self) -> nn.Module:
        """The module that holds the matrix."""
        return self._owner[0]

    @property
    def matrix(self) -> Tensor:
        return getattr(self.owner, self._name)
