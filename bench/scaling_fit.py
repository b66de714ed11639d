"""The fitted curve of the studies of scale: the law, its refits, and what it can know of larger trainings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

Row = dict[str, Any]
UNIT = 1e12  # operations
LEARNED = 1.40  # nats a letter: where letters tell of each other; above it curves fall by other laws


class Point(NamedTuple):
    """A measurement along a training: operations so far, loss, and the width of the network."""

    compute: float
    loss: float
    width: int


def points(rows: Sequence[Row]) -> list[Point]:
    """All measurements of the study of sizes."""
    return [Point(row["flops"] * point["updates"], point["cross_entropy"], row["width"])
            for row in of(rows, "sizes") for point in row["points"]]  # fmt: skip


def of(rows: Iterable[Row], study: str) -> list[Row]:
    return [row for row in rows if row["study"] == study]


def envelope(found: Iterable[Point]) -> list[Point]:
    """Points below ``LEARNED`` that no point of less compute reaches."""
    best: list[Point] = []
    for point in sorted(found):
        if point.loss < LEARNED and (not best or point.loss < best[-1].loss):
            best.append(point)
    return best


def power_law(C: NDArray, floor: float, a: float, b: float) -> NDArray:
    """L = L_inf + a C^-b, C in units of ``UNIT``."""
    return floor + a * C**-b


def fit(best: Sequence[Point]) -> NDArray:
    """L_inf, a and b by least squares, all positive."""
    C = np.array([point.compute for point in best]) / UNIT
    loss = np.array([point.loss for point in best])
    low, high = [0.0, 0.0, 0.01], [float(loss.min()), 10.0, 2.0]
    return curve_fit(power_law, C, loss, p0=[0.8 * loss.min(), 0.3, 0.3], bounds=(low, high), max_nfev=20_000)[0]


# -- what is known of points that were not fitted ---------------------------------------------------------------------

FEWEST = 6  # points of a fit
REACHES = ((1.0, 2.0), (2.0, 4.0), (4.0, 16.0))  # compute of a point over the most of the fit


class Misses(NamedTuple):
    """What a fit says of points that it did not have: found minus predicted, in nats.

    Arguments:
        reach: Most compute of the points over the most of the fit; below 1 they lie between or before its points.
    """

    values: list[float]
    reach: float

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.values))))


def misses(law: NDArray, others: Sequence[Point]) -> list[float]:
    return [point.loss - float(power_law(np.array(point.compute / UNIT), *law)) for point in others]


def without_a_size(found: Sequence[Point]) -> dict[int, tuple[Misses, NDArray]]:
    """For each size on the envelope: how a fit to the others' envelope misses its points, and that fit."""
    result = {}
    for width in sorted({point.width for point in envelope(found)}):
        own = [point for point in envelope(found) if point.width == width]
        others = envelope(point for point in found if point.width != width)
        law = fit(others)
        result[width] = Misses(misses(law, own), own[-1].compute / others[-1].compute), law
    return result


def forecasts(best: Sequence[Point]) -> tuple[list[Misses], list[NDArray]]:
    """Of fits to the points of least compute, for all numbers of them: misses of the rest by reach, and the fits."""
    laws: list[NDArray] = []
    by_reach: list[list[float]] = [[] for _ in REACHES]
    for n in range(FEWEST, len(best)):
        laws.append(fit(best[:n]))
        for point, miss in zip(best[n:], misses(laws[-1], best[n:]), strict=True):
            reach = point.compute / best[n - 1].compute
            for (low, high), own in zip(REACHES, by_reach, strict=True):
                if low < reach <= high:
                    own.append(miss)
    return [Misses(own, high) for (_, high), own in zip(REACHES, by_reach, strict=True)], laws


def without_floor(best: Sequence[Point]) -> NDArray:
    """L = a C^-b through the last decade, as a law whose L_inf is 0."""
    last = [point for point in best if point.compute > best[-1].compute / 10]
    slope, start = np.polyfit(np.log([p.compute / UNIT for p in last]), np.log([p.loss for p in last]), 1)
    return np.array([0.0, np.exp(start), -slope])


class Fitted(NamedTuple):
    """A fit to all but one point, and what else the same points could be taken to say.

    Arguments:
        law: The fit.
        others: Fits without one size, or in resamples of the envelope.
        other_laws: Fits without one size or to fewer points, and the law without a floor: the error of the form, too.
        best: The points of the fit.
        held: The point of most compute, which was held back.
    """

    law: NDArray
    others: list[NDArray]
    other_laws: list[NDArray]
    best: list[Point]
    held: Point

    def at(self, C: float) -> tuple[float, float, float]:
        """The law at so many operations, and the 5 and 95 % marks of the refits."""
        around = [float(power_law(np.array(C / UNIT), *law)) for law in self.others]
        low, high = np.quantile(around, [0.05, 0.95])
        return float(power_law(np.array(C / UNIT), *self.law)), float(low), float(high)

    def span(self, C: float) -> tuple[float, float]:
        """The least and the most that the other laws say."""
        said = [float(power_law(np.array(C / UNIT), *law)) for law in (self.law, *self.other_laws)]
        return min(said), max(said)


def fitted(rows: Sequence[Row]) -> Fitted:
    """The fit to all but the measurement of most compute among those of the envelope."""
    found = points(rows)
    held = envelope(found)[-1]
    rest = [point for point in found if point.compute < 0.98 * held.compute]
    best = envelope(rest)
    generator = np.random.default_rng(0)
    drawn = [sorted(generator.integers(0, len(best), len(best))) for _ in range(300)]
    samples = [[best[i] for i in chosen] for chosen in drawn if len(set(chosen)) > 4]
    samples += [envelope(p for p in rest if p.width != width) for width in {p.width for p in best}]
    others = [fit(sample) for sample in samples if len(set(sample)) > 4]
    laws = [law for _, law in without_a_size(rest).values()] + forecasts(best)[1] + [without_floor(best)]
    return Fitted(fit(best), others, laws, best, held)
