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
        kernel: Places that a convolution reads, odd.
        dilations: Of the convolutions of a round.
        patch: Consecutive positions that share one place: convolutions then cost that much less and reach that much
            farther.
        out, K, classes, properties, times, split: As for a transformer.
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
        dilations: Sequence[int] = (1, 2, 4, 8),
        patch: int = 1,
        out: int | None = None,
        K: int | None = None,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
        split: float | None = None,
    ):
        super().__init__()
        check_sizes(width=width, rounds=rounds, kernel=kernel, patch=patch)
        if kernel % 2 == 0 or not dilations or min(dilations) < 1:
            raise ValueError(
                f"kernel is {kernel} and dilations {tuple(dilations)}, expected an odd number and some >= 1"
            )
        self.K, self.width, self.patch, self.shape = K or d, width, patch, shape if shape is None else tuple(shape)
        self.read = read_in(patch * d, width)
        nn.init.normal_(self.read.weight, std=patch**-0.5)  # every position has unit norm
        self.table = None if shape is None else nn.Parameter(torch.randn(-(-shape[0] // patch), width) / 2)
        self.context = Context(width, classes, properties, times, split)
        self.blocks = nn.ModuleList(Convolved(width, kernel, each) for _ in range(rounds) for each in dilations)
        self.norm = Modulation(width, width, parts=2)
        if out is None and patch > 1:
            raise ValueError(f"patch is {patch} without out: features are of single positions; give out, or patch 1")
        self.out = nn.Identity() if out is None else ReadOut(width, patch * out)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        condition = condition or Condition()
        if x.ndim != 3 or self.shape is not None and tuple(x.shape[1:-1]) != self.shape:
            wanted = self.shape or "one axis"
            raise ValueError(f"positions have shape {tuple(x.shape[1:-1])}, expected {wanted}")
        mask, known = one_field(condition.mask), one_field(condition.known)
        x = x * across(input_scale(own_time(s, known), self.K), x)
        h = self.read(self._patches(x if mask is None else torch.where(mask.unsqueeze(-1), x, 0.0)))
        h = h.to(torch.promote_types(x.dtype, h.dtype))  # under autocast, sums over blocks stay float32
        h = h if self.table is None else h + self.table
        contexts = self.context.of_blocks(s, t, condition, len(self.blocks))
        exists = None if mask is None else self._patches(mask.unsqueeze(-1)).any(-1)
        share = None if known is None else self._share(known, mask, h)
        for block, c in zip(self.blocks, contexts, strict=True):
            h = block(h, c, share, exists)
        scale, shift = self.norm(contexts[-1], share)
        h = self.out(adapt(h, scale, shift))
        return h if self.patch == 1 else h.unflatten(-1, (self.patch, -1)).flatten(1, 2)[:, : x.shape[1]]

    def _patches(self, x: Tensor) -> Tensor:
        """Consecutive positions side by side, zeros after the last."""
        if self.patch == 1:
            return x
        return F.pad(x, (0, 0, 0, -x.shape[1] % self.patch)).unflatten(1, (-1, self.patch)).flatten(2)

    def _share(self, known: Tensor, mask: Tensor | None, h: Tensor) -> Tensor:
        """The part of the existing positions of each place that is known."""
        exists = torch.ones_like(known) if mask is None else mask
        count, all = (self._patches(part.to(h.dtype).unsqueeze(-1)).sum(-1) for part in (known & exists, exists))
        return count / all.clamp(min=1)
