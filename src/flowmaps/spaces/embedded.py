"""States that live in an embedding, so that a large alphabet costs no K-dimensional state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import Data, Shape, one_field
from .base import FlatCategorical, check_size, one_shape


class Embedded(FlatCategorical):
    r"""States :math:`h = W^\top x \in \mathbb{R}^d` of a network whose first layer is linear in x.

    .. math:: h_t = (1-t)\, C \eta + t\, W[k], \qquad C C^\top = W^\top W, \; \eta \sim N(0, I_d)

    The distribution of what the network sees is that of :class:`OneHot` followed by ``W``, and so are the expected
    losses and gradients; nothing of size positions x K appears but logits. The network must see x only through ``W``.

    Arguments:
        K: Number of categories.
        d: Width of the state. For K <= d the Gram matrix is singular, so the noise is drawn in K dimensions and read
            in; otherwise in d dimensions and multiplied by the Cholesky factor C.
    Invariant: moments, losses in expectation and samples equal those of OneHot (``tests/identities``).
    """

    def __init__(self, K: int, d: int):
        super().__init__()
        self.K = check_size("K, the number of categories,", K)
        self.dim = check_size("d, the width of the states,", d)
        self.weight = nn.Parameter(torch.randn(K, d) / d**0.5)

    def gram(self) -> Tensor:
        """WᵀW, shape (d, d); by symmetry its backward pass W (Ḡ + Ḡᵀ) is one product, where plain autograd has two."""
        half = self.weight.detach().mT @ self.weight
        return half + (half.mT - half.detach())

    def noise_shape(self, shape: Shape) -> Shape:
        return (*one_shape(shape), min(self.K, self.dim))

    def random(self, noise: Tensor) -> Tensor:
        # Noise keeps its digits under autocast, and a Gram matrix in bf16 need not be definite.
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.K <= self.dim:
                return self.lift(noise)
            C = torch.linalg.cholesky(self.gram())
            return noise.to(C.dtype) @ C.mT

    def encode(self, x_1: Data) -> Tensor:
        return F.embedding(one_field(x_1), self.weight)

    def decode(self, x: Tensor) -> Tensor:
        """The category whose row of W is nearest."""
        return (x @ self.weight.mT - self.weight.square().sum(-1) / 2).argmax(-1)

    def lift(self, pi: Tensor) -> Tensor:
        return pi @ self.weight.to(pi.dtype)

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient @ self.gram()
