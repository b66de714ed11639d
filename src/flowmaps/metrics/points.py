"""How near points are to a distribution: to its exact density where that is known, to held-out points where not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.points import KnownDistribution
from .two_sample import energy_distance, squared_mmd

BINS = 64  # cells on a side of the histogram
PAIRS = 2000  # points of each sample whose distances are taken
REPEATS = 10  # exact samples behind the floor


@dataclass(frozen=True)
class Divergence:
    """KL of an exact density from the histogram of a sample, in nats.

    Arguments:
        kl: The estimate; for exact samples it is not 0 but the :func:`floor`.
        error: Its standard error.
    """

    kl: float
    error: float


def histogram_kl(x: Tensor, known: KnownDistribution, bins: int = BINS) -> Divergence:
    r"""KL of a known distribution from the histogram of points.

    .. math:: \sum_c p_c \log\frac{p_c}{\hat q_c}, \qquad \hat q_c = \frac{n_c + 1/2}{n + M/2}

    The sum runs over the M cells that hold mass, whose p_c is exact; points outside of them take mass from all, so
    that leakage costs -log of the share that is left. A half is added to every cell, without which one empty cell
    would make the value infinite.

    Arguments:
        x: Points ``(n, 2)``.
        known: The distribution.
        bins: Cells on a side of its square.
    """
    p = known.mass(bins)
    cell = ((x.double() + known.half_width) * (bins / (2 * known.half_width))).floor()
    cell = cell[((cell >= 0) & (cell < bins)).all(1)].long()
    held = p.flatten() > 0
    p = p.flatten()[held]
    counts = torch.bincount(cell[:, 0] * bins + cell[:, 1], minlength=bins * bins)[held].double()
    q = (counts + 0.5) / (len(x) + 0.5 * len(p))
    kl = (p * (p / q).log()).sum()
    variance = ((p.square() / q).sum() - p.sum().square()) / len(x)
    return Divergence(float(kl), float(variance.clamp(min=0).sqrt()))


def floor(known: KnownDistribution, n: int, bins: int = BINS, repeats: int = REPEATS) -> float:
    """What :func:`histogram_kl` gives on average for ``n`` exact points: no model can be asked for less."""
    values = [histogram_kl(known.sample(n, seed), known, bins).kl for seed in range(repeats)]
    return sum(values) / len(values)


class PointQuality:
    """Metrics of points.

    With a known distribution: ``kl`` with its ``kl_floor``, ``outside`` (share of points in no mode),
    ``least_mode`` (mass of the emptiest mode over what it should be: 1 for an exact sample, 0 if it is missing) and
    ``missing_modes`` (modes with less than a tenth). Always: ``energy`` and ``mmd`` against held-out points, both 0 for
    equal distributions on average; of 2,000 points each.

    Arguments:
        held_out: Points ``(m, d)`` that no training has seen.
        known: Their distribution, if it is known.
    """

    def __init__(self, held_out: Tensor, known: KnownDistribution | None = None):
        self.held_out, self.known = held_out[:PAIRS].double(), known
        self._floors: dict[int, float] = {}

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Metrics of points ``(n, d)``; the first is the headline."""
        x, deviation = x.double().cpu(), self.held_out.std(0, correction=0)
        deviation = torch.where(deviation > 0, deviation, 1.0)
        a, b = x[:PAIRS] / deviation, self.held_out / deviation
        distances = {"energy": energy_distance(a, b), "mmd": squared_mmd(a, b)}
        return distances if self.known is None else {**self._against(self.known, x), **distances}

    def _against(self, known: KnownDistribution, x: Tensor) -> dict[str, float]:
        n = len(x)
        if n not in self._floors:
            self._floors[n] = floor(known, n)
        found = histogram_kl(x, known)
        mode = known.mode(x)
        share = torch.bincount(mode[mode >= 0], minlength=known.modes).double() * (known.modes / n)
        return {
            "kl": found.kl,
            "kl_error": found.error,
            "kl_floor": self._floors[n],
            "outside": float((mode < 0).double().mean()),
            "least_mode": float(share.min()),
            "missing_modes": float((share < 0.1).sum()),
        }
