"""How near samples are to the Boltzmann distribution of a molecule: weights, energies, torsions, free energies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .modes import Measure

DROPPED = 0.002  # share of the largest weights that is left out of what is reweighted
HIGHEST = 1e6  # kT above the least energy of the dynamics, at which energies are cut
TORSIONS = 4096  # points of an optimal transport
ALPHA = (-120.0, 50.0)  # ψ in degrees of the α states


def effective_sample_size(log_w: Tensor) -> float:
    r"""As a share of the samples: :math:`(\sum_i w_i)^2 / (n \sum_i w_i^2)`, 1 for equal weights."""
    w = normalised(log_w)
    return float(1 / (w.square().sum() * len(w)))


def normalised(log_w: Tensor, dropped: float = 0.0) -> Tensor:
    """Weights that sum to 1, float64 ``(n,)``.

    Arguments:
        dropped: Share of the largest that become 0.
    Raises: ValueError if none is above 0.
    """
    log_w = log_w.double().nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    if not bool((log_w > -math.inf).any()):
        raise ValueError("no sample has a finite energy, so that there are no weights; train longer")
    count = math.floor(dropped * len(log_w))
    if count and int((log_w > -math.inf).sum()) > count:
        log_w = log_w.index_fill(0, log_w.topk(count).indices, -math.inf)
    return log_w.softmax(0)


def wasserstein(x: Tensor, y: Tensor, order: int = 1, w: Tensor | None = None) -> float:
    r"""Distance of two distributions of numbers, by their quantile functions.

    .. math:: W_p = \Big(\int_0^1 |F^{-1}(q) - G^{-1}(q)|^p\, dq\Big)^{1/p}

    Arguments:
        x, y: Samples ``(n,)`` and ``(m,)``.
        order: p.
        w: Weights of x that sum to 1.
    """
    x, place = x.double().sort()
    w = torch.full_like(x, 1 / len(x)) if w is None else w.double()[place]
    y = y.double().sort().values
    own, given = w.cumsum(0).clamp(max=1.0), torch.arange(1, len(y) + 1, dtype=torch.float64) / len(y)
    edges = torch.cat([own, given]).sort().values
    middle = edges - edges.diff(prepend=edges.new_zeros(1)) / 2
    i = torch.searchsorted(own, middle).clamp(max=len(x) - 1)
    j = torch.searchsorted(given, middle).clamp(max=len(y) - 1)
    mass = edges.diff(prepend=edges.new_zeros(1))
    return float(((x[i] - y[j]).abs().pow(order) * mass).sum().pow(1 / order))


def dihedrals(x: Tensor, four: Sequence[Sequence[int]]) -> Tensor:
    """Torsions in radians from -π to π, ``(n, torsions)``, of frames ``(n, atoms, 3)`` and four atoms each."""
    a, b, c, d = (x[:, [part[k] for part in four]] for k in range(4))
    u, v, w = b - a, c - b, d - c
    n, m = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    sine = (torch.linalg.cross(n, m) * v).sum(-1) / v.norm(dim=-1).clamp(min=1e-12)
    return torch.atan2(sine, (n * m).sum(-1))


def torsion_w2(x: Tensor, y: Tensor) -> float:
    r"""Root of the exact optimal transport of angles ``(n, k)``, cost :math:`\sum \min(|d|, 2\pi - |d|)^2`."""
    import ot

    apart = (x.double().unsqueeze(1) - y.double()).abs() % (2 * math.pi)
    cost = torch.minimum(apart, 2 * math.pi - apart).square().sum(-1)
    found = ot.emd2([], [], cost.numpy(), numItermax=10**7)
    return float(found) ** 0.5  # pyright: ignore[reportArgumentType]  (one number)


def resampled(w: Tensor, n: int, seed: int = 0) -> Tensor:
    """Indices ``(n,)`` drawn by weights, systematically: each as often as its weight says, to within one."""
    start = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.searchsorted(w.cumsum(0), (start + torch.arange(n)) / n).clamp(max=len(w) - 1)


def free_energy(inside: Tensor, w: Tensor) -> float:
    r"""Of a state against all others, in kT: :math:`-\log\big(P(A) / (1 - P(A))\big)`.

    Half a sample is added to each side, without which an empty one would make it infinite.

    Arguments:
        inside: Whether a sample is in the state, bool ``(n,)``.
        w: Weights that sum to 1.
    """
    half = 0.5 * float(w.square().sum())  # half a sample of the effective number
    share = float(w[inside].sum())
    return -math.log((share + half) / (1 - share + half))


def bootstrapped(value: Callable[[Tensor], float], n: int, blocks: int | None = None, repeats: int = 50) -> Measure:
    """A number and its standard error by a bootstrap.

    Arguments:
        value: Of indices, the number.
        n: Samples.
        blocks: Neighbouring samples stay together in so many blocks: frames of dynamics.
    """
    generator, blocks = torch.Generator().manual_seed(0), blocks or n
    edges = torch.arange(blocks + 1) * n // blocks
    found = []
    for _ in range(repeats):
        drawn = torch.randint(blocks, (blocks,), generator=generator)
        if blocks == n:
            found.append(value(drawn))
        else:
            found.append(value(torch.cat([torch.arange(int(edges[k]), int(edges[k + 1])) for k in drawn.tolist()])))
    return Measure(value(torch.arange(n)), float(torch.tensor(found, dtype=torch.float64).std()))


class BoltzmannQuality:
    """Metrics of samples beside frames of dynamics.

    ``energy_w1``, ``energy_w2`` in kT and ``torsion_w2`` in radians (φ and ψ) of reweighted samples, the largest .2 %
    of the weights dropped; the same of plain samples, whose names end in ``_plain``; ``ess``, the effective sample size
    as a share; ``alpha``, the free energy of ψ from -120° to 50° against all else in kT, with its error;
    ``energy_median_plain``, how far the medians of the energies are apart.

    Arguments:
        u: Energies of frames in kT, ``(m,)``.
        torsions: Their φ and ψ in radians, ``(m, 2)``.
        points: Of an optimal transport, at most.
    """

    def __init__(self, u: Tensor, torsions: Tensor, points: int = TORSIONS):
        self.u, self.torsions, self.points = u.double(), torsions.double(), points
        self.highest = float(self.u.min()) + HIGHEST

    def __call__(self, u: Tensor, log_w: Tensor, torsions: Tensor) -> dict[str, float]:
        """Metrics of samples.

        Arguments:
            u: Energies ``(n,)``.
            log_w: Logarithms of their weights up to a constant; -inf for none.
            torsions: ``(n, 2)``.
        """
        w, cut = normalised(log_w, DROPPED), u.double().nan_to_num(nan=math.inf).clamp(max=self.highest)
        n = min(self.points, len(u), len(self.u))
        drawn = torsions[resampled(w, n)]
        free = self.alpha(torsions, normalised(log_w))
        return {
            "energy_w1": wasserstein(cut, self.u, 1, w),
            "energy_w2": wasserstein(cut, self.u, 2, w),
            "torsion_w2": self._apart(drawn),
            "ess": effective_sample_size(log_w),
            "alpha": free.value,
            "alpha_error": free.error,
            "energy_w1_plain": wasserstein(cut, self.u, 1),
            "energy_w2_plain": wasserstein(cut, self.u, 2),
            "torsion_w2_plain": self._apart(torsions[torch.arange(n) * len(u) // n]),
            "energy_median_plain": float(cut.median() - self.u.median()),
        }

    def _apart(self, torsions: Tensor) -> float:
        step = torch.arange(len(torsions)) * len(self.torsions) // len(torsions)
        return torsion_w2(torsions, self.torsions[step])

    @staticmethod
    def alpha(torsions: Tensor, w: Tensor, blocks: int | None = None) -> Measure:
        """The free energy of the α states, ψ being the second torsion."""
        psi = torsions[:, 1] * (180 / math.pi)
        inside = (psi > ALPHA[0]) & (psi < ALPHA[1])
        return bootstrapped(lambda i: free_energy(inside[i], w[i] / w[i].sum()), len(w), blocks)
