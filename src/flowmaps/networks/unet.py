"""A compact U-Net for categorical images of any height and width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import Condition, across, one_field
from .attention import Attention
from .base import Network
from .embeddings import Context, Modulation, ReadOut, TimeFeatures, check_sizes, input_scale, own_time, read_in
from .norms import GroupNorm


class Grid:
    """One resolution of the image: which pixels exist, and how far they are known.

    Arguments:
        mask, share: Numbers in [0, 1], shape (batch, 1, H, W); ``None``: all exist, none is known.
    """

    def __init__(self, mask: Tensor | None, share: Tensor | None):
        self.mask, self.share = mask, share

    def keep(self, x: Tensor) -> Tensor:
        """Zero outside of the image, as the border of a smaller canvas would be."""
        return x if self.mask is None else torch.where(self.mask > 0, x, 0.0)

    def coarsen(self, side: int = 2) -> Grid:
        """The grid of square cells: a cell exists if a pixel does, and is known as far as its pixels are."""
        share, mask = self.share, self.mask
        if share is not None:
            pixels = share.new_ones(share.shape) if mask is None else mask
            total = F.avg_pool2d(pixels, side, ceil_mode=True)
            share = F.avg_pool2d(share * pixels, side, ceil_mode=True) / total.clamp(min=0.1 / side**2)
        return Grid(None if mask is None else F.max_pool2d(mask, side, ceil_mode=True), share)

    def modulate(self, modulation: Modulation, c: Tensor) -> tuple[Tensor, ...]:
        """Parts of a modulation as maps (batch, channels, 1 or H, 1 or W)."""
        if self.share is None:
            return tuple(part.mT.unsqueeze(-1) for part in modulation(c))
        size = self.share.shape[-2:]
        return tuple(part.mT.unflatten(-1, size) for part in modulation(c, self.share.flatten(1)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with an adaptive norm between them; the second starts at zero."""

    def __init__(self, channels: int, out: int, context: int):
        super().__init__()
        self.norm_1, self.norm_2 = GroupNorm(channels), GroupNorm(out)
        self.conv_1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv_2 = nn.Conv2d(out, out, 3, padding=1)
        self.modulation = Modulation(context, out, parts=2)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # pyright: ignore[reportArgumentType]  (a convolution has one by default)

    def forward(self, x: Tensor, c: Tensor, grid: Grid) -> Tensor:
        h = self.conv_1(grid.keep(F.silu(self.norm_1(x, grid.mask))))
        scale, shift = grid.modulate(self.modulation, c)
        h = F.silu(self.norm_2(h, grid.mask) * (1 + scale) + shift)
        return self.skip(x) + self.conv_2(grid.keep(h))


class AttentionBlock(nn.Module):
    """Attention over all pixels of the lowest resolution, behind a gate that starts at zero."""

    def __init__(self, channels: int, heads: int, context: int):
        super().__init__()
        self.norm = GroupNorm(channels)
        self.attention = Attention(channels, heads)
        self.modulation = Modulation(context, channels, parts=1)

    def forward(self, x: Tensor, c: Tensor, grid: Grid) -> Tensor:
        (gate,) = grid.modulate(self.modulation, c)
        mask = None if grid.mask is None else grid.mask.flatten(1) > 0
        y = self.attention(self.norm(x, grid.mask).flatten(2).mT, mask)
        return x + gate * y.mT.unflatten(-1, x.shape[-2:])


class Level(nn.Module):
    """One resolution and, inside it, all lower ones; attention at the lowest."""

    def __init__(self, channels: Sequence[int], depth: int, heads: int, context: int):
        super().__init__()
        n, *lower = channels
        self.down = nn.ModuleList(ResidualBlock(n, n, context) for _ in range(depth))
        self.up = nn.ModuleList(ResidualBlock(2 * n if lower and i == 0 else n, n, context) for i in range(depth))
        self.lower = Level(lower, depth, heads, context) if lower else None
        if lower:
            self.shrink = nn.Conv2d(n, lower[0], 3, stride=2, padding=1)
            self.grow = nn.Conv2d(lower[0], n, 3, padding=1)
        else:
            self.attend = AttentionBlock(n, heads, context)

    def forward(self, x: Tensor, c: Tensor, grid: Grid) -> Tensor:
        for block in self.down:
            x = block(x, c, grid)
        if self.lower is None:
            x = self.attend(x, c, grid)
        else:
            y = self.lower(self.shrink(grid.keep(x)), c, grid.coarsen())
            y = F.interpolate(y, scale_factor=2.0, mode="nearest")[..., : x.shape[-2], : x.shape[-1]]
            x = torch.cat([x, self.grow(grid.keep(y))], dim=1)
        for block in self.up:
            x = block(x, c, grid)
        return x


