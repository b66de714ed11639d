"""Networks that read the held half of a state and give the parameters of the other half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.attention import Attention
from ..networks.embeddings import ReadOut, check_sizes

Conditioner = Callable[[Tensor, int, bool], nn.Module]  # of (which coordinates are held, parameters of each, periodic)


class ResidualConditioner(nn.Module):
    r"""A residual perceptron on the held coordinates; its parameters are zero at first.

    .. math:: h = W x_{held}, \qquad h \leftarrow h + W_2\,\mathrm{silu}(W_1\,\mathrm{silu}(h)), \qquad
              \phi = W_{out}\,\mathrm{silu}(h)

    Angles enter as the sines and cosines of their first multiples.

    Arguments:
        held: Which coordinates are read, bool, of the shape of one state.
        count: Parameters of each other coordinate.
        periodic: Whether coordinates are angles.
        width, depth: Size of the layers, and number of residual blocks.
        harmonics: Multiples of angles.
    Returns (of a call): ``(*batch, others, count)`` for the held coordinates ``(*batch, held)``.
    """

    def __init__(
        self, held: Tensor, count: int, periodic: bool = False, width: int = 128, depth: int = 2, harmonics: int = 4
    ):
        super().__init__()
        check_sizes(width=width, depth=depth, harmonics=harmonics)
        read, others = int(held.sum()), int((~held).sum())
        self.harmonics, self.count = (harmonics if periodic else 0), count
        self.read = nn.Linear(read * max(2 * self.harmonics, 1), width)
        layers = lambda: nn.ModuleList(nn.Linear(width, width) for _ in range(depth))  # noqa: E731
        self.up, self.down = layers(), layers()
        self.write = ReadOut(width, others * count)

    def forward(self, held: Tensor) -> Tensor:
        h = self.read(_waves(held, self.harmonics) if self.harmonics else held)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(F.silu(up(F.silu(h))))
        return self.write(F.silu(h)).unflatten(-1, (-1, self.count))


class TransformerConditioner(nn.Module):
    r"""A transformer over positions (tokens, particles); its parameters are zero at first.

    Each position is read with its held coordinates, zeros for the others, and a learned vector of its own.

    Arguments:
        held, count, periodic: As in :class:`ResidualConditioner`.
        width, depth, heads: Size; ``width`` is a multiple of ``heads``.
        harmonics: Multiples of angles.
    Returns (of a call): ``(*batch, others, count)`` for the held coordinates ``(*batch, held)``.
    Reference: Rehman et al. 2025, *RegFlow*, arXiv 2506.01158 (transformer couplings).
    """

    held: Tensor

    def __init__(
        self,
        held: Tensor,
        count: int,
        periodic: bool = False,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        harmonics: int = 4,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, harmonics=harmonics)
        held = held if held.ndim > 1 else held.unsqueeze(-1)  # one position: its coordinates are the tokens
        held = held.flatten(0, -2)
        tokens, dim = held.shape
        self.harmonics, self.count = (harmonics if periodic else 0), count
        self.register_buffer("held", held, persistent=False)
        self.read = nn.Linear(dim * max(2 * self.harmonics, 1), width)
        self.table = nn.Parameter(torch.randn(tokens, width) / 2)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm, self.write = nn.LayerNorm(width), ReadOut(width, dim * count)

    def forward(self, held: Tensor) -> Tensor:
        whole = held.new_zeros(*held.shape[:-1], self.held.numel())
        index = self.held.flatten().nonzero().squeeze(-1)
        whole = whole.index_copy(-1, index, held).unflatten(-1, tuple(self.held.shape))
        if self.harmonics:
            whole = _waves(whole, self.harmonics) * self.held.repeat(1, 2 * self.harmonics).to(whole.dtype)
        h = self.read(whole) + self.table
        for block in self.blocks:
            h = block(h)
        phi = self.write(self.norm(h)).unflatten(-1, (-1, self.count)).flatten(-3, -2)
        return phi[..., (~self.held).flatten(), :]


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norms[0](h))
        return h + self.down(F.silu(self.up(self.norms[1](h))))


def _waves(angles: Tensor, harmonics: int) -> Tensor:
    """Cosines and sines of the first multiples of angles ``(*batch, d)``, ``(*batch, 2 harmonics d)``."""
    multiples = [k * angles for k in range(1, harmonics + 1)]
    return torch.cat([*(a.cos() for a in multiples), *(a.sin() for a in multiples)], -1)
