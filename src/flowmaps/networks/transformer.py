"""The diffusion transformer on states of any number of axes: text, images, sets of positions."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import Condition, across, one_field
from .attention import Attention, rotary
from .base import Network
from .embeddings import Context, Modulation, ReadOut, TimeFeatures, check_sizes, input_scale, own_time, read_in
from .norms import adapt


class Neighbours(nn.Conv1d):
    """What each position adds of those up to ``reach`` away, by a filter of each channel; padding adds nothing."""

    def __init__(self, width: int, reach: int):
        super().__init__(width, width, 2 * reach + 1, padding=reach, groups=width, bias=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (a convolution that knows of padding)
        self, h: Tensor, mask: Tensor | None
    ) -> Tensor:
        seen = h if mask is None else torch.where(mask.unsqueeze(-1), h, 0.0)
        return h + super().forward(seen.mT).mT


class Block(nn.Module):
    """Attention and a SwiGLU layer, each between an adaptive norm and a gate that starts at zero.

    Arguments:
        modulation: That of the block, or one of all blocks, to which each then adds a constant.
    """

    def __init__(self, width: int, heads: int, reach: int, modulation: Modulation | None = None):
        super().__init__()
        self.modulation = modulation or Modulation(width, width, parts=6)
        self.offset = None if modulation is None else nn.Parameter(torch.zeros(6, width))
        self.attention = Attention(width, heads)
        hidden = 8 * round(width / 3)  # as many weights as a plain layer four times as wide
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.neighbours = Neighbours(width, reach) if reach else None

    def forward(self, h: Tensor, c: Tensor, share: Tensor | None, mask: Tensor | None, turn: Tensor) -> Tensor:
        parts = self.modulation(c, share)
        if self.offset is not None:
            parts = [part + own for part, own in zip(parts, self.offset, strict=True)]
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        h = h + gate_a * self.attention(adapt(h, scale_a, shift_a), mask, turn)
        seen = adapt(h, scale_f, shift_f)
        a, b = self.up(seen if self.neighbours is None else self.neighbours(seen, mask)).chunk(2, dim=-1)
        return h + gate_f * self.down(F.silu(a) * b)


class Transformer(Network):
    r"""Diffusion transformer with adaLN-zero conditioning on both times, and on a label.

    .. math:: h = W_{\mathrm{in}}^\top\, c(s)\, x + p, \qquad
              h \leftarrow \mathrm{Block}_i(h;\, s, t, \text{label}), \qquad z = W_{\mathrm{out}}\, \mathrm{adaLN}(h)

    It is linear in x before anything else, as ``spaces.Embedded`` requires. Positions are rotary along every
    axis of the state, so one network serves any length; a learned table for one ``shape`` may be added. A
    known position is modulated by the clean times (1, 1) and its input scaled as clean.

    Arguments:
        d: Coordinates of the state per position: K for ``OneHot``, d for ``Embedded``.
        width, depth, heads: Size; ``width`` is a multiple of ``heads``.
        out: Width of the output: K for logits, zero at first. ``None``: features (..., width) for a head.
        K: Categories in the input scale; default ``d``. Give it for ``Embedded``; 1 for Euclidean states.
        reach: Positions to either side that a feed-forward layer reads besides its own; 0 for none. On text it spares
            attention the discovery of neighbours, which on small budgets it does not make.
        shared: One modulation for all blocks, to which each adds a constant: two thirds of the weights, for models that
            are to be small (Chen et al. 2023, *PixArt-alpha*, arXiv 2310.00426).
        shape: Positions that get learned vectors; other shapes are then refused.
        classes, properties: Kind of label (``embeddings.Label``); ``None``, ``None``: unconditional.
        times: Features of both times, with their band and clock; default ``embeddings.TimeFeatures``.
        split: Share of the blocks, from the first, that know s alone, while the rest know t alone, such as 2/3;
            ``None``: every block knows both times.
    Returns (of a call): ``(batch, *positions, out)``.
    Invariant: padding never changes the rest; where every position is known, the times do not matter.
    Reference: Peebles and Xie 2022, arXiv 2212.09748.
    """

    def __init__(
        self,
        d: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        out: int | None = None,
        K: int | None = None,
        reach: int = 0,
        shared: bool = False,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
        split: float | None = None,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads)
        self.K, self.width, self.heads, self.reach = K or d, width, heads, reach
        self.read = read_in(d, width)
        self.table = None if shape is None else nn.Parameter(torch.randn(*shape, width) / 2)
        self.context = Context(width, classes, properties, times, split)
        modulation = Modulation(width, width, parts=6) if shared else None
        self.blocks = nn.ModuleList(Block(width, heads, reach, modulation) for _ in range(depth))
        self.norm = Modulation(width, width, parts=2)
        self.out = nn.Identity() if out is None else ReadOut(width, out)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        condition = condition or Condition()
        positions = x.shape[1:-1]
        if self.reach and len(positions) != 1:
            raise ValueError(f"reach is {self.reach} on positions {tuple(positions)}, expected one axis; use reach=0")
        mask, known = one_field(condition.mask), one_field(condition.known)
        h = self.read(x * across(input_scale(own_time(s, known), self.K), x))
        h = h.to(torch.promote_types(x.dtype, h.dtype))  # under autocast, sums over blocks stay float32
        h = self._place(h).flatten(1, -2)
        contexts = self.context.of_blocks(s, t, condition, len(self.blocks))
        mask, share = (None if p is None else p.flatten(1) for p in (mask, known))
        turn = rotary(positions, h.shape[-1] // self.heads, h)
        for block, c in zip(self.blocks, contexts, strict=True):
            h = block(h, c, share, mask, turn)
        scale, shift = self.norm(contexts[-1], share)
        return self.out(adapt(h, scale, shift)).unflatten(1, positions)

    @torch.no_grad()
    def deepen(self, depth: int) -> None:
        """Grow to more blocks without a change of what is computed: to each belong copies of it that add zero at first.

        Raises: ValueError if ``depth`` is less than there are.
        Reference: Wu et al. 2024, *LLaMA Pro: progressive LLaMA with block expansion*, arXiv 2401.02415.
        """
        have = len(self.blocks)
        if depth < have:
            raise ValueError(f"depth is {depth}, expected at least the {have} blocks that the network has")
        blocks, grown = cast("list[Block]", list(self.blocks)), []
        for k in range(depth):
            block = blocks[k * have // depth]
            if block in grown:
                block = deepcopy(block, {} if block.offset is None else {id(block.modulation): block.modulation})
                for parameter in (*block.attention.out.parameters(), *block.down.parameters()):
                    parameter.zero_()
            grown.append(block)
        self.blocks = nn.ModuleList(grown)

    def _place(self, h: Tensor) -> Tensor:
        if self.table is None:
            return h
        if h.shape[1:-1] != self.table.shape[:-1]:
            raise ValueError(
                f"positions have shape {tuple(h.shape[1:-1])}, expected {tuple(self.table.shape[:-1])}; "
                "build the network without shape= for states of any size"
            )
        return h + self.table
