"""Muon: an update of a matrix is its averaged gradient with all singular values made alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..networks.embeddings import ReadOut
from .optim import AdamW, decay_groups
from .shards import placed, whole

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0, so that small singular values grow fast


class Muon:
    r"""Orthogonalised momentum for the matrices and filters inside a network, AdamW for everything else.

    .. math:: B \leftarrow \mu B + (1-\mu)\, G, \qquad
              W \leftarrow W - 0.2 \sqrt{\max(m, n)}\; \eta\; \mathrm{orth}\big((1-\mu)\, G + \mu B\big)

    ``orth`` of :math:`U \Sigma V^\top` is nearly :math:`U V^\top`, by Newton-Schulz iterations in float32: no
    direction of a layer's input is left behind because others have larger gradients. The factor gives updates the size
    of AdamW's. A filter is a matrix (out, in · height · width). Embeddings, vectors, the last layer and those that read
    states and times are AdamW's. The iterations cost some tens of products of a matrix with itself: little where each
    weight serves many positions of a batch, as in convolutions. Sharded matrices are gathered first, by every process.

    Arguments:
        lr: η at factor 1.
        momentum: μ, in [0, 1).
        iterations: Of Newton and Schulz, at least 1.
        weight_decay: Share of a matrix removed per update, times η.
        others: AdamW for the other parameters, with its own rate.
    Raises: ValueError if a setting is outside its range, or no matrix is left to orthogonalise.
    Invariant: ``orth`` has the vectors of U Σ Vᵀ; five iterations bring every singular value above a hundredth of the
        norm into [.68, 1.14] (``tests/train/test_muon.py``).
    Reference: Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*,
    kellerjordan.github.io/posts/muon; Liu et al. 2025, *Muon is scalable for LLM training*, arXiv 2502.16982 (size).
    """

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.95,
        iterations: int = 5,
        weight_decay: float = 0.01,
        others: AdamW = AdamW(),  # noqa: B008  (frozen)
    ):
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected a number of at least 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, expected a number in [0, 1)")
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}, expected at least 1")
        self.lr, self.momentum, self.iterations = lr, momentum, iterations
        self.weight_decay, self.others = weight_decay, others

    def __call__(self, objective: nn.Module) -> Orthogonalised:
        decayed, kept = decay_groups(objective)
        outer = outer_matrices(objective)
        inner = [p for p in decayed if id(p) not in outer]
        if not inner:
            raise ValueError(f"{type(objective).__name__} has no matrix inside its network for Muon; use AdamW")
        rest = [p for p in decayed if id(p) in outer]
        groups = [
            {"params": inner, "lr": self.lr, "weight_decay": self.weight_decay, "orthogonal": True},
            {"params": rest, "lr": self.others.lr, "weight_decay": self.others.weight_decay, "orthogonal": False},
            {"params": kept, "lr": self.others.lr, "weight_decay": 0.0, "orthogonal": False},
        ]
        groups = [group for group in groups if group["params"]]
        return Orthogonalised(groups, self.momentum, self.iterations, self.others)


class Orthogonalised(torch.optim.AdamW):
    """AdamW, but for the groups marked ``orthogonal``, which take the step of :class:`Muon`."""

    def __init__(self, groups: list[dict], momentum: float, iterations: int, others: AdamW):
        super().__init__(groups, betas=others.betas, eps=others.eps)
        self.momentum, self.iterations = momentum, iterations

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]  (as everybody calls it)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._turn(parameter, group["lr"], group["weight_decay"])
                        parameter.grad = None  # nothing is left for AdamW
        super().step()
        return loss

    def _turn(self, W: Tensor, lr: float, decay: float) -> None:
        assert W.grad is not None
        state = self.state[W]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it wherever there is a state
            state["momentum"] = torch.zeros_like(W)
        state["step"] += 1
        B = state["momentum"].lerp_(W.grad, 1 - self.momentum)
        update = orthogonal(whole(W.grad.lerp(B, self.momentum)).flatten(1), self.iterations)
        W.mul_(1 - lr * decay).add_(placed(update.view(W.shape), W), alpha=-0.2 * lr * math.sqrt(max(update.shape)))


def orthogonal(G: Tensor, iterations: int = 5) -> Tensor:
    """Nearly U Vᵀ of a matrix U S Vᵀ; 0 of 0."""
    a, b, c = QUINTIC
    tall = G.shape[0] > G.shape[1]
    X = G.mT if tall else G
    X = X / X.norm().clamp(min=torch.finfo(X.dtype).tiny)
    for _ in range(iterations):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X


def outer_matrices(module: nn.Module) -> set[int]:
    """The ids of matrices through which a network meets the world: states in, times in, predictions out."""
    first = [child for name, child in module.named_modules() if name.rpartition(".")[2] == "read"]
    layers = [layer for layer in module.modules() if isinstance(layer, ReadOut)]
    return {id(p) for layer in [*first, *layers] for p in layer.parameters()}
