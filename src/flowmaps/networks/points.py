"""A perceptron for states of a few real coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import FREE, Condition
from .base import Network
from .embeddings import ReadOut, TimeFeatures, input_scale


class PointNetwork(Network):
    r"""A plain perceptron on coordinates, their Fourier features, and both times.

    .. math:: h = W\,[c(s)\,x,\; \cos\omega_i\!\cdot\!x,\; \sin\omega_i\!\cdot\!x,\; \tau(s, t)], \qquad
              h \leftarrow \mathrm{silu}(W_k h + b_k)

    Directions ω are drawn once, of a fixed seed, from N(0, band²): densities with sharp edges need frequencies that a
    perceptron on bare coordinates learns slowly. For angles they are rounded to whole numbers, so that the network is
    periodic, and there are no bare coordinates. Times are resolved by :class:`TimeFeatures` at the first layer; for
    few coordinates this costs half of what modulated blocks do.

    Arguments:
        dim: Number of coordinates, of unit variance each.
        width, depth: Size of the hidden layers, and their number.
        frequencies: Number of directions; 0 for bare coordinates.
        band: Their spread.
        times: Features of both times.
        periodic: Whether coordinates are angles in radians; ``None`` says no.
    Returns (of a call): shape of the state, zero at first.
    Reference: Tancik et al. 2020, *Fourier features let networks learn high frequency functions in low dimensional
    domains*, arXiv 2006.10739.
    """

    omega: Tensor

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 64,
        band: float = 6.0,
        times: TimeFeatures | None = None,
        periodic: bool | None = None,
    ):
        super().__init__()
        if min(dim, width, depth) < 1 or frequencies < 0 or not band > 0:
            raise ValueError(
                f"dim {dim}, width {width}, depth {depth}, frequencies {frequencies} and band {band}: expected at "
                "least 1 of the first three, no negative number of frequencies and a positive band"
            )
        self.dim, self.times = dim, times or TimeFeatures(features=8)
        generator = torch.Generator().manual_seed(0)
        omega = band * torch.randn(dim, frequencies, generator=generator)
        if periodic:  # each angle by itself, too
            omega = torch.cat([torch.eye(dim), omega.round()], dim=1)
        self.periodic = bool(periodic)
        self.register_buffer("omega", omega)
        first = nn.Linear((0 if periodic else dim) + 2 * omega.shape[1] + self.times.dim, width)
        self.hidden = nn.ModuleList([first, *(nn.Linear(width, width) for _ in range(depth - 1))])
        self.write = ReadOut(width, dim)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        if x.shape[1:] != (self.dim,):
            raise ValueError(f"one state has shape {tuple(x.shape[1:])}, expected {(self.dim,)}")
        angle = x @ self.omega.to(x.dtype)
        bare = [] if self.periodic else [input_scale(s, K=1).unsqueeze(-1) * x]
        h = torch.cat([*bare, angle.cos(), angle.sin(), self.times(s, t)], dim=1).to(self.write.weight.dtype)
        with torch.autocast(h.device.type, enabled=False):  # times near 1 differ by less than bf16 holds
            h = self.hidden[0](h)
        for layer in self.hidden[1:]:
            h = layer(F.silu(h))
        return self.write(F.silu(h))
