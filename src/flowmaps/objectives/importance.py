"""Times drawn where the loss is least certain, learned in training."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from ..times import LAST, TimeLaw


class ImportanceSampled(TimeLaw):
    r"""Times drawn as often as the spread of the loss asks for, and weighted so that its mean stays the uniform one.

    .. math:: p_j = (1-\epsilon) \frac{\sigma_j}{\sum_i \sigma_i} + \frac{\epsilon}{B}, \qquad
              E_{t \sim p}\Big[\frac{L(t)}{B\, p(t)}\Big] = E_{t \sim U}[L(t)]

    σ_j is the deviation of the loss among examples within the j-th of B equal bins: of all densities it gives the mean
    of stratified draws the least variance (Neyman 1934). Independent draws would have the root of the second moment
    there, ``centred=False``. Sums fade by ``decay`` an update, are those of all processes, and lie in checkpoints.
    Within ``OnClock`` all of this is with respect to the uniform law on the clock. Pairs of times do not learn.

    Arguments:
        bins: B.
        decay: Of the sums of counts, losses and squares, per update.
        uniform: ε, the share of uniform draws, in (0, 1]: a loss is weighted by 1/ε at most.
        centred: σ about the mean of the bin instead of about 0.
    Raises: ValueError if a setting is outside its range.
    Invariant: the expectation of the weighted loss is that under uniform times, whatever was learned
        (``tests/test_importance.py``).
    Reference: Nichol and Dhariwal 2021, *Improved denoising diffusion probabilistic models*, arXiv 2102.09672 (second
    moments); Neyman 1934, *On the two different aspects of the representative method*, J. R. Stat. Soc. 97.
    """

    PRIOR = 4.0  # examples of the mean deviation that every bin is taken to have seen
    moments: Tensor
    fresh: Tensor

    def __init__(self, bins: int = 32, decay: float = 0.99, uniform: float = 0.1, centred: bool = True):
        super().__init__()
        if bins < 1 or not 0 <= decay < 1 or not 0 < uniform <= 1:
            raise ValueError(
                f"bins is {bins}, decay {decay}, uniform {uniform}; expected at least 1, a number in [0, 1), "
                "and one in (0, 1]"
            )
        self.bins, self.decay, self.uniform, self.centred = bins, decay, uniform, centred
        self.register_buffer("moments", torch.zeros(3, bins))  # of 1, L and L² in each bin
        self.register_buffer("fresh", torch.zeros(3, bins), persistent=False)  # the same since the last update

    def probabilities(self) -> Tensor:
        """Of each bin, ``(bins,)`` in float64; uniform before anything was learned."""
        n, first, second = self.moments.double()
        spread = (second - first.square() / n.clamp(min=1e-12) if self.centred else second).clamp(min=0)
        pooled = spread.sum() / n.sum().clamp(min=1e-12)
        sigma = ((spread + self.PRIOR * pooled) / (n + self.PRIOR)).sqrt()
        total = sigma.sum()
        even = torch.full_like(sigma, 1 / self.bins)
        return (1 - self.uniform) * torch.where(total > 0, sigma / total.clamp(min=1e-300), even) + self.uniform * even

    def forward(self, u: Tensor) -> Tensor:
        p = self.probabilities()
        ends = p.cumsum(0)
        j = torch.searchsorted(ends, u.double(), right=True).clamp(max=self.bins - 1)
        within = ((u - (ends - p)[j]) / p[j]).clamp(0, 1 - 1e-9)
        return ((j + within) / self.bins).to(u.dtype).clamp(max=LAST)

    def weight(self, t: Tensor) -> Tensor:
        return (1 / (self.bins * self.probabilities()))[self._bin(t)].to(t.dtype)

    @torch.no_grad()
    def learn(self, t: Tensor, loss: Tensor) -> None:
        values = torch.stack([torch.ones_like(loss), loss, loss.square()]).to(self.fresh.dtype)
        self.fresh.index_add_(1, self._bin(t), values)

    @torch.no_grad()
    def after_step(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.fresh)
        self.moments.mul_(self.decay).add_(self.fresh)
        self.fresh.zero_()

    def _bin(self, t: Tensor) -> Tensor:
        return (t * self.bins).long().clamp(0, self.bins - 1)
