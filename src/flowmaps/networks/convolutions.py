"""Dilated convolutions along one axis: sequences whose words are short and whose places matter, such as DNA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import Condition, across, one_field
from .base import Network
from .embeddings import Context, Modulation, ReadOut, TimeFeatures, check_sizes, input_scale, own_time, read_in
from .norms import adapt


class Convolved(nn.Module):
    """A dilated convolution and a linear layer, between an adaptive norm and a gate that starts at zero."""

    def __init__(self, width: int, kernel: int, dilation: int):
        super().__init__()
        self.modulation = Modulation(width, width, parts=3)
        self.near = nn.Conv1d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.mix = nn.Linear(width, width)

    def forward(self, h: Tensor, c: Tensor, share: Tensor | None, mask: Tensor | None) -> Tensor:
        shift, scale, gate = self.modulation(c, share)
        seen = adapt(h, scale, shift)
        seen = seen if mask is None else torch.where(mask.unsqueeze(-1), seen, 0.0)
        return h + gate * self.mix(F.silu(self.near(seen.mT).mT))


class Convolutions(Network):
    r"""Residual dilated convolutions with adaLN-zero conditioning on both times, and on a label.

    .. math:: h = W_{\mathrm{in}}^\top\, c(s)\, x + p, \qquad
              h \leftarrow h + g \odot W_2\,\mathrm{silu}(W_1 * \mathrm{adaLN}(h;\, s, t, \text{label}))

    Its cost is linear in the length, where a transformer's is not. It is linear in x before anything else, as
    ``spaces.Embedded`` requires. Arguments that :class:`~flowmaps.networks.Transformer` has, too, are the same.

    Arguments:
        d: Coordinates of the state per position.
        width: Channels.
        rounds: How often the dilations are gone through.
        kernel: Positions that a convolution reads, odd.
        dilations: Of the convolutions of a round; by default they reach 122 positions to either side.
        out, K, classes, properties, times: As for a transformer.
        shape: ``(length,)`` where each position gets a learned vector p; other lengths are then refused.
    Returns (of a call): ``(batch, length, out)``.
    Invariant: padding never changes the rest; where every position is known, the times do not matter.
    Reference: Stark et al. 2024, *Dirichlet flow matching with applications to DNA sequence design*, arXiv 2402.05841
        (the shape of the network).
    """

    def __init__(
        self,
        d: int,
        width: int = 64,
        rounds: int = 2,
        kernel: int = 5,
        dilations: Sequence[int] = (1, 2, 8, 20),
        out: int | None = None,
        K: int | None = None,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
    ):
        super().__init__()
        check_sizes(width=width, rounds=rounds, kernel=kernel)
        if kernel % 2 == 0 or not dilations or min(dilations) < 1:
            raise ValueError(
                f"kernel is {kernel} and dilations {tuple(dilations)}, expected an odd number and some >= 1"
            )
        self.K, self.width = K or d, width
        self.read = read_in(d, width)
        self.table = None if shape is None else nn.Parameter(torch.randn(*shape, width) / 2)
        self.context = Context(width, classes, properties, times)
        self.blocks = nn.ModuleList(Convolved(width, kernel, each) for _ in range(rounds) for each in dilations)
        self.norm = Modulation(width, width, parts=2)
        self.out = nn.Identity() if out is None else ReadOut(width, out)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        condition = condition or Condition()
        if x.ndim != 3 or self.table is not None and x.shape[1:-1] != self.table.shape[:-1]:
            wanted = "one axis" if self.table is None else tuple(self.table.shape[:-1])
            raise ValueError(f"positions have shape {tuple(x.shape[1:-1])}, expected {wanted}")
        mask, known = one_field(condition.mask), one_field(condition.known)
        h = self.read(x * across(input_scale(own_time(s, known), self.K), x))
        h = h.to(torch.promote_types(x.dtype, h.dtype))  # under autocast, sums over blocks stay float32
        h = h if self.table is None else h + self.table
        c = self.context(s, t, condition)
        for block in self.blocks:
            h = block(h, c, known, mask)
        scale, shift = self.norm(c, known)
        return self.out(adapt(h, scale, shift))
