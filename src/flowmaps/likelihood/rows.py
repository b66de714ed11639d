"""Scores row by row: each a function of the row and a seed alone, with random numbers that alternatives share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..fields import Batch, Condition, parts
from ..maps import EndpointMap
from .bounds import Bound, errors_from, require_posterior
from .proposals import Proposal

PIECE = 16  # positions whose noise is drawn at one time
AHEAD = 8  # network calls whose windows are sorted by length at one time


class Window(NamedTuple):
    """What the map sees of a row at one time.

    Arguments:
        tokens: Categories ``(length,)``, int64.
        known: How many of the first are given clean and not scored.
    """

    tokens: Tensor
    known: int = 0


@dataclass(frozen=True)
class Row:
    """What has one score: a text, or an answer after its prompt.

    Arguments:
        windows: Its parts, whose bounds add up. Windows of several rows may be of any lengths.
        group: Rows of the same group see the same noise, token for token from the first that is scored.
        characters: How many characters its scored tokens spell.
    """

    windows: tuple[Window, ...]
    group: str
    characters: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens are scored."""
        return sum(len(window.tokens) - window.known for window in self.windows)


@dataclass(frozen=True)
class RowScore:
    """Bounds on -log p of one row, in nats.

    Arguments:
        row: The row.
        parts: For each bound what every point of the integral adds, float64 ``(points,)``.
    """

    row: Row
    parts: Mapping[str, Tensor]

    def nats(self, symbol: str) -> float:
        return float(self.parts[symbol].sum())

    def error(self, symbol: str) -> float:
        """Monte Carlo standard error of this row alone."""
        return spread(self.parts[symbol])

    def less(self, other: RowScore, symbol: str) -> tuple[float, float]:
        """By how many nats this bound exceeds that of another row, and the standard error of the difference.

        In one group both saw the same noise, which falls out of the difference.
        """
        difference = self.parts[symbol] - other.parts[symbol]
        return float(difference.sum()), spread(difference)


