"""States that live in an embedding, so that a large alphabet costs no K-dimensional state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Space


class Embedded(Space):
    r"""States :math:`h = W^\top x \in \mathbb{R}^d` of a network whose first layer is linear in x.

    .. math:: h_t = (1-t)\, C \eta + t\, W[k], \qquad C C^\top = W^\top W, \; \eta \sim N(0, I_d)

    The law of what the network sees is that of :class:`OneHot` followed by ``W``, and so are the expected losses and
    gradients; nothing of size positions x K appears but logits. The network must see x only through ``W``.

    Arguments:
        K: Number of categories.
        d: Width of the state. For K <= d the Gram matrix is singular, so the noise is drawn in K dimensions and read
            in; otherwise in d dimensions and multiplied by the Cholesky factor C.
    Invariant: moments, losses in expectation and samples equal those of OneHot (``tests/identities``).
    """

    def __init__(self, K: int, d: int):
        super().__init__()
        if K < 1 or d < 1:
            raise ValueError(f"K is {K} and d is {d}, expected at least one category and one dimension")
        self.K, self.dim, self.noise_dim = K, d, min(K, d)
        self.weight = nn.Parameter(torch.randn(K, d) / d**0.5)

    def gram(self) -> Tensor:
        """WᵀW, shape (d, d); by symmetry its backward pass W (Ḡ + Ḡᵀ) is one product, where plain autograd has two."""
        half = self.weight.detach().mT @ self.weight
        return half + (half.mT - half.detach())

    def normal(self, noise: Tensor) -> Tensor:
        # Noise keeps its digits under autocast, and a Gram matrix in bf16 need not be definite.
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.K <= self.dim:
                return self.read(noise)
            C = torch.linalg.cholesky(self.gram())
            return noise.to(C.dtype) @ C.mT

    def embed(self, x_1: Tensor) -> Tensor:
        return F.embedding(x_1, self.weight)

    def read(self, pi: Tensor) -> Tensor:
        return pi @ self.weight.to(pi.dtype)

    def pair(self, gradient: Tensor) -> Tensor:
        return gradient @ self.gram()
