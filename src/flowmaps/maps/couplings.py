"""Layers of bijections: couplings, autoregressive layers, and any transform of zuko."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..fields import FREE, Condition
from .bijection import Invertible
from .conditioners import Conditioner, ResidualConditioner
from .univariate import Spline, Univariate

if TYPE_CHECKING:
    from zuko.lazy import LazyTransform


class Coupling(Invertible):
    r"""Some coordinates stay and give the parameters by which the others change.

    .. math:: y_a = x_a, \qquad y_b = \tau(x_b; \phi(x_a)), \qquad \log|\det J| = \sum_{i \in b} \log \tau'(x_i; \phi_i)

    Arguments:
        held: Which coordinates stay, bool, of the shape of one state.
        univariate: The functions τ.
        conditioner: What makes the network φ.
    Raises: ValueError if all or none stay.
    """

    a: Tensor
    b: Tensor

    def __init__(
        self, held: Tensor, univariate: Univariate | None = None, conditioner: Conditioner = ResidualConditioner
    ):
        super().__init__()
        if held.dtype != torch.bool or bool(held.all()) or not bool(held.any()):
            raise ValueError(f"held is {held.tolist()}, expected true for some coordinates and false for others")
        self.univariate = univariate or Spline()
        for name, those in (("a", held), ("b", ~held)):
            self.register_buffer(name, those.flatten().nonzero().squeeze(-1), persistent=False)
        self.conditioner = conditioner(held, self.univariate.count, self.univariate.periodic)

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        x = x_0.flatten(1)
        x_a = x[:, self.a]
        y_b, change = self.univariate.forward(x[:, self.b], self._phi(x_a))
        return self._whole(x, y_b).view_as(x_0), change.sum(-1)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        y = x_1.flatten(1)
        y_a = y[:, self.a]
        x_b, change = self.univariate.inverse(y[:, self.b], self._phi(y_a))
        return self._whole(y, x_b).view_as(x_1), change.sum(-1)

    def _phi(self, held: Tensor) -> Tensor:
        return self.conditioner(held).to(held.dtype)  # under autocast the conditioner alone computes in bf16

    def _whole(self, x: Tensor, x_b: Tensor) -> Tensor:
        return x.index_copy(1, self.b, x_b)


class Autoregressive(Invertible):
    r"""Each coordinate changes by those before it; from noise to data in one pass (an inverse autoregressive flow).

    .. math:: y_i = \tau(x_i; \phi_i(x_{<i})), \qquad \log|\det J| = \sum_i \log \tau'(x_i; \phi_i)

    The inverse takes as many passes as there are coordinates; :class:`~flowmaps.maps.Inverted` is the masked
    autoregressive flow, whose likelihood is fast.

    Arguments:
        dim: Number of coordinates of one state.
        univariate: The functions τ.
        width, depth: Size of the layers, and number of residual blocks.
        backwards: Take the coordinates in the other order.
    Reference: Kingma et al. 2016, *Improving variational inference with inverse autoregressive flow*, arXiv 1606.04934;
    Papamakarios et al. 2017, *Masked autoregressive flow for density estimation*, arXiv 1705.07057.
    """

    def __init__(
        self,
        dim: int,
        univariate: Univariate | None = None,
        width: int = 128,
        depth: int = 2,
        backwards: bool = False,
    ):
        from zuko.nn import MaskedMLP

        super().__init__()
        self.dim, self.univariate = dim, univariate or Spline()
        if self.univariate.periodic:
            raise ValueError("autoregressive layers read coordinates, not angles; use a Coupling on a torus")
        place = torch.arange(dim).flip(0) if backwards else torch.arange(dim)
        earlier = (place.unsqueeze(1) > place).repeat_interleave(self.univariate.count, 0)
        hidden = [width] * (depth + 1)
        self.conditioner = MaskedMLP(earlier, hidden, activation=nn.SiLU, residual=True)  # pyright: ignore[reportArgumentType]  (a bool tensor)
        last = self.conditioner[-1]
        assert isinstance(last, nn.Linear) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def _phi(self, x: Tensor) -> Tensor:
        return self.conditioner(x).unflatten(-1, (self.dim, -1)).to(x.dtype)

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        x = x_0.flatten(1)
        y, change = self.univariate.forward(x, self._phi(x))
        return y.view_as(x_0), change.sum(-1)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        y = x_1.flatten(1)
        x, change = torch.zeros_like(y), torch.zeros_like(y)
        for _ in range(self.dim):
            x, change = self.univariate.inverse(y, self._phi(x))
        return x.view_as(x_1), change.sum(-1)


class Zuko(Invertible):
    """Any lazy transform of zuko, of the flattened state.

    Arguments:
        transform: Such as ``zuko.flows.coupling.GeneralCouplingTransform(features=4)``, from noise to data.
    """

    def __init__(self, transform: LazyTransform):
        super().__init__()
        self.transform = transform

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        y, change = self.transform().call_and_ladj(x_0.flatten(1))  # pyright: ignore[reportAttributeAccessIssue]  (zuko's transforms have it)
        return y.view_as(x_0), change

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        transform, y = self.transform(), x_1.flatten(1)
        x = transform._inverse(y)
        return x.view_as(x_1), -transform.log_abs_det_jacobian(x, y)


def alternating(shape: Sequence[int], layer: int, by_position: bool = False) -> Tensor:
    """Every second coordinate (or position) of a state, the others in the next layer, bool of ``shape``.

    >>> alternating((4,), 0).tolist(), alternating((4,), 1).tolist()
    ([True, False, True, False], [False, True, False, True])
    """
    if prod(shape) < 2:
        raise ValueError(f"one state has shape {tuple(shape)}, expected at least two coordinates to hold one of them")
    by_position = by_position and prod(shape[:-1]) > 1
    places = torch.arange(prod(shape[:-1] if by_position else shape)) % 2 == layer % 2
    return places.unsqueeze(-1).expand(-1, shape[-1]).reshape(*shape) if by_position else places.reshape(*shape)
