"""How far two samples, or a sample and a known distribution, are apart; with the error that a finite sample leaves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..fields import Data, parts


def total_variation(samples: Data, atoms: Data, probabilities: Tensor) -> float:
    r"""Total variation between the empirical distribution of samples and an exact finite one.

    .. math:: \tfrac12 \sum_y |\hat p(y) - p(y)|

    The sum runs over all tuples, so mass outside the support counts in full. For ``n`` exact samples the
    expected value is not 0 but :func:`total_variation_floor`.

    Arguments:
        samples: Categories, int64 ``(n, *positions)`` per field.
        atoms: The support, int64 ``(m, *positions)`` per field, without repetition.
        probabilities: Its probabilities ``(m,)``.
    Raises: ValueError if samples and atoms differ in shape or the probabilities do not sum to 1.
    """
    x, y = _rows(samples), _rows(atoms)
    if x.shape[1:] != y.shape[1:] or len(y) != len(probabilities):
        raise ValueError(
            f"samples {tuple(x.shape)}, atoms {tuple(y.shape)} and probabilities "
            f"{tuple(probabilities.shape)} do not belong together; give tuples of one length"
        )
    p = probabilities.double().cpu()
    if bool((p < 0).any()) or abs(float(p.sum()) - 1) > 1e-5:
        raise ValueError(f"probabilities sum to {float(p.sum()):g}; normalise them to 1")
    distinct, place = torch.unique(torch.cat([y, x]), dim=0, return_inverse=True)
    exact = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, place[: len(y)], p)
    empirical = torch.bincount(place[len(y) :], minlength=len(distinct)).double() / len(x)
    return float((empirical - exact).abs().sum() / 2)


def total_variation_floor(probabilities: Tensor, n: int) -> float:
    r"""The expected total variation of ``n`` exact samples to their own distribution: no model can be asked for less.

    .. math:: \frac1{2n} \sum_y E|N_y - n p_y|, \quad
              E|N - np| = 2 \nu (1 - p) \tbinom{n}{\nu} p^\nu (1-p)^{n-\nu}, \;\; \nu = \lfloor np \rfloor + 1

    Reference: P. Diaconis and S. Zabell 1991, Closed form summation for classical distributions.
    """
    p = probabilities.double().cpu()
    p = p[(p > 0) & (p < 1)]
    nu, size = (n * p).floor() + 1, torch.tensor(float(n), dtype=torch.float64)
    log_binomial = (size + 1).lgamma() - (nu + 1).lgamma() - (size - nu + 1).lgamma()
    log_mass = log_binomial + nu * p.log() + (size - nu) * torch.log1p(-p)
    return float((nu * (1 - p) * log_mass.exp()).sum() / n)


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    r"""Squared 2-Wasserstein distance between two normal distributions.

    .. math:: |m_1 - m_2|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    Roots are taken by symmetric eigendecomposition in float64, so covariances may be singular.

    Reference: D. Dowson and B. Landau 1982, The Fréchet distance between multivariate normal distributions.
    """
    m, c_1, c_2 = (mean_1 - mean_2).double(), covariance_1.double(), covariance_2.double()
    values, vectors = torch.linalg.eigh(c_1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    middle = root @ c_2 @ root
    cross = torch.linalg.eigvalsh((middle + middle.mT) / 2).clamp_min(0).sqrt().sum()
    return max(float(m @ m + c_1.trace() + c_2.trace() - 2 * cross), 0.0)


def frechet(x: Tensor, y: Tensor) -> float:
    """Fréchet distance between two sets of features ``(n, d)`` and ``(m, d)``.

    It is biased upwards by about d / n, so compare only values taken with the same numbers of samples.

    Raises: ValueError if a set has fewer than two rows or the widths differ.
    """
    if min(len(x), len(y)) < 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"feature sets {tuple(x.shape)} and {tuple(y.shape)}: give two sets of one width, two rows or more each"
        )
    x, y = x.double(), y.double()
    return frechet_distance(x.mean(0), x.T.cov().reshape(x.shape[1], -1), y.mean(0), y.T.cov().reshape(y.shape[1], -1))


def gaussian_kernel(bandwidth: float) -> Callable[[Tensor, Tensor], Tensor]:
    """k(x, y) = exp(-|x - y|² / (2 bandwidth²))."""
    return lambda x, y: torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))


def squared_mmd(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor] | None = None) -> float:
    r"""Unbiased estimate of the squared maximum mean discrepancy; it may be slightly negative for equal distributions.

    .. math:: E k(x, x') - 2 E k(x, y) + E k(y, y')

    Arguments:
        x, y: Samples ``(n, ...)`` and ``(m, ...)``, at least two each.
        kernel: Matrix of k over two sets; default Gaussian with the median pooled distance as bandwidth.

    Reference: A. Gretton et al. 2012, A kernel two-sample test, lemma 6.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"samples of {len(x)} and {len(y)} rows; give at least two each")
    x, y = x.double(), y.double()
    if kernel is None:
        kernel = gaussian_kernel(float(torch.pdist(torch.cat([x, y])).median().clamp_min(1e-12)))

    def within(z: Tensor) -> Tensor:
        k = kernel(z, z)
        return (k.sum() - k.trace()) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Unbiased estimate of the energy distance; it may be slightly negative for equal distributions.

    .. math:: 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    It is 0 for equal distributions alone and has no bandwidth to choose.

    Arguments:
        x, y: Samples ``(n, d)`` and ``(m, d)``, at least two each.

    Reference: G. Székely and M. Rizzo 2013, Energy statistics: a class of statistics based on distances.
    """
    return squared_mmd(x, y, lambda a, b: -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist"))


def precision_recall(generated: Tensor, real: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of generated features within the real manifold, and of real features within the generated one.

    A manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour.

    Arguments:
        generated, real: Features ``(n, d)``, more rows than ``neighbours``.

    Reference: T. Kynkäänniemi et al. 2019, Improved precision and recall metric, arXiv 1904.06991.
    """

    def within(points: Tensor, manifold: Tensor) -> float:
        radius = torch.cdist(manifold, manifold).kthvalue(neighbours + 1, dim=1).values
        return float((torch.cdist(points, manifold) <= radius).any(dim=1).double().mean())

    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(f"{len(generated)} generated and {len(real)} real rows for {neighbours} neighbours; give more")
    return within(generated, real), within(real, generated)


def bootstrap(
    statistic: Callable[..., float], *samples: Tensor, generator: torch.Generator, repeats: int = 100
) -> float:
    """Standard error of ``statistic(*samples)`` over samples whose rows are drawn again with replacement.

    Reference: B. Efron 1979, Bootstrap methods: another look at the jackknife.
    """

    def resampled(sample: Tensor) -> Tensor:
        return sample[torch.randint(len(sample), (len(sample),), generator=generator).to(sample.device)]

    values = [statistic(*(resampled(sample) for sample in samples)) for _ in range(repeats)]
    return float(torch.tensor(values, dtype=torch.float64).std())


def _rows(data: Data) -> Tensor:
    return torch.cat([leaf.flatten(1).cpu() for leaf in parts(data)], dim=1)