class UNet(Network):
    r"""U-Net on categorical images, conditioned on both times and a label by adaptive norms.

    .. math:: h = W_{\mathrm{in}}^\top\, c(s)\, x, \qquad
              h \leftarrow \mathrm{Up}(\mathrm{Attend}(\mathrm{Down}(h))), \qquad z = W_{\mathrm{out}}\, h

    Halving rounds up and doubling crops to the skip, so any height and width serve: 8 x 8, 28 x 28, 1 x 1. With
    ``patch`` p the highest resolution is that of cells of p x p pixels, which are read and written at once.

    Arguments:
        d: Coordinates of the state per pixel: K for ``OneHot``, d for ``Embedded``.
        width: Channels at the highest resolution.
        lower: Channels of each lower resolution; the image is halved once for each.
        depth: Residual blocks per resolution, down and up.
        heads: Attention heads at the lowest resolution.
        out: Width of the output: K for logits, zero at first. ``None``: features (..., width) for a head.
        patch: Side p of the cells; above 1 it needs ``out``.
        shape: Height and width of images that are aligned, such as centred digits: cells get learned vectors, and other
            shapes are refused.
        K, classes, properties, times: As in ``Transformer``.
    Returns (of a call): ``(batch, H, W, out)``.
    Invariant: padding never changes the rest, neither its values nor its amount.
    Reference: Ho et al. 2020, arXiv 2006.11239; Dhariwal and Nichol 2021, arXiv 2105.05233 (adaptive norms).
    """

    def __init__(
        self,
        d: int,
        width: int = 64,
        lower: Sequence[int] = (128,),
        depth: int = 1,
        heads: int = 4,
        out: int | None = None,
        K: int | None = None,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
        patch: int = 1,
        shape: Sequence[int] | None = None,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, lower=min(lower, default=1))
        if patch < 1 or (patch > 1 and out is None):
            raise ValueError(f"patch is {patch}, expected at least 1, and 1 for a network without out")
        self.K, self.patch = K or d, patch
        self.read = read_in(d * patch**2, width)
        sides = None if shape is None else [-(-side // patch) for side in shape]
        self.table = None if sides is None else nn.Parameter(torch.randn(*sides, width) / 2)
        self.context = Context(context := 4 * width, classes, properties, times)
        self.level = Level([width, *lower], depth, heads, context)
        self.norm = GroupNorm(width)
        self.out = nn.Identity() if out is None else ReadOut(width, out * patch**2)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        condition = condition or Condition()
        if x.ndim != 4:
            raise ValueError(f"the state has shape {tuple(x.shape)}, expected images (batch, H, W, d)")
        mask, known = one_field(condition.mask), one_field(condition.known)
        grid = Grid(*(None if p is None else p.unsqueeze(1).to(x.dtype) for p in (mask, known)))
        x = x * across(input_scale(own_time(s, known), self.K), x)
        size, p = x.shape[1:3], self.patch
        if p > 1:
            x, grid = self._cells(grid.keep(x.movedim(-1, 1))), grid.coarsen(p)
        h = self._place(self.read(x)).movedim(-1, 1).contiguous()
        h = self.level(h, self.context(s, t, condition), grid)
        y = self.out(F.silu(self.norm(h, grid.mask)).movedim(1, -1))
        if p > 1:
            y = F.pixel_shuffle(y.movedim(-1, 1), p).movedim(1, -1)[:, : size[0], : size[1]]
        return y

    def _place(self, h: Tensor) -> Tensor:
        if self.table is None:
            return h
        if h.shape[1:-1] != self.table.shape[:-1]:
            raise ValueError(
                f"cells have shape {tuple(h.shape[1:-1])}, expected {tuple(self.table.shape[:-1])}; "
                "build the network without shape= for images of any size"
            )
        return h + self.table

    def _cells(self, x: Tensor) -> Tensor:
        """Pixels (batch, d, H, W) as cells (batch, H/p, W/p, d p²) of the norm of a pixel; zeros beyond the border."""
        p = self.patch
        x = F.pad(x, (0, -x.shape[-1] % p, 0, -x.shape[-2] % p))
        return F.pixel_unshuffle(x, p).movedim(1, -1) / p
