"""States with one coordinate per category."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..fields import Data, one_field
from .base import FlatCategorical, check_size


class OneHot(FlatCategorical):
    r"""States in :math:`\mathbb{R}^K` per position: noisy one-hot vectors.

    .. math:: x_t = (1-t)\, x_0 + t\, e_{x_1}

    Prefer it for small alphabets and for networks that read single coordinates (graphs, images).

    Arguments:
        K: Number of categories.
        symmetric: The last two positions index unordered pairs (bonds): noise is symmetric in them and there is no
            noise on their diagonal, which always holds category 0.
    Invariant: ``lift`` is the identity, and so is ``sharp`` unless ``symmetric``: there one number stands at (i, j) and
        at (j, i), and its gradient is the sum of both.
    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233.
    """

    def __init__(self, K: int, symmetric: bool = False):
        super().__init__()
        self.K = self.dim = check_size("K, the number of categories,", K)
        self.symmetric = symmetric

    def random(self, noise: Tensor) -> Tensor:
        if not self.symmetric:
            return noise
        upper = torch.triu(noise.movedim(-1, 0), diagonal=1)
        return (upper + upper.mT).movedim(0, -1)

    def encode(self, x_1: Data) -> Tensor:
        return F.one_hot(one_field(x_1), self.K).to(torch.get_default_dtype())

    def decode(self, x: Tensor) -> Tensor:
        return x.argmax(-1)

    def lift(self, pi: Tensor) -> Tensor:
        return pi

    def once(self, values: Tensor) -> Tensor:
        return torch.triu(values, diagonal=1) if self.symmetric else values

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        if not self.symmetric:
            return gradient
        upper = torch.triu((gradient + gradient.transpose(-2, -3)).movedim(-1, 0), diagonal=1)
        return (upper + upper.mT).movedim(0, -1)
