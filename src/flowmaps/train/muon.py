"""Muon: an update of a matrix is its averaged gradient with all singular values made alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..networks.embeddings import ReadOut
from ..networks.heads import Head
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

    Updates of the size of AdamW's change what a layer says by more, the more inputs it sums up. ``wider`` takes rates
    that were found on a narrower network to one of k times the width: matrices that sum over the width step by η/√k
    (their updates keep the spectral norm per root of the width), the last layer by η/k of ``others``, all others by η.

    Arguments:
        lr: η at factor 1.
        momentum: μ, in [0, 1).
        iterations: Of Newton and Schulz, at least 1.
        weight_decay: Share of a matrix removed per update, times η.
        others: AdamW for the other parameters, with its own rate.
        wider: k, the width of the network as a multiple of that whose rates these are; 1 leaves them as they are.
    Raises: ValueError if a setting is outside its range, or no matrix is left to orthogonalise.
    Invariant: ``orth`` has the vectors of U Σ Vᵀ; five iterations bring every singular value above a hundredth of the
        norm into [.68, 1.14] (``tests/train/test_muon.py``).
    Reference: Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*,
    kellerjordan.github.io/posts/muon; Liu et al. 2025, *Muon is scalable for LLM training*, arXiv 2502.16982 (size);
    Yang et al. 2023, *A spectral condition for feature learning*, arXiv 2310.17813 (width).
    """

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.95,
        iterations: int = 5,
        weight_decay: float = 0.01,
        others: AdamW = AdamW(),  # noqa: B008  (frozen)
        wider: float = 1.0,
    ):
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected a number of at least 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, expected a number in [0, 1)")
        if not 0 < wider < math.inf:
            raise ValueError(f"wider is {wider}, expected a positive multiple of a width")
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}, expected at least 1")
        self.lr, self.momentum, self.iterations = lr, momentum, iterations
        self.weight_decay, self.others, self.wider = weight_decay, others, wider

    def __call__(self, objective: nn.Module) -> Orthogonalised:
        decayed, kept = decay_groups(objective)
        first, last, summing = first_matrices(objective), last_matrices(objective), summing_matrices(objective)
        inner = [p for p in decayed if id(p) not in first | last]
        if not inner:
            raise ValueError(f"{type(objective).__name__} has no matrix inside its network for Muon; use AdamW")
        own, others = self.weight_decay, self.others
        parts = [
            ([p for p in inner if id(p) in summing], self.lr / math.sqrt(self.wider), own, True),
            ([p for p in inner if id(p) not in summing], self.lr, own, True),
            ([p for p in decayed if id(p) in last], others.lr / self.wider, others.weight_decay, False),
            ([p for p in decayed if id(p) in first - last], others.lr, others.weight_decay, False),
            (kept, others.lr, 0.0, False),
        ]
        names = ("params", "lr", "weight_decay", "orthogonal")
        groups = [dict(zip(names, part, strict=True)) for part in parts]
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


def first_matrices(module: nn.Module) -> set[int]:
    """The ids of matrices that read states and times."""
    return _ids(child for name, child in module.named_modules() if name.rpartition(".")[2] == "read")


def last_matrices(module: nn.Module) -> set[int]:
    """The ids of matrices that give predictions."""
    return _ids(layer for layer in module.modules() if isinstance(layer, ReadOut | Head))


def summing_matrices(module: nn.Module) -> set[int]:
    """The ids of matrices and filters that sum over all channels of a layer."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear) or _dense(layer))
    return _ids(layers)


def _dense(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1


def _ids(layers: Iterable[nn.Module]) -> set[int]:
    return {id(p) for layer in layers for p in layer.parameters()}
