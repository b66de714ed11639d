"""Whether samples hold every kind of example that the data hold, in any modality.

Distances such as the FCD fall when a rare kind is left out and the rest is drawn well; shares by kind do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

GROUP = "modes/"  # what the names of shares begin with among the metrics of a modality


class Measure(NamedTuple):
    """A number with its standard error over samples."""

    value: float
    error: float


def share(hits: ArrayLike, of: ArrayLike = 1.0) -> Measure:
    r"""A share with an error that is not 0 even where nothing or everything is hit.

    .. math:: \hat p = \frac{\sum_i k_i}{\sum_i w_i}, \qquad
              \tilde p = \frac{2 + \sum_i k_i}{4 + \sum_i w_i}, \qquad
              e^2 = \frac{\sum_i (k_i - \tilde p w_i)^2}{(4 + \sum_i w_i)^2}

    The second sum runs over the samples and over two hits and two misses of weight 1. Without it a kind that is missing
    among a hundred samples would seem to be missing for certain.

    Arguments:
        hits: Hits of each sample, ``(n,)``: 0 or 1, or a number.
        of: How many there could be, ``(n,)``; 1 for the share of the samples, or for a mean number.
    Returns: ``nan`` with ``nan`` if there could be none.
    Reference: for weights of 1, Agresti and Coull 1998,
        *Approximate is better than "exact" for interval estimation of binomial proportions*.
    """
    k = np.asarray(hits, dtype=np.float64)
    w = np.broadcast_to(np.asarray(of, dtype=np.float64), k.shape)
    if not w.sum() > 0:
        return Measure(float("nan"), float("nan"))
    k_4, w_4 = np.append(k, [0, 0, 1, 1]), np.append(w, [1, 1, 1, 1])
    residual = k_4 - w_4 * (k_4.sum() / w_4.sum())
    return Measure(float(k.sum() / w.sum()), float((residual**2).sum() ** 0.5 / w_4.sum()))


class Mode(NamedTuple):
    """One kind of example among samples and among data.

    Arguments:
        value, error: Share of the samples and its standard error.
        data, data_error: The same of the data.
    """

    value: float
    error: float
    data: float
    data_error: float

    @property
    def z(self) -> float:
        """The difference in units of its standard error; 0 where neither has any."""
        return (self.value - self.data) / max((self.error**2 + self.data_error**2) ** 0.5, 1e-300)


def flat(found: Mapping[str, Measure]) -> dict[str, float]:
    """Shares as metrics of a modality: ``modes/NAME`` and ``modes/NAME_error``; those that are no number are left out.

    >>> flat({"aromatic": Measure(0.5, 0.1)})
    {'modes/aromatic': 0.5, 'modes/aromatic_error': 0.1}
    """
    known = {name: one for name, one in found.items() if one.value == one.value}
    return {GROUP + name + end: x for name, one in known.items() for end, x in zip(("", "_error"), one, strict=True)}


def beside(row: Mapping[str, float], data: Mapping[str, float]) -> dict[str, Mode]:
    """Every mode that the metrics of samples and those of data both have, by its name without ``modes/``."""
    names = [name for name in data if name.startswith(GROUP) and f"{name}_error" in data]
    return {
        name.removeprefix(GROUP): Mode(row[name], row[f"{name}_error"], data[name], data[f"{name}_error"])
        for name in names
        if None not in (row.get(name), row.get(f"{name}_error"), data[name], data[f"{name}_error"])
    }


def differing(found: Mapping[str, Mode], level: float = 0.01, apart: float = 0.25) -> list[str]:
    """Modes whose shares differ from the data's by more than chance and by more than a part, the largest z first.

    Arguments:
        level: Probability that chance names any of them although samples and data have one distribution (Bonferroni).
        apart: How far a share must lie from that of the data, as a part of the latter.
    """
    if not found:
        return []
    least = NormalDist().inv_cdf(1 - level / (2 * len(found)))
    named = [
        name for name, mode in found.items() if abs(mode.z) > least and abs(mode.value - mode.data) > apart * mode.data
    ]
    return sorted(named, key=lambda name: -abs(found[name].z))


def lost(found: Mapping[str, Mode], level: float = 0.01, part: float = 0.5) -> list[str]:
    """Modes that the samples hold less than ``part`` as often as the data, by more than chance: dropped modes."""
    return [name for name in differing(found, level, 1 - part) if found[name].value < found[name].data]
