"""How near points of a curved space are to others, by kernels of its own distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..spaces import Manifold
from ..spaces.torus import wrapped

Kernel = Callable[[Tensor, Tensor], Tensor]
PAIRS = 4000  # points of each sample whose distances are taken, at most
ROWS = 256  # of them at a time


def geodesic_kernel(space: Manifold) -> Kernel:
    r"""The matrix of :math:`k(x, y) = e^{-d(x, y)^2}` with the distance of the space, of all coordinates together."""
    return lambda x, y: torch.exp(-space.apart(x, y))


def per_angle_kernel(x: Tensor, y: Tensor) -> Tensor:
    r"""The matrix of :math:`k(x, y) = \frac1d \sum_i e^{-d(x_i, y_i)^2}` of angles taken one by one.

    Its discrepancy is the root mean square of those of the single angles, which is what tables in print show. It sees
    no dependence between angles: two samples with the same distribution of every angle have distance 0.
    """
    return torch.exp(-wrapped(x.unsqueeze(1) - y).square()).mean(-1)


def mmd(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    r"""The maximum mean discrepancy of two samples as distributions of their own: the root of the V-statistic.

    .. math:: \Big( \frac1{n^2}\sum k(x_i, x_j) - \frac2{nm}\sum k(x_i, y_j) + \frac1{m^2}\sum k(y_i, y_j)
              \Big)^{1/2}

    Of two samples of one distribution it is about :math:`\sqrt{(1 - \mathbb{E}k)(1/n + 1/m)}`, not 0.

    Reference: A. Gretton et al. 2012, A kernel two-sample test, equation 5.
    """
    mean = lambda a, b: float(torch.stack([kernel(part, b).sum() for part in a.split(ROWS)]).sum()) / len(a) / len(b)  # noqa: E731
    return max(mean(x, x) - 2 * mean(x, y) + mean(y, y), 0.0) ** 0.5


def excess(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """The square of the discrepancy without what the finite samples add; about 0 for equal distributions, and
    negative as often as not."""
    itself = lambda z: float(kernel(z[:1], z[:1]))  # noqa: E731  (k(z, z), the same for all points)
    n, m = len(x), len(y)
    mean = lambda a, b: float(torch.stack([kernel(part, b).sum() for part in a.split(ROWS)]).sum())  # noqa: E731
    within = (mean(x, x) - n * itself(x)) / (n * (n - 1)) + (mean(y, y) - m * itself(y)) / (m * (m - 1))
    return within - 2 * mean(x, y) / (n * m)
