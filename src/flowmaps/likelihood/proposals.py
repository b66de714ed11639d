"""Densities of u by which the integrals of bounds are sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

UNIFORM_PART = 0.1  # of a fitted density, so that no weight exceeds ten times that of uniform points


class Proposal:
    r"""A density g of u on [0, U], constant within equal cells.

    .. math:: \int_0^U f(u)\, du = \mathbb{E}_{u \sim g}\Big[\frac{f(u)}{g(u)}\Big], \qquad
              g \propto \sqrt{\mathbb{E}[f^2 \mid u]} \text{ has the least variance}

    Points are :math:`u = G^{-1}(v)` of stratified uniforms v, so they stay stratified.

    Arguments:
        shares: Probability of each cell, positive, with any common factor; one cell is the uniform density.
    Raises: ValueError if a share is not a positive number.
    """

    def __init__(self, shares: Sequence[float] = (1.0,)):
        cells = torch.tensor(shares, dtype=torch.float64)
        if not len(cells) or not bool((cells > 0).all() and cells.isfinite().all()):
            raise ValueError(f"shares are {list(shares)}, expected a positive number for each cell")
        self.cells = cells / cells.sum()

    @classmethod
    def fitted(cls, integrand: Callable[[Tensor], Tensor], U_max: float, cells: int = 32) -> Proposal:
        """The density of least variance for an integrand, in part made uniform.

        Arguments:
            integrand: Values of f at points u ``(cells,)``, ``(examples, cells)``.
        """
        u = (torch.arange(cells) + 0.5) * U_max / cells
        size = integrand(u).double().cpu().square().mean(0).sqrt()
        if not 0 < float(size.sum()) < math.inf:
            return cls()
        shares = (1 - UNIFORM_PART) * size / size.sum() + UNIFORM_PART / cells
        return cls(shares.tolist())

    def __call__(self, v: Tensor, U_max: float) -> tuple[Tensor, Tensor]:
        """u and 1/g(u) at uniforms v, each of the shape of ``v``."""
        cells = self.cells.to(v.device)
        upper = cells.cumsum(0)
        index = torch.searchsorted(upper, v.double()).clamp(max=len(cells) - 1)
        inside = ((v - (upper[index] - cells[index])) / cells[index]).clamp(0, 1)
        width = U_max / len(cells)
        return ((index + inside) * width).to(v.dtype), (width / cells[index]).to(v.dtype)