def spread(parts: Tensor) -> float:
    r"""Standard error of a sum over strata that have one draw each, from pairs of neighbours.

    .. math:: \widehat{\mathrm{Var}} = \sum_i (c_{2i} - c_{2i+1})^2

    In expectation it is at least the truth: what two neighbours differ by in the mean is counted as noise. Of an odd
    number the last two count half.
    """
    pairs = parts[: len(parts) // 2 * 2].unflatten(0, (-1, 2))
    variance = float((pairs[:, 0] - pairs[:, 1]).square().sum())
    if len(parts) % 2 and len(parts) > 1:
        variance += float((parts[-1] - parts[-2]).square() / 2)
    return math.sqrt(variance)


def number_of(*parts: object) -> int:
    """A seed that is a hash of texts and numbers."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "little") >> 1


class Scorer:
    r"""Bounds for rows of one field, a few windows at a time.

    .. math:: -\log p(\text{row}) \le \sum_{\text{windows}} \sum_j a_j\, \mathrm{CE}(u_j) + b_j\, \|e - \pi_{u_j}\|^2

    Points that bounds share are evaluated once, so B1 <= B3 holds in every row. Memory is that of ``batch`` states and
    a few windows, whatever the number of rows.

    Arguments:
        flow_map: In evaluation mode.
        bounds: The bounds; one of each symbol.
        seed: Of the random numbers; the same seed, group and bounds have the same.
        batch: States of one network call.
    Raises: ValueError if the map has no posterior.
    Invariant: a score does not depend on the other rows, nor on the batch, up to rounding
        (``tests/likelihood/test_rows.py``).
    """

    def __init__(self, flow_map: EndpointMap, bounds: Sequence[Bound], seed: int = 0, batch: int = 128):
        require_posterior(flow_map)
        if batch < 1:
            raise ValueError(f"batch is {batch}, expected at least one state")
        if len({bound.symbol for bound in bounds}) < len(bounds) or not bounds:
            raise ValueError(f"bounds are {[bound.symbol for bound in bounds]}, expected at least one, each once")
        self.flow_map, self.bounds, self.seed, self.batch = flow_map, tuple(bounds), seed, batch
        self.K = max(k for k in parts(flow_map.space.sizes()) if k)
        self.device = flow_map.device

    def __call__(self, rows: Iterable[Row]) -> Iterator[RowScore]:
        """Scores in the order of the rows, read as they are needed."""
        waiting: list[Row] = []
        windows = 0
        for row in rows:
            waiting.append(row)
            windows += len(row.windows)
            if windows >= AHEAD * self.together:
                yield from self._scores(waiting)
                waiting, windows = [], 0
        yield from self._scores(waiting)

    @property
    def together(self) -> int:
        """How many windows one network call can take with all their points."""
        draws = sum(bound.draws + 2 for bound in self.bounds)
        return max(self.batch // draws, 1)

    def _scores(self, rows: Sequence[Row]) -> Iterator[RowScore]:
        """Windows of similar lengths go together; then every row takes its own."""
        places = [(i, j) for i, row in enumerate(rows) for j in range(len(row.windows))]
        places.sort(key=lambda place: len(rows[place[0]].windows[place[1]].tokens))
        found: dict[tuple[int, int], dict[str, Tensor]] = {}
        for start in range(0, len(places), self.together):
            group = places[start : start + self.together]
            windows = [rows[i].windows[j] for i, j in group]
            seeds = [number_of(self.seed, rows[i].group, j) for i, j in group]
            found.update(zip(group, self.points(windows, seeds), strict=True))
        for i, row in enumerate(rows):
            each = [found[i, j] for j in range(len(row.windows))]
            zero = torch.zeros(1, dtype=torch.float64)
            parts = {b.symbol: sum((one[b.symbol] for one in each), zero) for b in self.bounds}
            yield RowScore(row, parts)

    @torch.no_grad()
    def points(self, windows: Sequence[Window], seeds: Sequence[int]) -> list[dict[str, Tensor]]:
        """What each point adds to each bound of a window."""
        draws = [self._draw(len(w.tokens) - w.known, seed) for w, seed in zip(windows, seeds, strict=True)]
        u = torch.stack([d.u for d in draws])
        ce, square = self._errors(windows, u, [d.noise for d in draws])
        result: list[dict[str, Tensor]] = []
        for i, draw in enumerate(draws):
            weighted = {
                symbol: a.double() * ce[i, points] + b.double() * square[i, points]
                for symbol, (points, a, b) in draw.weights.items()
            }
            result.append({symbol: value.cpu() for symbol, value in weighted.items()})
        return result

    def _draw(self, length: int, seed: int) -> Draw:
        """All random numbers of a window; that of a longer one begins with that of a shorter."""
        generator = torch.Generator(self.device).manual_seed(seed)
        pieces: list[Tensor] = []
        weights: dict[str, tuple[slice, Tensor, Tensor]] = {}
        where: dict[tuple[float, ...], slice] = {}
        uniforms = torch.rand(1, max(b.draws for b in self.bounds), generator=generator, device=self.device)
        for bound in self.bounds:
            m = bound.draws
            v = (torch.arange(m, device=self.device) + uniforms[:, :m]) / m
            u, a, b = (part[0] for part in bound.points(v, bound.end(self.flow_map)))
            key = tuple(u.tolist())
            if key not in where:
                start = sum(map(len, pieces))
                where[key] = slice(start, start + len(u))
                pieces.append(u)
            weights[bound.symbol] = where[key], a, b
        u = torch.cat(pieces)
        shape = len(u), PIECE
        noise = [self.flow_map.path.start(self.flow_map.noise(shape, generator)) for _ in range(0, length, PIECE)]
        return Draw(u, weights, torch.cat(noise, 1))

    def _errors(self, windows: Sequence[Window], u: Tensor, noise: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """CE and squared error ``(windows, points)``, ``batch`` states at a time."""
        n, m, length = len(windows), u.shape[1], max(len(window.tokens) for window in windows)
        x_1 = torch.zeros(n, length, dtype=torch.int64, device=self.device)
        mask, known = (torch.zeros(n, length, dtype=torch.bool, device=self.device) for _ in range(2))
        x_0 = noise[0].new_zeros(n, m, length, noise[0].shape[-1])
        for i, (tokens, given) in enumerate(windows):
            end = len(tokens)
            x_1[i, :end], mask[i, :end], known[i, :given] = tokens.to(self.device), True, True
            x_0[i, :, given:end] = noise[i][:, : end - given]
        ragged, prompted = not bool(mask.all()), bool(known.any())
        values: list[tuple[Tensor, Tensor]] = []
        for item in torch.arange(n * m, device=self.device).split(self.batch):
            i = item // m
            condition = Condition(mask=mask[i] if ragged else None, known=known[i] if prompted else None)
            t = u.flatten()[item] / (1 + u.flatten()[item])
            values.append(errors_from(self.flow_map, Batch(x_1[i], condition), x_0.flatten(0, 1)[item], t))
        ce, square = (torch.cat(column).double().unflatten(0, (n, m)) for column in zip(*values, strict=True))
        return ce, square


class Draw(NamedTuple):
    """The random numbers of a window.

    Arguments:
        u: Points ``(points,)`` of all bounds.
        weights: For each bound which of them are its own, and their weights on CE and the squared error.
        noise: Source points ``(points, length or more, dim)``.
    """

    u: Tensor
    weights: Mapping[str, tuple[slice, Tensor, Tensor]]
    noise: Tensor


def proposal(flow_map: EndpointMap, tokens: Tensor, U_max: float, generator: torch.Generator) -> Proposal:
    """The density of u of least variance for a map, found on examples ``(n, length)`` of any kind: bounds hold for any
    density, and the map's own samples will do."""
    require_posterior(flow_map)

    @torch.no_grad()
    def integrand(u: Tensor) -> Tensor:
        columns: list[Tensor] = []
        for point in u.to(tokens.device):
            t = (point / (1 + point)).expand(len(tokens))
            x_0 = flow_map.path.start(flow_map.noise(tuple(tokens.shape), generator))
            columns.append(point * errors_from(flow_map, Batch(tokens), x_0, t)[1])
        return torch.stack(columns, 1)

    return Proposal.fitted(integrand, U_max)
